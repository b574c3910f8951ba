// Is FrameDecoderStream ever slower than what everybody writes first? Prints the ratio of the two, by case.
//
//   deno run -A bench/streams.ts [--rounds N]

import { parseArgs } from "@std/cli/parse-args";
import { encodeFrame, FrameDecoderStream } from "../codec/mod.ts";
import { median, say } from "./drive.ts";
import { TextbookDecoderStream } from "./textbook.ts";

const maxFrameLength = 32 * 1_048_576;

/** Frames of `frameLength` bytes, `total` bytes in all, cut into chunks of `chunkLength`. */
function wireOf(frameLength: number, total: number, chunkLength: number): Uint8Array[] {
  const frame = encodeFrame(new Uint8Array(frameLength - 4), { maxFrameLength });
  const count = Math.max(1, Math.floor(total / frameLength)), wire = new Uint8Array(count * frameLength);
  for (let i = 0; i < count; i++) wire.set(frame, i * frameLength);
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < wire.length; at += chunkLength) chunks.push(wire.subarray(at, at + chunkLength));
  return chunks;
}

/** Milliseconds that a decoder takes for the chunks; fails where frames are missing. */
async function time(
  chunks: readonly Uint8Array[],
  decoder: TransformStream<Uint8Array, Uint8Array>,
  frameLength: number,
): Promise<number> {
  let next = 0, frames = 0;
  const source = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (next < chunks.length) controller.enqueue(chunks[next++]!);
      else controller.close();
    },
  }, { highWaterMark: 0 });
  const start = performance.now(), reader = source.pipeThrough(decoder).getReader();
  for (let read; !(read = await reader.read()).done; frames++) {
    if (read.value.length !== frameLength) throw new Error(`a frame of ${read.value.length} bytes`);
  }
  const ms = performance.now() - start;
  const bytes = chunks.reduce((sum, { length }) => sum + length, 0);
  if (frames !== bytes / frameLength) throw new Error(`${frames} frames in ${bytes} bytes`);
  return ms;
}

async function main(): Promise<void> {
  const rounds = Number(parseArgs(Deno.args, { string: ["rounds"] }).rounds ?? 9);
  say("| frames of | chunks of | textbook, ms | FrameDecoderStream, ms | textbook : ours |");
  say("|---|---|---|---|---|");
  const cases = [16, 64, 1024, 16_384, 262_144].flatMap((frame) =>
    [64, 1024, 65_536].map((chunk) => [frame, chunk, Math.min(1_048_576, 16_384 * frame)] as const)
  );
  // Chunks that cut nearly every frame.
  const cut = [[16, 5], [64, 7], [64, 32], [64, 48], [64, 63], [256, 100]].map(([frame, chunk]) =>
    [frame!, chunk!, 131_072] as const
  );
  for (const [frame, chunk, total] of [...cases, ...cut, [16_777_216, 1024, 16_777_216] as const]) {
    const chunks = wireOf(frame, Math.min(total, chunk * 16_384), chunk);
    const textbook: number[] = [], ours: number[] = [], ratios: number[] = [];
    // The quadratic one is not asked for often.
    for (let round = 0; round <= (frame > 1_048_576 ? 1 : rounds); round++) {
      const a = await time(chunks, new TextbookDecoderStream(), frame);
      const b = await time(chunks, new FrameDecoderStream({ maxFrameLength }), frame);
      if (round === 0) continue; // the compilers had to look first
      textbook.push(a), ours.push(b), ratios.push(a / b);
    }
    const shown = [
      frame,
      chunk,
      median(textbook).toFixed(1),
      median(ours).toFixed(1),
      median(ratios).toFixed(2),
    ];
    say(`| ${shown.join(" | ")} |`);
  }
}

if (import.meta.main) main();
