// The codec by itself: what a decoder and the streams cost, by format and by chunking.

import {
  encodeFrame,
  encodePacket,
  FrameBatchStream,
  FrameDecoder,
  FrameDecoderStream,
  type FrameFormatOptions,
  submitFormat,
} from "@framewire/framewire/codec";

const frameCount = 1000;
const formats: Record<string, FrameFormatOptions> = {
  "u32 counting itself": submitFormat(),
  "u16 little": { lengthFieldLength: 2, byteOrder: "little", initialBytesToStrip: 2 },
  "u64 behind 4 bytes": { lengthFieldOffset: 4, lengthFieldLength: 8 },
};

function wireOf(format: FrameFormatOptions, payloadLength: number): Uint8Array {
  const frame = encodeFrame(new Uint8Array(Math.max(payloadLength, format.lengthFieldOffset ?? 0)), format);
  const wire = new Uint8Array(frame.length * frameCount);
  for (let i = 0; i < frameCount; i++) wire.set(frame, i * frame.length);
  return wire;
}

function chunksOf(wire: Uint8Array, length: number): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < wire.length; at += length) chunks.push(wire.subarray(at, at + length));
  return chunks;
}

for (const [name, format] of Object.entries(formats)) {
  const wire = wireOf(format, 64);
  Deno.bench(`pushBatch, ${name}, 1000 frames of 64 B in one chunk`, { group: "format" }, () => {
    const { count } = new FrameDecoder(format).pushBatch(wire);
    if (count !== frameCount) throw new Error(`${count} frames`);
  });
}

for (const length of [16, 1024, 65_536]) {
  const chunks = chunksOf(wireOf(submitFormat(), 64), length);
  Deno.bench(`push, 1000 frames of 64 B in chunks of ${length} B`, { group: "chunking" }, () => {
    const decoder = new FrameDecoder(submitFormat());
    let count = 0;
    for (const chunk of chunks) count += decoder.push(chunk).length;
    if (count !== frameCount) throw new Error(`${count} frames`);
  });
}

const chunks = chunksOf(wireOf(submitFormat(), 64), 65_536);
Deno.bench("FrameDecoderStream, 1000 frames of 64 B", { group: "stream" }, async () => {
  let count = 0;
  for await (const _ of ReadableStream.from(chunks).pipeThrough(new FrameDecoderStream(submitFormat()))) {
    count++;
  }
  if (count !== frameCount) throw new Error(`${count} frames`);
});
Deno.bench("FrameBatchStream, 1000 frames of 64 B", { group: "stream" }, async () => {
  let count = 0;
  for await (const batch of ReadableStream.from(chunks).pipeThrough(new FrameBatchStream(submitFormat()))) {
    count += batch.count;
  }
  if (count !== frameCount) throw new Error(`${count} frames`);
});

const submit = { type: "submit", id: "00000001", payload: new Uint8Array(64) } as const;
const format = submitFormat();
Deno.bench("encodePacket and encodeFrame, 64 B", { group: "encode" }, () => {
  encodeFrame(encodePacket(submit), format);
});
