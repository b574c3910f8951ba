// The edges of frames: where a length is allowed, what an error says, whose bytes a frame has.

import {
  encodeFrame,
  encodeFrameInto,
  type FrameBatch,
  FrameBatchStream,
  FrameDecoder,
  FrameError,
  FrameFormat,
  type FrameFormatOptions,
  type FrameLender,
  type FrameMemory,
} from "@framewire/framewire/codec";
import { chunkings } from "@framewire/framewire/testkit";
import {
  assert,
  assertEquals,
  assertLess,
  assertNotEquals,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { concat } from "@std/bytes";

const maxSafe = Number.MAX_SAFE_INTEGER;
/** The length says the whole frame, and is stripped. */
const counting = { lengthAdjustment: -4, initialBytesToStrip: 4 } as const;

// What a length may say.

const allowed: [name: string, format: FrameFormatOptions, header: string, bytesNeeded: number][] = [
  ["the default limit", {}, "000ffffc", 1_048_572],
  ["a limit of its own", { maxFrameLength: 10 }, "00000006", 6],
  ["a limit that the length counts", { ...counting, maxFrameLength: 10 }, "0000000a", 6],
  ["one byte at its greatest", { lengthFieldLength: 1 }, "ff", 255],
  ["two bytes at their greatest", { lengthFieldLength: 2 }, "ffff", 65_535],
  ["three bytes at their greatest", { lengthFieldLength: 3, maxFrameLength: maxSafe }, "ffffff", 0xffffff],
  ["four bytes above 2^31", { maxFrameLength: maxSafe }, "80000000", 0x80000000],
  ["four bytes at their greatest", { maxFrameLength: maxSafe }, "ffffffff", 0xffffffff],
  [
    "four little bytes at their greatest",
    { byteOrder: "little", maxFrameLength: maxSafe },
    "ffffffff",
    0xffffffff,
  ],
  [
    "eight bytes above 2^32",
    { lengthFieldLength: 8, maxFrameLength: maxSafe },
    "0000000100000002",
    2 ** 32 + 2,
  ],
  [
    "eight bytes that say 2^53-1 in all",
    { lengthFieldLength: 8, lengthAdjustment: -8, maxFrameLength: maxSafe },
    "001fffffffffffff",
    maxSafe - 8,
  ],
  [
    "eight little bytes that say 2^53-1 in all",
    { lengthFieldLength: 8, byteOrder: "little", lengthAdjustment: -8, maxFrameLength: maxSafe },
    "ffffffffffff1f00",
    maxSafe - 8,
  ],
  [
    "eight bytes whose sum with the header is 2^53-1",
    { lengthFieldLength: 8, maxFrameLength: maxSafe },
    "001ffffffffffff7",
    maxSafe - 8,
  ],
];

for (const [name, format, header, bytesNeeded] of allowed) {
  Deno.test(`FrameDecoder.push() accepts a length at ${name}`, () => {
    const decoder = new FrameDecoder(format);
    assertEquals(decoder.push(hex(header)), []);
    assertEquals(decoder.bytesNeeded, bytesNeeded);
  });
}

const refused: [name: string, format: FrameFormatOptions, header: string, expected: Expected][] = [
  ["one above the default limit", {}, "000ffffd", tooLong(1_048_577, 1_048_576)],
  ["one above a limit of its own", { maxFrameLength: 10 }, "00000007", tooLong(11, 10)],
  ["one above a limit that it counts", { ...counting, maxFrameLength: 10 }, "0000000b", tooLong(11, 10)],
  [
    "one above what strip and adjustment allow",
    { lengthFieldLength: 2, lengthFieldOffset: 1, lengthAdjustment: 2, maxFrameLength: 9 },
    "000005",
    tooLong(10, 9),
  ],
  ["0x7fffffff", {}, "7fffffff", tooLong(0x7fffffff + 4, 1_048_576)],
  ["0x80000000, no negative number", {}, "80000000", tooLong(0x80000000 + 4, 1_048_576)],
  [
    "little 0x80000000, no negative number",
    { byteOrder: "little" },
    "00000080",
    tooLong(0x80000004, 1_048_576),
  ],
  // Sums with the header, or with the adjustment, that would wrap in 32 bits.
  ...Array.from({ length: 10 }, (_, i): typeof refused[number] => {
    const value = 0xfffffff6 + i;
    return [`0x${value.toString(16)}`, {}, value.toString(16), tooLong(value + 4, 1_048_576)];
  }),
  ...Array.from({ length: 10 }, (_, i): typeof refused[number] => {
    const value = 0xfffffff6 + i;
    return [
      `0x${value.toString(16)} that counts itself`,
      counting,
      value.toString(16),
      tooLong(value, 1_048_576),
    ];
  }),
  ["0, below itself", counting, "00000000", tooShort(0, 4)],
  ["1, below itself", counting, "00000001", tooShort(1, 4)],
  ["3, below itself", counting, "00000003", tooShort(3, 4)],
  ["a number below zero", { lengthAdjustment: -10 }, "00000001", tooShort(-5, 4)],
  [
    "less than the bytes before it",
    { lengthFieldOffset: 2, lengthAdjustment: -6 },
    "a1a200000005",
    tooShort(5, 6),
  ],
  ["less than what is stripped", { lengthFieldLength: 1, initialBytesToStrip: 3 }, "01", tooShort(2, 3)],
  [
    "less than its header, which is more than what is stripped",
    { ...counting, initialBytesToStrip: 2 },
    "00000001",
    tooShort(1, 4),
  ],
  [
    "2^53-1 without room for the header",
    { lengthFieldLength: 8, maxFrameLength: maxSafe },
    "001fffffffffffff",
    // 2^53+7 is no double: the number is the nearest one.
    tooLong(2 ** 53 + 8, maxSafe),
  ],
  [
    "2^53-1 above a limit",
    { lengthFieldLength: 8, lengthAdjustment: -8 },
    "001fffffffffffff",
    tooLong(maxSafe, 1_048_576),
  ],
  ...[
    ["2^53", "0020000000000000", "9007199254740992"],
    ["2^53+1", "0020000000000001", "9007199254740992"],
    ["2^63-1", "7fffffffffffffff", "9223372036854776000"],
    ["2^63", "8000000000000000", "9223372036854776000"],
    ["2^64-1", "ffffffffffffffff", "18446744073709552000"],
  ].flatMap(([name, big, about]): typeof refused => {
    const format = { lengthFieldLength: 8, lengthAdjustment: -8, maxFrameLength: maxSafe } as const;
    const expected: Expected = {
      code: "unsafe-length",
      length: Number(about),
      limit: maxSafe,
      message: `Cannot decode frame: its length field says about ${about}, above 2^53-1`,
    };
    const little = toHex(hex(big!).reverse());
    return [
      [`${name} in eight bytes`, format, big!, expected],
      [`${name} in eight little bytes`, { ...format, byteOrder: "little" }, little, expected],
      // An adjustment that would take it down to something harmless does not make it exact.
      [`${name} in eight bytes, adjusted`, { ...format, lengthAdjustment: -(2 ** 52) }, big!, expected],
    ];
  }),
];

for (const [name, format, header, expected] of refused) {
  Deno.test(`FrameDecoder.push() throws at once for a length of ${name}`, () => {
    assertFrameError(() => new FrameDecoder(format).push(hex(header)), expected);
  });

  Deno.test(`FrameDecoder.push() throws at the last byte of a length of ${name}`, () => {
    const decoder = new FrameDecoder(format), bytes = hex(header);
    for (const byte of bytes.subarray(0, -1)) assertEquals(decoder.push(new Uint8Array([byte])), []);
    assertFrameError(() => decoder.push(bytes.subarray(-1)), expected);
  });
}

// Frames that are nothing but header.

Deno.test("FrameDecoder.push() gives the header where the body is empty", () => {
  assertEquals(new FrameDecoder().push(hex("00000000")), [hex("00000000")]);
});

Deno.test("FrameDecoder.push() gives an empty frame where the body is empty and the header stripped", () => {
  assertEquals(new FrameDecoder({ initialBytesToStrip: 4 }).push(hex("00000000")), [hex("")]);
});

Deno.test("FrameDecoder.push() gives an empty frame where the header came in single bytes", () => {
  const decoder = new FrameDecoder(counting);
  const frames = [0, 0, 0, 4].map((byte) => decoder.push(new Uint8Array([byte])));
  assertEquals(frames, [[], [], [], [hex("")]]);
});

Deno.test("FrameDecoder.push() gives every one of many empty frames", () => {
  const decoder = new FrameDecoder(counting);
  assertEquals(decoder.push(hex("00000004".repeat(1000))), new Array(1000).fill(hex("")));
});

Deno.test("FrameDecoder.push() gives nothing for no bytes, also in mid-frame", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  assertEquals(decoder.push(hex("")), []);
  decoder.push(hex("02a1"));
  assertEquals(decoder.push(hex("")), []);
  assertEquals(decoder.push(hex("a2")), [hex("02a1a2")]);
});

Deno.test("FrameDecoder.push() gives a frame exactly at the limit, straddling too", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 4 });
  assertEquals(decoder.push(hex("03a1a2a3 03b1")), [hex("03a1a2a3")]);
  assertEquals(decoder.push(hex("b2b3")), [hex("03b1b2b3")]);
});

// What is missing.

const streams: [
  name: string,
  format: FrameFormatOptions,
  wire: string,
  headers: number,
  lengths: number[],
][] = [
  ["counting lengths of four bytes", counting, "00000007a1a2a3 00000004 00000006b1b2", 4, [7, 4, 6]],
  ["lengths of one byte", { lengthFieldLength: 1 }, "03a1a2a3 00 01b1", 1, [4, 1, 2]],
  [
    "lengths behind other bytes and adjusted",
    {
      lengthFieldOffset: 2,
      lengthFieldLength: 2,
      byteOrder: "little",
      lengthAdjustment: 1,
      maxFrameLength: 8,
    },
    "cafe0100a1a2 cafe0000b1 cafe0300c1c2c3c4",
    4,
    [6, 5, 8],
  ],
  [
    "lengths of eight bytes",
    { lengthFieldLength: 8, initialBytesToStrip: 9 },
    "0000000000000003a1a2a3 0000000000000001b1",
    8,
    [11, 9],
  ],
];

for (const [name, format, wire, header, lengths] of streams) {
  const bytes = hex(wire);
  for (const [how, chunksOf] of [["in one chunk", whole], ["byte by byte", singly]] as const) {
    Deno.test(`FrameDecoder.bytesNeeded is right at every prefix of ${name} ${how}`, () => {
      for (let prefix = 0; prefix <= bytes.length; prefix++) {
        const decoder = new FrameDecoder(format);
        for (const chunk of chunksOf(bytes.subarray(0, prefix))) decoder.push(chunk);
        const [had, length] = position(prefix, lengths);
        assertEquals(decoder.bytesNeeded, (had < header ? header : length) - had, `after ${prefix} bytes`);
      }
    });

    Deno.test(`FrameDecoder.finish() throws at the right prefixes of ${name} ${how}`, () => {
      for (let prefix = 0; prefix <= bytes.length; prefix++) {
        const decoder = new FrameDecoder(format);
        for (const chunk of chunksOf(bytes.subarray(0, prefix))) decoder.push(chunk);
        const [had, length] = position(prefix, lengths);
        if (had === 0) decoder.finish();
        else {assertFrameError(() =>
            decoder.finish(), had < header ? cut(had, header, true) : cut(had, length));}
      }
    });
  }
}

Deno.test("FrameDecoder.finish() throws when only a header arrived", () => {
  const decoder = new FrameDecoder();
  decoder.push(hex("00000005"));
  assertFrameError(() => decoder.finish(), cut(4, 9));
});

Deno.test("FrameDecoder.finish() throws the same error again, and push() throws it too", () => {
  const decoder = new FrameDecoder();
  decoder.push(hex("0000"));
  const error = assertThrows(() => decoder.finish(), FrameError);
  assertStrictEquals(assertThrows(() => decoder.finish(), FrameError), error);
  assertStrictEquals(assertThrows(() => decoder.push(hex("00")), FrameError), error);
  assertStrictEquals(decoder.error, error);
});

Deno.test("FrameDecoder.finish() does not throw where nothing came", () => {
  new FrameDecoder().finish();
});

// Good frames before a bad one.

Deno.test("FrameDecoder.push() returns the good frames before a bad one, then throws", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  assertEquals(decoder.push(hex("01a1 02b1b2 03 01c1")), [hex("01a1"), hex("02b1b2")]);
  assertFrameError(() => decoder.push(hex("01d1")), tooLong(4, 3));
});

Deno.test("FrameDecoder.error is set at once where good frames come before a bad one", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  assertEquals(decoder.error, null);
  decoder.push(hex("01a1 03"));
  assertEquals(decoder.error?.code, "too-long");
});

Deno.test("FrameDecoder.push() returns a straddling frame before a bad one", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  assertEquals(decoder.push(hex("02a1")), []);
  assertEquals(decoder.push(hex("a2 03")), [hex("02a1a2")]);
  assertEquals(decoder.error?.code, "too-long");
});

Deno.test("FrameDecoder.push() and finish() throw the same error ever after", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  decoder.push(hex("01a1 03"));
  const { error } = decoder;
  for (const chunk of [hex("01a1"), hex(""), hex("03")]) {
    assertStrictEquals(assertThrows(() => decoder.push(chunk), FrameError), error);
  }
  assertStrictEquals(assertThrows(() => decoder.finish(), FrameError), error);
});

Deno.test("FrameDecoder.pushBatch() gives the good frames and the error in one batch", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  const batch = decoder.pushBatch(hex("01a1 02b1b2 03"));
  assertEquals(framesOf(batch), [hex("01a1"), hex("02b1b2")]);
  assertStrictEquals(batch.error, decoder.error);
  assertEquals(batch.error?.code, "too-long");
});

Deno.test("FrameDecoder.pushBatch() ignores what follows an error", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, maxFrameLength: 3 });
  const { error } = decoder.pushBatch(hex("03"));
  const batch = decoder.pushBatch(hex("01a1 01"));
  assertEquals([batch.count, batch.heldBytes], [0, 0]);
  assertStrictEquals(batch.error, error);
});

// Batches.

Deno.test("FrameDecoder.pushBatch() says where each frame lies", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1, initialBytesToStrip: 1 });
  decoder.pushBatch(hex("02a1"));
  // A chunk that does not begin where its buffer does.
  const chunk = hex("ffff a2 01b1 00").subarray(2), batch = decoder.pushBatch(chunk);
  assertEquals(framesOf(batch), [hex("a1a2"), hex("b1"), hex("")]);
  assertNotEquals(batch.bytesOf(0).buffer, chunk.buffer);
  assertEquals([1, 2].map((i) => [batch.startOf(i), batch.endOf(i)]), [[2, 3], [4, 4]]);
  for (let i = 0; i < batch.count; i++) {
    const bytes = batch.bytesOf(i), view = batch.viewOf(i);
    if (i > 0) assertStrictEquals(bytes, chunk);
    assertStrictEquals(view.buffer, bytes.buffer);
    assertEquals([view.byteOffset, view.byteLength], [bytes.byteOffset, bytes.byteLength]);
    assertEquals(bytes.subarray(batch.startOf(i), batch.endOf(i)), batch.frame(i));
  }
});

Deno.test("FrameDecoder.pushBatch() fills the same batch again", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  const batch = decoder.pushBatch(hex("01a1"));
  assertStrictEquals(decoder.pushBatch(hex("00")), batch);
  assertEquals(framesOf(batch), [hex("00")]);
});

Deno.test("FrameDecoder.pushBatch() says the bytes it holds back", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 2 });
  const held = ["00", "03", "a1a2", "", "a3", "0001b1 0002c1", "c2 0001d1"].map((chunk) =>
    decoder.pushBatch(hex(chunk)).heldBytes
  );
  assertEquals(held, [1, 2, 4, 4, 0, 3, 0]);
});

Deno.test("FrameDecoder.pushBatch() keeps frames apart in bursts of any size", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  // Around the number of offsets that are kept between chunks, down and up.
  for (const count of [1023, 1024, 1025, 3000, 1, 1026, 2]) {
    const bytes = concat(Array.from({ length: count }, (_, i) => new Uint8Array([1, i % 251])));
    const batch = decoder.pushBatch(bytes);
    assertEquals(batch.count, count);
    for (let i = 0; i < count; i++) assertEquals(batch.frame(i)[1], i % 251);
  }
});

// Whose bytes a frame has.

Deno.test("FrameDecoder.push() gives frames within a chunk as views of it", () => {
  const chunk = hex("01a1 02b1b2");
  const [first, second] = new FrameDecoder({ lengthFieldLength: 1 }).push(chunk);
  assertStrictEquals(first!.buffer, chunk.buffer);
  assertStrictEquals(second!.buffer, chunk.buffer);
  chunk.fill(0xee);
  assertEquals(second, hex("eeeeee"));
});

Deno.test("FrameDecoder.push() gives the frames behind a straddling one as views of the chunk", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  decoder.push(hex("02a1"));
  const chunk = hex("a2 01b1"), [straddling, within] = decoder.push(chunk);
  assert(straddling!.buffer !== chunk.buffer);
  assertStrictEquals(within!.buffer, chunk.buffer);
});

Deno.test("FrameDecoder.push() keeps the bytes of a straddling frame when its chunks are overwritten", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 2 });
  const kept: Uint8Array[] = [];
  // One buffer for all chunks, as a socket's reader would have; cut in the header and in the body.
  const buffer = new Uint8Array(3), wire = hex("0003a1a2a3 0002b1b2 0004c1c2c3c4 0000 0001d1");
  for (let at = 0; at < wire.length; at += buffer.length) {
    buffer.fill(0xee);
    const chunk = buffer.subarray(0, Math.min(3, wire.length - at));
    chunk.set(wire.subarray(at, at + 3));
    const frames = decoder.push(chunk);
    kept.push(...frames.map((frame) => frame.buffer === buffer.buffer ? frame.slice() : frame));
  }
  decoder.finish();
  assertEquals(kept, ["0003a1a2a3", "0002b1b2", "0004c1c2c3c4", "0000", "0001d1"].map(hex));
});

Deno.test("FrameDecoder.push() gives each straddling frame bytes of its own", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 });
  decoder.push(hex("02a1"));
  const [first] = decoder.push(hex("a2 02b1")), [second] = decoder.push(hex("b2"));
  assert(first!.buffer !== second!.buffer);
  second!.fill(0xee);
  assertEquals(first, hex("02a1a2"));
});

Deno.test("FrameDecoder.push() never looks at a chunk again once it has returned", () => {
  const decoder = new FrameDecoder({ lengthFieldLength: 1 }), chunk = hex("00 03a1");
  decoder.push(chunk);
  chunk.fill(0xee);
  assertEquals(decoder.push(hex("a2a3")), [hex("03a1a2a3")]);
});

// Memory.

/** Lends more than is asked for, spoils what comes back, and fails where that was not on loan. */
class Lender implements FrameLender {
  readonly lent = new Set<FrameMemory>();

  lease(length: number): FrameMemory {
    const bytes = new Uint8Array(length + 5).fill(0xee), loan = { bytes, view: new DataView(bytes.buffer) };
    this.lent.add(loan);
    return loan;
  }

  release(loan: FrameMemory): void {
    assert(this.lent.delete(loan), "it was not on loan");
    loan.bytes.fill(0xdb);
  }
}

Deno.test("FrameDecoder.pushBatch() gathers straddling frames in loans, which go back with clear()", () => {
  const format = { lengthFieldLength: 2, initialBytesToStrip: 1 } as const;
  const bodies = [1, 0, 7, 300, 2, 0, 40].map((length, i) => new Uint8Array(length).fill(i + 1));
  const frames = bodies.map((body) => encodeFrame(body, format));
  const expected = frames.map((frame) => frame.subarray(1));
  let straddled = 0;
  for (const chunks of chunkings(concat(frames), { maxAll: 600, random: { seed: 7, count: 200 } })) {
    const lender = new Lender(), decoder = new FrameDecoder(format, lender), seen: Uint8Array[] = [];
    for (const chunk of chunks) {
      const batch = decoder.pushBatch(chunk);
      seen.push(...framesOf(batch).map((frame) => frame.slice()));
      const own = batch.count > 0 && batch.bytesOf(0) !== chunk ? 1 : 0;
      assertEquals([lender.lent.size, batch.loan !== null], [own + (batch.heldBytes > 0 ? 1 : 0), own === 1]);
      straddled += own;
      batch.clear();
      assertEquals([lender.lent.size, batch.loan], [batch.heldBytes > 0 ? 1 : 0, null]);
    }
    decoder.finish();
    assertEquals(seen, expected);
    assertEquals(lender.lent.size, 0);
  }
  assert(straddled > 500);
});

Deno.test("FrameDecoder.pushBatch() finds the same frames in chunks that come with a view of more", () => {
  const format = { lengthFieldLength: 2, lengthFieldOffset: 1, initialBytesToStrip: 1 } as const;
  const bodies = [4, 0, 30, 1].map((length, i) => new Uint8Array(1 + length).fill(i + 1));
  const frames = bodies.map((body) => encodeFrame(body, format));
  const memory = new Uint8Array(200), view = new DataView(memory.buffer);
  for (const chunks of chunkings(concat(frames), { maxAll: 600, random: { seed: 7, count: 100 } })) {
    const decoder = new FrameDecoder(format), seen: Uint8Array[] = [];
    for (const chunk of chunks) {
      memory.fill(0); // which are headers of empty frames, behind the chunk
      memory.set(chunk);
      const batch = decoder.pushBatch({ bytes: memory.subarray(0, chunk.length), view });
      seen.push(...framesOf(batch).map((frame) => frame.slice()));
      for (let i = 0; i < batch.count; i++) {
        assertEquals(batch.viewOf(i).getUint8(batch.startOf(i)), batch.frame(i)[0]);
      }
      batch.clear();
    }
    decoder.finish();
    assertEquals(seen, frames.map((frame) => frame.subarray(1)));
  }
});

for (
  const [how, end] of Object.entries<(decoder: FrameDecoder) => void>({
    "the next header is bad": (decoder) => {
      decoder.pushBatch(hex("a4 00")).clear();
      assertEquals(decoder.pushBatch(hex("ff")).error?.code, "too-long");
    },
    "the stream ends there": (decoder) => assertThrows(() => decoder.finish(), FrameError),
    "it is discarded": (decoder) => decoder.discard(),
  })
) {
  Deno.test(`FrameDecoder gives back what it gathers in when ${how}`, () => {
    const lender = new Lender();
    const decoder = new FrameDecoder({ lengthFieldLength: 2, maxFrameLength: 8 }, lender);
    decoder.pushBatch(hex("0004a1a2a3")).clear();
    assertEquals(lender.lent.size, 1);
    end(decoder);
    assertEquals(lender.lent.size, 0);
  });
}

Deno.test("FrameBatchStream gives back what it gathers in when its readable side is cancelled", async () => {
  const lender = new Lender();
  const { writable, readable } = new FrameBatchStream({ lengthFieldLength: 1 }, { highWaterMark: 1 }, lender);
  const writer = writable.getWriter(), reader = readable.getReader();
  await writer.write(hex("01a1 04b1b2"));
  const { value } = await reader.read();
  assertEquals([value!.count, lender.lent.size], [1, 1]);
  await reader.cancel();
  assertEquals(lender.lent.size, 0);
});

const gib = 1 << 30;

Deno.test("FrameDecoder buys no memory for a length that is only announced", () => {
  // A header of 1 GiB each, and ten bytes of body: a decoder that believed it would have a terabyte now.
  const decoders = Array.from({ length: 1000 }, () => new FrameDecoder({ maxFrameLength: gib }));
  const grown = growth(() => {
    for (const decoder of decoders) assertEquals(decoder.push(hex("3ffffff0 00010203040506070809")), []);
  });
  assertEquals(decoders.map((decoder) => decoder.bytesNeeded), new Array(1000).fill(0x3ffffff0 - 10));
  assertLess(grown, 64 << 20);
});

Deno.test("FrameDecoder buys no memory for an announced length that came byte by byte", () => {
  const decoders = Array.from({ length: 1000 }, () => new FrameDecoder({ maxFrameLength: gib }));
  const grown = growth(() => {
    for (const decoder of decoders) {
      for (const byte of hex("3ffffff0 00010203040506070809")) decoder.push(new Uint8Array([byte]));
    }
  });
  assertEquals(decoders.map((decoder) => decoder.bytesNeeded), new Array(1000).fill(0x3ffffff0 - 10));
  assertLess(grown, 64 << 20);
});

Deno.test("FrameDecoder holds no more than in proportion to what was received", () => {
  // 100 decoders that each got 64 KiB of an announced 1 GiB, in 64 chunks.
  const decoders = Array.from({ length: 100 }, () => new FrameDecoder({ maxFrameLength: gib }));
  const chunk = new Uint8Array(1024);
  const grown = growth(() => {
    for (const decoder of decoders) {
      decoder.push(hex("3ffffff0"));
      for (let i = 0; i < 64; i++) decoder.push(chunk);
    }
  });
  // 6.4 MB came. Doubling buys as much again, and what it left behind may not have been collected.
  assertLess(grown, 6 * 100 * 65_536);
  assertEquals(decoders[99]!.bytesNeeded, 0x3ffffff0 - 65_536);
});

Deno.test("FrameDecoder.push() puts a frame of 16 MiB together from chunks of 1 KiB", () => {
  const length = 16 << 20, format = { maxFrameLength: length + 4, initialBytesToStrip: 4 };
  const body = new Uint8Array(length);
  // A period that no power of two divides: a chunk in the wrong place is seen.
  for (let i = 0; i < length; i++) body[i] = i % 251;
  const wire = encodeFrame(body, format), decoder = new FrameDecoder(format);
  const frames: Uint8Array[] = [];
  for (let at = 0; at < wire.length; at += 1024) frames.push(...decoder.push(wire.subarray(at, at + 1024)));
  decoder.finish();
  assertEquals(frames.length, 1);
  assertEquals(frames[0]!.length, length);
  assert(frames[0]!.every((byte, i) => byte === i % 251));
});

// Formats.

Deno.test("FrameFormat has the documented defaults", () => {
  assertEquals({ ...new FrameFormat() }, {
    lengthFieldOffset: 0,
    lengthFieldLength: 4,
    byteOrder: "big",
    lengthAdjustment: 0,
    initialBytesToStrip: 0,
    maxFrameLength: 1_048_576,
    headerLength: 4,
  });
});

const invalid: [options: Record<string, unknown>, message: string][] = [
  [{ lengthFieldOffset: -1 }, "lengthFieldOffset must be a safe integer of at least 0, and is -1"],
  [{ lengthFieldOffset: 1.5 }, "lengthFieldOffset must be a safe integer of at least 0, and is 1.5"],
  [{ lengthFieldOffset: NaN }, "lengthFieldOffset must be a safe integer of at least 0, and is NaN"],
  [
    { lengthFieldOffset: 2 ** 53 },
    "lengthFieldOffset must be a safe integer of at least 0, and is 9007199254740992",
  ],
  [{ lengthFieldLength: 0 }, "lengthFieldLength must be 1, 2, 3, 4 or 8, and is 0"],
  [{ lengthFieldLength: 5 }, "lengthFieldLength must be 1, 2, 3, 4 or 8, and is 5"],
  [{ lengthFieldLength: 16 }, "lengthFieldLength must be 1, 2, 3, 4 or 8, and is 16"],
  [{ lengthFieldLength: -4 }, "lengthFieldLength must be 1, 2, 3, 4 or 8, and is -4"],
  [{ byteOrder: "middle" }, 'byteOrder must be "big" or "little", and is "middle"'],
  [{ byteOrder: "BIG" }, 'byteOrder must be "big" or "little", and is "BIG"'],
  [{ lengthAdjustment: 0.5 }, "lengthAdjustment must be a safe integer, and is 0.5"],
  [{ lengthAdjustment: -Infinity }, "lengthAdjustment must be a safe integer, and is -Infinity"],
  [{ initialBytesToStrip: -1 }, "initialBytesToStrip must be a safe integer of at least 0, and is -1"],
  [
    { initialBytesToStrip: 11, maxFrameLength: 10 },
    "initialBytesToStrip must be at most maxFrameLength 10, and is 11",
  ],
  [
    { initialBytesToStrip: 257, lengthFieldLength: 1 },
    "initialBytesToStrip must be at most maxFrameLength 256, and is 257",
  ],
  [{ maxFrameLength: 0 }, "maxFrameLength must be a safe integer of at least 1, and is 0"],
  [{ maxFrameLength: -5 }, "maxFrameLength must be a safe integer of at least 1, and is -5"],
  [{ maxFrameLength: Infinity }, "maxFrameLength must be a safe integer of at least 1, and is Infinity"],
  [{ maxFrameLength: "64" }, "maxFrameLength must be a safe integer of at least 1, and is 64"],
  [
    { maxFrameLength: 3 },
    "maxFrameLength must be at least the 4 bytes of the shortest frame, and is 3",
  ],
  [
    { lengthFieldOffset: 7, lengthFieldLength: 2, maxFrameLength: 8 },
    "maxFrameLength must be at least the 9 bytes of the shortest frame, and is 8",
  ],
];

for (const [options, message] of invalid) {
  Deno.test(`FrameFormat refuses ${Deno.inspect(options)}`, () => {
    const error = assertThrows(() => new FrameFormat(options as FrameFormatOptions), RangeError);
    assertEquals(error.message, `Cannot make a frame format: ${message}`);
  });
}

Deno.test("FrameFormat names the adjustment where it is that which leaves no length to say", () => {
  // One byte says at most 255: with 256 less no frame is as long as the byte itself.
  const options = { lengthFieldLength: 1, lengthAdjustment: -256 } as const;
  const error = assertThrows(() => new FrameFormat(options), RangeError);
  assertStringIncludes(error.message, "lengthAdjustment");
  assertStringIncludes(error.message, "-256");
});

for (
  const [name, make] of Object.entries({
    "FrameDecoder": (format: FrameFormatOptions) => new FrameDecoder(format),
    "encodeFrame()": (format: FrameFormatOptions) => encodeFrame(new Uint8Array(0), format),
    "encodeFrameInto()": (format: FrameFormatOptions) =>
      encodeFrameInto(new Uint8Array(0), new Uint8Array(9), 0, format),
    "FrameFormat.from()": (format: FrameFormatOptions) => FrameFormat.from(format),
  })
) {
  Deno.test(`${name} validates plain options`, () => {
    assertThrows(() => make({ maxFrameLength: 0 }), RangeError, "maxFrameLength");
  });
}

const clipped: [format: FrameFormatOptions, maxFrameLength: number][] = [
  // The greatest field value, 255, plus the adjustment, plus the byte of the field itself.
  [{ lengthFieldLength: 1, lengthAdjustment: -1 }, 255],
  [{ lengthFieldLength: 1 }, 256],
  [{ lengthFieldLength: 1, lengthAdjustment: 1 }, 257],
  [{ lengthFieldLength: 1, lengthFieldOffset: 5 }, 261],
  [{ lengthFieldLength: 2 }, 65_537],
  [{ lengthFieldLength: 2, lengthAdjustment: -2 }, 65_535],
  [{ lengthFieldLength: 3 }, 1_048_576],
  [{ lengthFieldLength: 3, maxFrameLength: maxSafe }, 16_777_218],
  [{ lengthFieldLength: 4, maxFrameLength: maxSafe }, 4_294_967_299],
  [{ lengthFieldLength: 8, maxFrameLength: maxSafe }, maxSafe],
  [{ lengthFieldLength: 8, lengthAdjustment: -9, maxFrameLength: maxSafe }, maxSafe - 1],
  [{ lengthFieldLength: 1, maxFrameLength: 255 }, 255],
  [{ lengthFieldLength: 1, maxFrameLength: 256 }, 256],
  [{ lengthFieldLength: 1, maxFrameLength: 257 }, 256],
];

for (const [options, maxFrameLength] of clipped) {
  Deno.test(`FrameFormat clips maxFrameLength to ${maxFrameLength} for ${Deno.inspect(options)}`, () => {
    assertEquals(new FrameFormat(options).maxFrameLength, maxFrameLength);
  });
}

for (const lengthAdjustment of [-1, 0, 1]) {
  const format = new FrameFormat({ lengthFieldLength: 1, lengthAdjustment });
  const longest = 255 + lengthAdjustment;

  Deno.test(`encodeFrame() says 255 for the longest frame of a byte adjusted by ${lengthAdjustment}`, () => {
    const wire = encodeFrame(new Uint8Array(longest), format);
    assertEquals([wire.length, wire[0]], [longest + 1, 255]);
    assertEquals(new FrameDecoder(format).push(wire), [wire]);
  });

  Deno.test(`encodeFrame() refuses more than a byte adjusted by ${lengthAdjustment} can say`, () => {
    const body = new Uint8Array(longest + 1);
    assertFrameError(() => encodeFrame(body, format), tooLong(longest + 2, longest + 1, "encode"));
  });
}

Deno.test("FrameFormat cannot be changed", () => {
  const format = new FrameFormat();
  assertThrows(() => Object.assign(format, { maxFrameLength: 1 }), TypeError);
});

Deno.test("FrameFormat does not follow its options", () => {
  const options = { maxFrameLength: 10 }, format = new FrameFormat(options);
  options.maxFrameLength = 20;
  assertEquals(format.maxFrameLength, 10);
});

Deno.test("FrameFormat.from() gives a format back as it is", () => {
  const format = new FrameFormat();
  assertStrictEquals(FrameFormat.from(format), format);
  assertStrictEquals(new FrameDecoder(format).format, format);
});

for (const lengthFieldLength of [1, 2, 3, 4, 8] as const) {
  for (const byteOrder of ["big", "little"] as const) {
    Deno.test(`FrameFormat.writeField() writes ${lengthFieldLength} ${byteOrder} bytes and no other`, () => {
      const format = new FrameFormat({ lengthFieldLength, byteOrder });
      const greatest = lengthFieldLength === 8 ? maxSafe : 2 ** (8 * lengthFieldLength) - 1;
      for (
        const value of [
          0,
          1,
          0x80,
          0xff,
          0x0102,
          0x8001,
          0x010203,
          0x81020304,
          0x0102030405,
          2 ** 32,
          5 * 2 ** 32,
          greatest,
        ]
      ) {
        if (value > greatest) continue;
        const target = new Uint8Array(lengthFieldLength + 4).fill(0xee);
        format.writeField(new DataView(target.buffer, 1), 1, value);
        // Base 256 by BigInt, the slow way.
        const field = new Uint8Array(lengthFieldLength);
        for (let i = lengthFieldLength - 1, rest = BigInt(value); i >= 0; i--, rest >>= 8n) {
          field[i] = Number(rest & 255n);
        }
        if (byteOrder === "little") field.reverse();
        assertEquals(target, concat([hex("eeee"), field, hex("eeee")]), `${value}`);
      }
    });
  }
}

// Encoding.

const layouts: [name: string, format: FrameFormatOptions, content: string, wire: string, frame: string][] = [
  ["no content", {}, "", "00000000", "00000000"],
  ["a length that counts itself", counting, "a1a2", "00000006a1a2", "a1a2"],
  ["three little bytes", { lengthFieldLength: 3, byteOrder: "little" }, "a1", "010000a1", "010000a1"],
  [
    "a length behind two bytes",
    { lengthFieldOffset: 2, lengthFieldLength: 1 },
    "cafea1",
    "cafe01a1",
    "cafe01a1",
  ],
  [
    "a length behind two bytes and nothing behind it",
    { lengthFieldOffset: 2, lengthFieldLength: 1 },
    "cafe",
    "cafe00",
    "cafe00",
  ],
  [
    "a length in the middle of a header",
    { lengthFieldOffset: 1, lengthFieldLength: 2, lengthAdjustment: 1 },
    "cafea1a2",
    "ca0002fea1a2",
    "ca0002fea1a2",
  ],
  [
    "more stripped than the header",
    { lengthFieldLength: 1, initialBytesToStrip: 3 },
    "a1a2a3",
    "03a1a2a3",
    "a3",
  ],
  ["all stripped", { lengthFieldLength: 1, initialBytesToStrip: 3 }, "a1a2", "02a1a2", ""],
  [
    "less stripped than the header",
    { lengthFieldOffset: 1, lengthFieldLength: 2, initialBytesToStrip: 2 },
    "cafe",
    "ca0001fe",
    "01fe",
  ],
  [
    "a length far from what it counts",
    { lengthFieldLength: 2, lengthAdjustment: -300 },
    "a1",
    "012da1",
    "012da1",
  ],
];

for (const [name, format, content, wire, frame] of layouts) {
  Deno.test(`encodeFrame() puts the length in its place with ${name}`, () => {
    assertEquals(encodeFrame(hex(content), format), hex(wire));
  });

  Deno.test(`FrameDecoder.push() gives the frame less what is stripped with ${name}`, () => {
    assertEquals(new FrameDecoder(format).push(hex(wire + wire)), [hex(frame), hex(frame)]);
  });

  Deno.test(`FrameDecoder.push() strips a straddling frame alike with ${name}`, () => {
    const decoder = new FrameDecoder(format);
    assertEquals(singly(hex(wire)).flatMap((byte) => decoder.push(byte)), [hex(frame)]);
  });
}

Deno.test("encodeFrame() gives a copy", () => {
  const bytes = hex("a1a2"), frame = encodeFrame(bytes);
  bytes.fill(0xee);
  assertEquals(frame, hex("00000002a1a2"));
});

Deno.test("encodeFrame() takes a view that does not begin where its buffer does", () => {
  assertEquals(encodeFrame(hex("ffffa1a2ff").subarray(2, 4)), hex("00000002a1a2"));
});

Deno.test("encodeFrame() makes a frame exactly at the limit", () => {
  assertEquals(encodeFrame(hex("a1a2a3"), { maxFrameLength: 7 }), hex("00000003a1a2a3"));
});

const unencodable: [name: string, format: FrameFormatOptions, content: string, expected: Expected][] = [
  ["above the limit", { maxFrameLength: 7 }, "a1a2a3a4", tooLong(8, 7, "encode")],
  [
    "shorter than lengthFieldOffset",
    { lengthFieldOffset: 3, lengthFieldLength: 2 },
    "a1a2",
    tooShort(4, 5, "encode"),
  ],
  ["empty with a length behind other bytes", { lengthFieldOffset: 3 }, "", tooShort(4, 7, "encode")],
  ["for which the length would be below zero", { lengthAdjustment: 5 }, "a1a2a3a4", tooShort(8, 9, "encode")],
  ["shorter than what is stripped", { initialBytesToStrip: 8 }, "a1a2a3", tooShort(7, 8, "encode")],
];

for (const [name, format, content, expected] of unencodable) {
  Deno.test(`encodeFrame() refuses a frame ${name}`, () => {
    assertFrameError(() => encodeFrame(hex(content), format), expected);
  });

  Deno.test(`encodeFrameInto() leaves its target untouched where it refuses a frame ${name}`, () => {
    const target = new Uint8Array(32).fill(0xee);
    assertFrameError(() => encodeFrameInto(hex(content), target, 3, format), expected);
    assertEquals(target, new Uint8Array(32).fill(0xee));
  });
}

Deno.test("encodeFrameInto() writes what encodeFrame() makes, and nothing else", () => {
  for (const [name, format, content, wire] of layouts) {
    // A target that does not begin where its buffer does.
    const buffer = new Uint8Array(40).fill(0xee), target = buffer.subarray(5, 35);
    const end = encodeFrameInto(hex(content), target, 4, format);
    assertEquals(end, 4 + hex(wire).length, name);
    const expected = new Uint8Array(40).fill(0xee);
    expected.set(hex(wire), 9);
    assertEquals(buffer, expected, name);
  }
});

Deno.test("encodeFrameInto() fills a target to its end", () => {
  const target = new Uint8Array(9);
  assertEquals(encodeFrameInto(hex("a1a2"), target, 3), 9);
  assertEquals(target, hex("000000 00000002a1a2"));
});

for (const at of [4, 9, 10, 1000, -1, -1000, NaN]) {
  Deno.test(`encodeFrameInto() throws for a frame of 6 bytes at ${at} of 9, and writes nothing`, () => {
    const target = new Uint8Array(9).fill(0xee);
    const error = assertThrows(() => encodeFrameInto(hex("a1a2"), target, at), RangeError);
    assertEquals(error.message, `Cannot encode frame: its 6 bytes do not fit at ${at} of a target of 9`);
    assertEquals(target, new Uint8Array(9).fill(0xee));
  });
}

// Helpers.

interface Expected {
  code: FrameError["code"];
  length: number;
  limit: number;
  message: string;
}

function tooLong(length: number, limit: number, action = "decode"): Expected {
  const message = `Cannot ${action} frame: its length ${length} exceeds maxFrameLength ${limit}`;
  return { code: "too-long", length, limit, message };
}

function tooShort(length: number, limit: number, action = "decode"): Expected {
  const message =
    `Cannot ${action} frame: its length ${length} is below the ${limit} bytes of its fixed part`;
  return { code: "too-short", length, limit, message };
}

function cut(had: number, need: number, inHeader = false): Expected {
  const part = inHeader ? " of its header" : "";
  const message = `Cannot decode frame: the stream ended after ${had} of ${need} bytes${part}`;
  return { code: "truncated", length: had, limit: need, message };
}

function assertFrameError(fn: () => unknown, expected: Expected): void {
  const { name, code, length, limit, message } = assertThrows(fn, FrameError);
  assertEquals({ name, code, length, limit, message }, { name: "FrameError", ...expected });
}

/** How many bytes of which frame's length came with the first `prefix` bytes. */
function position(prefix: number, lengths: number[]): [had: number, length: number] {
  let had = prefix;
  for (const length of lengths) {
    if (had < length) return [had, length];
    had -= length;
  }
  return [had, 0];
}

function framesOf(batch: FrameBatch): Uint8Array[] {
  return Array.from({ length: batch.count }, (_, i) => batch.frame(i));
}

/** By how many bytes the memory of buffers grew. */
function growth(work: () => void): number {
  const before = Deno.memoryUsage().external;
  work();
  return Deno.memoryUsage().external - before;
}

function whole(bytes: Uint8Array): Uint8Array[] {
  return [bytes];
}

function singly(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (byte) => new Uint8Array([byte]));
}

function hex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/[^ ]{2}/g) ?? [], (byte) => parseInt(byte, 16));
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
