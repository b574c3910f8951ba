// Do the golden vectors come out as they say, through every decoder, however their bytes are cut?

import {
  decodePacket,
  type Dialect,
  encodeFrame,
  encodePacket,
  FrameBatchStream,
  FrameDecoder,
  FrameDecoderStream,
  FrameError,
  FrameFormat,
  type Packet,
  PacketError,
  submitFormat,
} from "@framewire/framewire/codec";
import {
  chunkings,
  formatVectors,
  submitVectors,
  type VectorError,
  type VectorPacket,
} from "@framewire/framewire/testkit";
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";

/** What a receiver makes of a stream: what it was given, and how that ended. */
interface Outcome<T> {
  got: readonly T[];
  error: VectorError | undefined;
}

type Chunks = Uint8Array<ArrayBuffer>[];

/** Chunks to frames as hex, one of the ways that the codec has. */
type Decode = (chunks: Chunks, format: FrameFormat) => Promise<Outcome<string>>;

const decoders: Record<string, Decode> = {
  FrameDecoder: (chunks, format) => {
    const decoder = new FrameDecoder(format), got: string[] = [];
    try {
      for (const chunk of chunks) got.push(...decoder.push(chunk).map((frame) => frame.toHex()));
      decoder.finish();
    } catch (error) {
      return Promise.resolve({ got, error: wireError(error) });
    }
    return Promise.resolve({ got, error: undefined });
  },

  FrameDecoderStream: async (chunks, format) => {
    const got: string[] = [];
    try {
      const frames = ReadableStream.from(chunks).pipeThrough(new FrameDecoderStream(format));
      for await (const frame of frames) got.push(frame.toHex());
    } catch (error) {
      return { got, error: wireError(error) };
    }
    return { got, error: undefined };
  },

  FrameBatchStream: async (chunks, format) => {
    const got: string[] = [];
    let met: FrameError | null = null;
    for await (const batch of ReadableStream.from(chunks).pipeThrough(new FrameBatchStream(format))) {
      for (let i = 0; i < batch.count; i++) got.push(batch.frame(i).toHex());
      met ??= batch.error;
    }
    return { got, error: met === null ? undefined : wireError(met) };
  },
};

for (const vector of submitVectors) {
  const format = submitFormat(vector.maxFrameLength);
  Deno.test(`every decoder and decodePacket() agree with vector "${vector.name}"`, async () => {
    for (const [how, frames] of decodedInEachWay(Uint8Array.fromHex(vector.wire), format)) {
      assertEquals(
        packetsOf(await frames, vector.dialect),
        { got: vector.packets, error: vector.error },
        how,
      );
    }
  });
  if (vector.kind !== "valid") continue;
  Deno.test(`encodePacket() and encodeFrame() make vector "${vector.name}" of its packets`, () => {
    const frames = vector.packets.map((packet) =>
      encodeFrame(encodePacket(fromWire(packet), vector.dialect), format)
    );
    assertEquals(concat(frames).toHex(), vector.wire);
  });
}

for (const vector of formatVectors) {
  const format = new FrameFormat(vector.format);
  Deno.test(`every decoder agrees with format vector "${vector.name}"`, async () => {
    for (const [how, frames] of decodedInEachWay(Uint8Array.fromHex(vector.wire), format)) {
      assertEquals(await frames, { got: vector.frames, error: vector.error }, how);
    }
  });
  if (vector.contents.length === 0) continue;
  Deno.test(`encodeFrame() makes the frames of format vector "${vector.name}" of their contents`, () => {
    const frames = concat(vector.contents.map((content) => encodeFrame(Uint8Array.fromHex(content), format)));
    assertEquals(frames.toHex(), vector.wire.slice(0, 2 * frames.length));
    if (vector.kind === "valid") assertEquals(2 * frames.length, vector.wire.length);
  });
}

for (const [decoder, decode] of Object.entries(decoders)) {
  Deno.test(`${decoder} agrees with two requests and a bad length cut in three anywhere`, async () => {
    const requests = submitVectors.find(({ name }) => name === "spec equal ids")!;
    const wire = Uint8Array.fromHex(requests.wire + "00000003");
    const error: VectorError = { class: "FrameError", code: "too-short", length: 3, limit: 4 };
    for (let a = 0; a <= wire.length; a++) {
      for (let b = a; b <= wire.length; b++) {
        const chunks = [wire.slice(0, a), wire.slice(a, b), wire.slice(b)];
        const outcome = packetsOf(await decode(chunks, submitFormat()), "spec");
        assertEquals(outcome, { got: requests.packets, error }, `cut at ${a} and ${b}`);
      }
    }
  });
}

Deno.test("the vectors' names are unique", () => {
  for (const vectors of [submitVectors, formatVectors]) {
    assertEquals(new Set(vectors.map(({ name }) => name)).size, vectors.length);
  }
});

Deno.test("the vectors' kinds say whether there is an error, and which", () => {
  for (const { name, kind, error } of [...submitVectors, ...formatVectors]) {
    const is = error === undefined ? "valid" : error.code === "truncated" ? "truncated" : "invalid";
    assert(kind === is, `${name}: ${kind} and ${is}`);
  }
});

/** The bytes cut in each way, through each decoder. */
function* decodedInEachWay(
  bytes: Uint8Array<ArrayBuffer>,
  format: FrameFormat,
): Generator<[how: string, frames: Promise<Outcome<string>>]> {
  for (const chunks of twoWayCuts(bytes)) {
    const cut = chunks.map(({ length }) => length).join();
    for (const [decoder, decode] of Object.entries(decoders)) {
      yield [`${decoder}, ${cut}`, decode(chunks, format)];
    }
  }
}

/** The bytes whole, each byte alone, in two everywhere, and each alone between empty chunks. */
function* twoWayCuts(bytes: Uint8Array<ArrayBuffer>): Generator<Chunks> {
  yield* chunkings(bytes, { maxAll: bytes.length + 1 });
  const empty = new Uint8Array(0);
  yield [...Array.from(bytes, (byte) => [empty, new Uint8Array([byte])]).flat(), empty];
}

/** Frames to packets, up to the first error of either kind. */
function packetsOf({ got, error }: Outcome<string>, dialect: Dialect): Outcome<VectorPacket> {
  const packets: VectorPacket[] = [];
  for (const frame of got) {
    try {
      packets.push(toWire(decodePacket(Uint8Array.fromHex(frame), dialect)));
    } catch (error) {
      return { got: packets, error: wireError(error) };
    }
  }
  return { got: packets, error };
}

function toWire(packet: Packet): VectorPacket {
  const id = Uint8Array.from(packet.id, (char) => char.charCodeAt(0)).toHex();
  return "payload" in packet
    ? { type: packet.type, id, payload: packet.payload.toHex() }
    : { type: packet.type, id, result: packet.result };
}

function fromWire(packet: VectorPacket): Packet {
  const id = String.fromCharCode(...Uint8Array.fromHex(packet.id));
  return "payload" in packet
    ? { type: packet.type, id, payload: Uint8Array.fromHex(packet.payload) }
    : { type: packet.type, id, result: packet.result };
}

function wireError(error: unknown): VectorError {
  if (error instanceof FrameError) {
    return { class: error.name, code: error.code, length: error.length, limit: error.limit };
  }
  if (error instanceof PacketError) {
    return { class: error.name, code: error.code, value: error.value, limit: error.limit ?? null };
  }
  throw error;
}
