// A server whose budget for incomplete frames is overrun by several connections in one turn of the loop.
// In a Worker, since what goes wrong here is an endless loop, which no timer of a test could end.

import { serve } from "../../mod.ts";
import { RawPeer, submitFrame } from "./peer.ts";
import { until } from "./wait.ts";

const scope = self as unknown as { postMessage(message: unknown): void };
const maxBufferedBytes = 400_000;

async function round(reversed: boolean): Promise<void> {
  await using server = serve({ port: 0, poison: true, maxBufferedBytes }, () => {});
  const peers = await Promise.all(Array.from({ length: 5 }, () => RawPeer.connect(server.addr.port)));
  const frame = submitFrame(1, new Uint8Array(1_000_000)),
    [big, ...small] = [peers[2]!, ...peers.toSpliced(2, 1)];
  await big.write(frame.subarray(0, 395_000));
  for (const peer of small) await peer.write(frame.subarray(0, 1000));
  await until(() => server.stats().bytesRead === 399_000, "all parts were read");
  // Each is one too many: what the others bring makes the big one go while its own bytes are on their way.
  const order = reversed ? peers.toReversed() : peers;
  const writes = order.map((peer) => peer.socket.write(frame.subarray(0, peer === big ? 20_000 : 900)));
  const start = performance.now();
  while (performance.now() - start < 5); // let the kernel deliver all of it within this turn
  await Promise.all(writes);
  await until(() => server.stats().connectionsOpen === 4, "the big one is cut");
  // What it held is given back: there is room for as much.
  await small[0]!.write(frame.subarray(1900, 300_000));
  await until(() => server.stats().bytesRead >= 300_000 + 395_000, "another takes its room");
  const { limits, connectionsOpen } = server.stats();
  for (const peer of peers) peer[Symbol.dispose]();
  if (limits.maxBufferedBytes !== 1 || connectionsOpen !== 4) {
    throw new Error(`cut ${limits.maxBufferedBytes}, ${connectionsOpen} left`);
  }
}

try {
  for (let i = 0; i < 20; i++) await round(i % 2 === 1);
  scope.postMessage("served");
} catch (error) {
  scope.postMessage(String(error));
}
