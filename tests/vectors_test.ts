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
  type FrameFormatOptions,
  type Packet,
  PacketError,
  submitFormat,
} from "@framewire/framewire/codec";
import { assert, assertEquals } from "@std/assert";
import { concat } from "@std/bytes";

type WirePacket =
  | { type: "conn" | "submit"; id: string; payload: string }
  | { type: "conn-ack" | "submit-ack"; id: string; result: number };

type WireError =
  | { class: "FrameError"; code: string; length: number; limit: number }
  | { class: "PacketError"; code: string; value: number; limit: number | null };

interface SubmitVector {
  name: string;
  dialect: Dialect;
  kind: "valid" | "invalid" | "truncated";
  maxFrameLength?: number;
  wire: string;
  packets: WirePacket[];
  error?: WireError;
}

interface FormatVector {
  name: string;
  kind: "valid" | "invalid" | "truncated";
  format: FrameFormatOptions;
  wire: string;
  contents: string[];
  frames: string[];
  error?: WireError;
}

/** What a receiver makes of a stream: what it was given, and how that ended. */
interface Outcome<T> {
  got: T[];
  error: WireError | undefined;
}

type Chunks = Uint8Array<ArrayBuffer>[];

/** Chunks to frames as hex, one of the ways that the codec has. */
type Decode = (chunks: Chunks, format: FrameFormat) => Promise<Outcome<string>>;

const submitVectors = read<{ maxFrameLength: number; vectors: SubmitVector[] }>("submit.json");
const formatVectors = read<{ defaults: FrameFormatOptions; vectors: FormatVector[] }>("formats.json");

const decoders: Record<string, Decode> = {
  FrameDecoder: (chunks, format) => {
    const decoder = new FrameDecoder(format), got: string[] = [];
    try {
      for (const chunk of chunks) got.push(...decoder.push(chunk).map(toHex));
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
      for await (const frame of frames) got.push(toHex(frame));
    } catch (error) {
      return { got, error: wireError(error) };
    }
    return { got, error: undefined };
  },

  FrameBatchStream: async (chunks, format) => {
    const got: string[] = [];
    let met: FrameError | null = null;
    for await (const batch of ReadableStream.from(chunks).pipeThrough(new FrameBatchStream(format))) {
      for (let i = 0; i < batch.count; i++) got.push(toHex(batch.frame(i)));
      met ??= batch.error;
    }
    return { got, error: met === null ? undefined : wireError(met) };
  },
};

for (const vector of submitVectors.vectors) {
  const format = submitFormat(vector.maxFrameLength ?? submitVectors.maxFrameLength);
  Deno.test(`every decoder and decodePacket() agree with vector "${vector.name}"`, async () => {
    for (const [how, frames] of decodedInEachWay(fromHex(vector.wire), format)) {
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
    assertEquals(toHex(concat(frames)), vector.wire);
  });
}

for (const vector of formatVectors.vectors) {
  const format = new FrameFormat({ ...formatVectors.defaults, ...vector.format });
  Deno.test(`every decoder agrees with format vector "${vector.name}"`, async () => {
    for (const [how, frames] of decodedInEachWay(fromHex(vector.wire), format)) {
      assertEquals(await frames, { got: vector.frames, error: vector.error }, how);
    }
  });
  if (vector.contents.length === 0) continue;
  Deno.test(`encodeFrame() makes the frames of format vector "${vector.name}" of their contents`, () => {
    const frames = concat(vector.contents.map((content) => encodeFrame(fromHex(content), format)));
    assertEquals(toHex(frames), vector.wire.slice(0, 2 * frames.length));
    if (vector.kind === "valid") assertEquals(2 * frames.length, vector.wire.length);
  });
}

for (const [decoder, decode] of Object.entries(decoders)) {
  Deno.test(`${decoder} agrees with two requests and a bad length cut in three anywhere`, async () => {
    const requests = submitVectors.vectors.find(({ name }) => name === "spec equal ids")!;
    const wire = fromHex(requests.wire + "00000003");
    const error: WireError = { class: "FrameError", code: "too-short", length: 3, limit: 4 };
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
  for (const { vectors } of [submitVectors, formatVectors]) {
    assertEquals(new Set(vectors.map(({ name }) => name)).size, vectors.length);
  }
});

Deno.test("the vectors' kinds say whether there is an error, and which", () => {
  for (const { name, kind, error } of [...submitVectors.vectors, ...formatVectors.vectors]) {
    const is = error === undefined ? "valid" : error.code === "truncated" ? "truncated" : "invalid";
    assert(kind === is, `${name}: ${kind} and ${is}`);
  }
});

/** The bytes cut in each way, through each decoder. */
function* decodedInEachWay(
  bytes: Uint8Array<ArrayBuffer>,
  format: FrameFormat,
): Generator<[how: string, frames: Promise<Outcome<string>>]> {
  for (const [cut, chunks] of twoWayCuts(bytes)) {
    for (const [decoder, decode] of Object.entries(decoders)) {
      yield [`${decoder}, ${cut}`, decode(chunks, format)];
    }
  }
}

/** The bytes whole, in two everywhere, each byte alone, and each alone between empty chunks. */
function* twoWayCuts(bytes: Uint8Array<ArrayBuffer>): Generator<[cut: string, chunks: Chunks]> {
  yield ["whole", [bytes.slice()]];
  for (let at = 0; at <= bytes.length; at++) yield [`cut at ${at}`, [bytes.slice(0, at), bytes.slice(at)]];
  const single = Array.from(bytes, (byte) => new Uint8Array([byte]));
  yield ["byte by byte", single];
  yield ["byte by byte, with empty chunks", single.flatMap((byte) => [new Uint8Array(0), byte])];
}

/** Frames to packets, up to the first error of either kind. */
function packetsOf({ got, error }: Outcome<string>, dialect: Dialect): Outcome<WirePacket> {
  const packets: WirePacket[] = [];
  for (const frame of got) {
    try {
      packets.push(toWire(decodePacket(fromHex(frame), dialect)));
    } catch (error) {
      return { got: packets, error: wireError(error) };
    }
  }
  return { got: packets, error };
}

function toWire(packet: Packet): WirePacket {
  const id = toHex(Uint8Array.from(packet.id, (char) => char.charCodeAt(0)));
  return "payload" in packet
    ? { type: packet.type, id, payload: toHex(packet.payload) }
    : { type: packet.type, id, result: packet.result };
}

function fromWire(packet: WirePacket): Packet {
  const id = String.fromCharCode(...fromHex(packet.id));
  return "payload" in packet
    ? { type: packet.type, id, payload: fromHex(packet.payload) }
    : { type: packet.type, id, result: packet.result };
}

function wireError(error: unknown): WireError {
  if (error instanceof FrameError) {
    return { class: error.name, code: error.code, length: error.length, limit: error.limit };
  }
  if (error instanceof PacketError) {
    return { class: error.name, code: error.code, value: error.value, limit: error.limit ?? null };
  }
  throw error;
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromHex(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16));
}

function read<T>(file: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(`vectors/${file}`, import.meta.url)));
}
