// Do the decoders agree with a slow and obvious one, whatever the format, the bytes and the cuts?

import {
  encodeFrame,
  encodeFrameInto,
  FrameBatchStream,
  FrameDecoder,
  FrameDecoderStream,
  FrameError,
  FrameFormat,
  type FrameFormatOptions,
} from "@framewire/framewire/codec";
import { assertEquals, assertThrows } from "@std/assert";
import { concat } from "@std/bytes";
import fc from "fast-check";

type Bytes = Uint8Array<ArrayBuffer>;

/** What is wrong with a stream. A length that no number holds exactly is held as the nearest one. */
interface Fault {
  code: string;
  length: number;
  limit: number;
}

interface Decoded {
  frames: Bytes[];
  fault: Fault | null;
  /** Bytes behind the last frame, where there is no fault. */
  held: number;
}

// The oracle. Everything is put together and decoded from the start each time, and all lengths are BigInts.

/** The format's limits; null where it should be refused. */
function limits(
  format: Required<FrameFormatOptions>,
): { header: bigint; shortest: bigint; longest: bigint } | null {
  const width = BigInt(format.lengthFieldLength), header = BigInt(format.lengthFieldOffset) + width;
  const adjustment = BigInt(format.lengthAdjustment), strip = BigInt(format.initialBytesToStrip);
  const greatest = width === 8n ? 2n ** 53n - 1n : 2n ** (8n * width) - 1n;
  const longest = least(BigInt(format.maxFrameLength), header + adjustment + greatest);
  const shortest = most(header, header + adjustment, strip);
  return longest < shortest ? null : { header, shortest, longest };
}

function oracle(bytes: Bytes, format: Required<FrameFormatOptions>): Decoded & { need: bigint } {
  const { header, longest } = limits(format)!;
  const { lengthFieldOffset, lengthFieldLength, byteOrder, lengthAdjustment, initialBytesToStrip } = format;
  const frames: Bytes[] = [];
  let rest = bytes, need = header;
  const result = (fault: Fault | null) => ({ frames, fault, held: fault ? 0 : rest.length, need });
  while (rest.length >= header) {
    const field = [...rest.slice(lengthFieldOffset, lengthFieldOffset + lengthFieldLength)];
    if (byteOrder === "little") field.reverse();
    const value = field.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n);
    if (value >= 2n ** 53n) return result(fault("unsafe-length", value, 2n ** 53n - 1n));
    const length = header + value + BigInt(lengthAdjustment);
    if (length > longest) return result(fault("too-long", length, longest));
    if (length < header) return result(fault("too-short", length, header));
    if (length < initialBytesToStrip) return result(fault("too-short", length, BigInt(initialBytesToStrip)));
    need = length;
    if (rest.length < length) return result(null);
    frames.push(rest.slice(initialBytesToStrip, Number(length)));
    rest = rest.slice(Number(length));
    need = header;
  }
  return result(null);
}

/** What the oracle says of a whole stream, its end included. */
function oracleToTheEnd(
  bytes: Bytes,
  format: Required<FrameFormatOptions>,
): { frames: Bytes[]; fault: Fault | null } {
  const { frames, held, need, ...rest } = oracle(bytes, format);
  return { frames, fault: rest.fault ?? (held > 0 ? fault("truncated", BigInt(held), need) : null) };
}

function fault(code: string, length: bigint, limit: bigint): Fault {
  return { code, length: Number(length), limit: Number(limit) };
}

function least(...values: bigint[]): bigint {
  return values.reduce((a, b) => a < b ? a : b);
}

function most(...values: bigint[]): bigint {
  return values.reduce((a, b) => a > b ? a : b);
}

// What is tried. Limits and adjustments are small, so that random bytes meet them.

const anyFormat: fc.Arbitrary<Required<FrameFormatOptions>> = fc.record({
  lengthFieldOffset: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 6 })),
  lengthFieldLength: fc.constantFrom(1, 2, 3, 4, 8),
  byteOrder: fc.constantFrom("big", "little"),
  lengthAdjustment: fc.oneof(
    fc.constant(0),
    fc.integer({ min: -16, max: 16 }),
    fc.integer({ min: -300, max: 300 }),
  ),
  initialBytesToStrip: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 20 })),
  maxFrameLength: fc.oneof(
    fc.integer({ min: 1, max: 64 }),
    fc.integer({ min: 200, max: 300 }),
    fc.constantFrom(1_048_576, 2 ** 32 + 3, Number.MAX_SAFE_INTEGER),
  ),
});

const validFormat = anyFormat.filter((format) => limits(format) !== null);

/** A format, and frames without their length fields that it allows. */
const formatAndContents: fc.Arbitrary<{ format: Required<FrameFormatOptions>; contents: Bytes[] }> =
  validFormat
    .map((format) => {
      const { shortest, longest } = limits(format)!, width = format.lengthFieldLength;
      return {
        format,
        min: Number(shortest) - width,
        max: Math.min(Number(longest), Number(shortest) + 40) - width,
      };
    })
    // A limit may leave no frame that could be encoded.
    .filter(({ min, max }) => min <= max)
    .chain(({ format, min, max }) =>
      fc.record({ format: fc.constant(format), contents: fc.array(someBytes(min, max), { maxLength: 8 }) })
    );

/** A format and a stream: good frames, such with bytes changed, cut off or added, or rubbish. */
const formatAndStream: fc.Arbitrary<{ format: Required<FrameFormatOptions>; stream: Bytes }> = fc.oneof(
  {
    weight: 3,
    arbitrary: formatAndContents.chain(({ format, contents }) => {
      const stream = concat(contents.map((content) => encodeFrame(content, format)));
      const at = fc.integer({ min: 0, max: Math.max(0, stream.length - 1) });
      return fc.record({
        format: fc.constant(format),
        stream: fc.record({
          changes: fc.array(fc.tuple(at, fc.nat(255)), { maxLength: 2 }),
          end: fc.oneof({ weight: 3, arbitrary: fc.constant(stream.length) }, at),
          // Zeros are lengths that are too short for many a format.
          tail: fc.oneof(fc.constant(new Uint8Array(0)), fc.constant(new Uint8Array(14)), someBytes(0, 14)),
        }).map(({ changes, end, tail }) => {
          const changed = stream.slice();
          for (const [at, byte] of changes) changed[at] = byte;
          return concat([changed.slice(0, end), tail]);
        }),
      });
    }),
  },
  fc.record({
    format: validFormat,
    // Mostly small bytes: lengths that are plausible. Else the first header ends it.
    stream: fc.array(
      fc.oneof(
        { weight: 8, arbitrary: fc.constant(0) },
        { weight: 4, arbitrary: fc.integer({ min: 1, max: 12 }) },
        fc.integer({ min: 0, max: 255 }),
      ),
      { maxLength: 120 },
    ).map((bytes) => new Uint8Array(bytes)),
  }),
  fc.record({ format: validFormat, stream: someBytes(0, 60) }),
);

/** Where to cut: the sizes of chunks, over and over; never all of them zero. */
const cuts = fc.array(fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 40 })), {
  minLength: 1,
  maxLength: 10,
}).map((sizes) => sizes.some((size) => size > 0) ? sizes : [...sizes, 1]);

function someBytes(min: number, max: number): fc.Arbitrary<Bytes> {
  return fc.uint8Array({ minLength: min, maxLength: max }) as fc.Arbitrary<Bytes>;
}

function cut(stream: Bytes, sizes: number[]): Bytes[] {
  const chunks: Bytes[] = [];
  for (let at = 0, i = 0; at < stream.length; i++) {
    const size = sizes[i % sizes.length]!;
    chunks.push(stream.slice(at, at + size));
    at += size;
  }
  return chunks;
}

function faultOf(error: unknown): Fault | null {
  if (error === null) return null;
  if (!(error instanceof FrameError)) throw error;
  return { code: error.code, length: error.length, limit: error.limit };
}

// The properties.

Deno.test("FrameFormat accepts what has a frame that could be decoded, and nothing else", () => {
  fc.assert(
    fc.property(anyFormat, (format) => {
      const expected = limits(format);
      if (expected === null) return void assertThrows(() => new FrameFormat(format), RangeError);
      const { headerLength, maxFrameLength } = new FrameFormat(format);
      assertEquals({ headerLength, maxFrameLength }, {
        headerLength: Number(expected.header),
        maxFrameLength: Number(expected.longest),
      });
    }),
    { numRuns: 10_000 },
  );
});

Deno.test("FrameDecoder.push() agrees with the oracle after every chunk", () => {
  fc.assert(
    fc.property(formatAndStream, cuts, ({ format, stream }, sizes) => {
      const decoder = new FrameDecoder(format);
      let known = 0, came = 0;
      for (const chunk of cut(stream, sizes)) {
        came += chunk.length;
        const expected = oracle(stream.slice(0, came), format);
        const fresh = expected.frames.slice(known);
        known = expected.frames.length;
        if (fresh.length === 0 && expected.fault !== null) {
          assertEquals(faultOf(assertThrows(() => decoder.push(chunk))), expected.fault);
        } else {
          assertEquals(decoder.push(chunk).map((frame) => frame.slice()), fresh);
        }
        assertEquals(faultOf(decoder.error), expected.fault);
        if (expected.fault !== null) return;
        assertEquals(decoder.bytesNeeded, Number(expected.need) - expected.held);
        chunk.fill(0xee); // nobody may look at it any more
      }
    }),
    { numRuns: 10_000 },
  );
});

Deno.test("FrameDecoder.finish() agrees with the oracle at any end", () => {
  fc.assert(
    fc.property(formatAndStream, cuts, ({ format, stream }, sizes) => {
      const { frames, fault } = oracleToTheEnd(stream, format);
      const decoder = new FrameDecoder(format), got: Uint8Array[] = [];
      let met: unknown = null;
      try {
        for (const chunk of cut(stream, sizes)) got.push(...decoder.push(chunk));
        decoder.finish();
      } catch (error) {
        met = error;
      }
      assertEquals({ frames: got, fault: faultOf(met) }, { frames, fault });
    }),
    { numRuns: 5000 },
  );
});

Deno.test("FrameDecoder.pushBatch() agrees with the oracle after every chunk", () => {
  fc.assert(
    fc.property(formatAndStream, cuts, ({ format, stream }, sizes) => {
      const decoder = new FrameDecoder(format);
      let known = 0, came = 0;
      for (const chunk of cut(stream, sizes)) {
        came += chunk.length;
        const expected = oracle(stream.slice(0, came), format);
        const batch = decoder.pushBatch(chunk);
        const got = Array.from({ length: batch.count }, (_, i) => batch.frame(i).slice());
        assertEquals(
          { frames: got, fault: faultOf(batch.error), held: batch.heldBytes },
          { frames: expected.frames.slice(known), fault: expected.fault, held: expected.held },
        );
        known = expected.frames.length;
        chunk.fill(0xee);
      }
    }),
    { numRuns: 10_000 },
  );
});

Deno.test("FrameDecoderStream agrees with the oracle, with any number of reads at once", async () => {
  await fc.assert(
    fc.asyncProperty(
      formatAndStream,
      cuts,
      fc.integer({ min: 1, max: 5 }),
      async ({ format, stream }, sizes, reads) => {
        const chunks = ReadableStream.from(cut(stream, sizes));
        const reader = chunks.pipeThrough(new FrameDecoderStream(format)).getReader();
        const got: Uint8Array[] = [];
        let met: unknown = null;
        for (let done = false; !done;) {
          for (
            const outcome of await Promise.allSettled(Array.from({ length: reads }, () => reader.read()))
          ) {
            if (outcome.status === "rejected") [met, done] = [outcome.reason, true];
            else if (outcome.value.done) done = true;
            else got.push(outcome.value.value);
          }
        }
        assertEquals({ frames: got, fault: faultOf(met) }, oracleToTheEnd(stream, format));
      },
    ),
    { numRuns: 4000 },
  );
});

Deno.test("FrameBatchStream agrees with the oracle batch by batch", async () => {
  await fc.assert(
    fc.asyncProperty(formatAndStream, cuts, async ({ format, stream }, sizes) => {
      const chunks = cut(stream, sizes);
      const got: Decoded[] = [];
      for await (const batch of ReadableStream.from(chunks).pipeThrough(new FrameBatchStream(format))) {
        const frames = Array.from({ length: batch.count }, (_, i) => batch.frame(i).slice());
        got.push({ frames, fault: faultOf(batch.error), held: batch.heldBytes });
      }
      const expected: Decoded[] = [];
      let known = 0, came = 0;
      for (const chunk of chunks) {
        came += chunk.length;
        const { frames, fault, held } = oracle(stream.slice(0, came), format);
        expected.push({ frames: frames.slice(known), fault, held });
        known = frames.length;
      }
      const { fault } = oracleToTheEnd(stream, format);
      if (fault?.code === "truncated") expected.push({ frames: [], fault, held: 0 });
      assertEquals(got, expected);
    }),
    { numRuns: 4000 },
  );
});

Deno.test("FrameDecoder.push() gives back what encodeFrame() made, less what is stripped", () => {
  fc.assert(
    fc.property(formatAndContents, cuts, ({ format, contents }, sizes) => {
      const frames = contents.map((content) => encodeFrame(content, format));
      const decoder = new FrameDecoder(format);
      const got = cut(concat(frames), sizes).flatMap((chunk) => decoder.push(chunk));
      decoder.finish();
      assertEquals(got, frames.map((frame) => frame.slice(format.initialBytesToStrip)));
    }),
    { numRuns: 5000 },
  );
});

Deno.test("encodeFrame() inserts the length field and nothing else", () => {
  fc.assert(
    fc.property(formatAndContents, ({ format, contents }) => {
      const { lengthFieldOffset: at, lengthFieldLength: width } = format;
      for (const content of contents) {
        const frame = encodeFrame(content, format);
        assertEquals(concat([frame.slice(0, at), frame.slice(at + width)]), content);
      }
    }),
    { numRuns: 4000 },
  );
});

Deno.test("encodeFrame() refuses exactly the lengths that the format does not allow", () => {
  fc.assert(
    fc.property(validFormat, fc.integer({ min: 0, max: 320 }), (format, length) => {
      const { shortest, longest } = limits(format)!, frameLength = BigInt(length + format.lengthFieldLength);
      const expected = frameLength > longest
        ? fault("too-long", frameLength, longest)
        : frameLength < shortest
        ? fault("too-short", frameLength, shortest)
        : null;
      let met: unknown = null;
      try {
        encodeFrame(new Uint8Array(length), format);
      } catch (error) {
        met = error;
      }
      assertEquals(faultOf(met), expected);
    }),
    { numRuns: 5000 },
  );
});

Deno.test("encodeFrameInto() writes what encodeFrame() makes, or nothing", () => {
  fc.assert(
    fc.property(
      formatAndContents,
      fc.integer({ min: 0, max: 20 }),
      fc.integer({ min: 0, max: 400 }),
      ({ format, contents }, at, size) => {
        const content = contents[0] ?? new Uint8Array(0), target = new Uint8Array(size).fill(0xee);
        const expected = target.slice();
        try {
          const frame = encodeFrame(content, format);
          if (at + frame.length <= size) expected.set(frame, at);
          assertEquals(encodeFrameInto(content, target, at, format), at + frame.length);
        } catch (error) {
          if (!(error instanceof FrameError || error instanceof RangeError)) throw error;
        }
        assertEquals(target, expected);
      },
    ),
    { numRuns: 4000 },
  );
});
