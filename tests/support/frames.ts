// Frames of any content for the raw peer, taken apart by hand: four bytes of length that count themselves,
// and a body.

import { joined, type RawPeer } from "./peer.ts";
import { turn } from "./turn.ts";

/** How our side is told of these frames. */
export const selfCounting = { lengthFieldLength: 4, lengthAdjustment: -4, initialBytesToStrip: 4 } as const;

/** The bodies of the frames that lie back to back in `bytes`; fails where they are not whole. */
export function bodiesIn(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), bodies: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = bytes.length - at < 4 ? 0 : view.getUint32(at);
    if (length < 4 || length > bytes.length - at) {
      throw new Error(`no whole frame at byte ${at} of ${bytes.length}: length ${length}`);
    }
    bodies.push(bytes.subarray(at + 4, at + length));
    at += length;
  }
  return bodies;
}

/** Reads to the end in reads of at most `size` bytes, with a pause after each 16 of them. */
export async function readSlowly({ socket }: RawPeer, size: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let reads = 1;; reads++) {
    const buffer = new Uint8Array(size), count = await socket.read(buffer);
    if (count === null) return joined(...chunks);
    chunks.push(buffer.subarray(0, count));
    if (reads % 16 === 0) await turn();
  }
}
