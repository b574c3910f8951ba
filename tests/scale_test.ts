// Ten thousand connections open at once on one server process, each answered.

import { assertEquals } from "@std/assert";
import { RawPeer, submitFrame } from "./support/peer.ts";
import { serverProgram } from "./support/program.ts";

/** What this process may have open, less what the test runner needs. */
function descriptorsLeft(): number {
  const limits = Deno.build.os === "linux" ? Deno.readTextFileSync("/proc/self/limits") : "";
  const [, hard] = /Max open files\s+\d+\s+(\d+|unlimited)/.exec(limits) ?? [, "1024"];
  return (hard === "unlimited" ? Infinity : Number(hard)) - 200;
}

const wanted = 10_000;
const count = Math.min(wanted, descriptorsLeft());

Deno.test(`server.ts answers each of ${count} connections that are open at once`, async () => {
  // The count in the name is what the descriptor limit leaves of 10 000.
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  const peers: RawPeer[] = [];
  try {
    while (peers.length < count) {
      const batch = Array.from({ length: Math.min(100, count - peers.length) }, () => RawPeer.connect(port));
      peers.push(...await Promise.all(batch));
    }
    // All are open now; each is answered, and answered again.
    for (const round of [1, 2]) {
      for (let at = 0; at < peers.length; at += 500) {
        const some = peers.slice(at, at + 500);
        await Promise.all(some.map((peer) => peer.write(submitFrame(round, "hello"))));
        const acks = await Promise.all(some.map((peer) => peer.readAcks(1)));
        assertEquals(acks.filter(([ack]) => Number(ack!.id) !== round || ack!.result !== 0), []);
      }
    }
    server.signal("SIGUSR2");
    await server.logs("}\n");
    assertEquals(JSON.parse(server.stderr.trim()).connectionsOpen, count);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
  server.signal("SIGTERM");
  assertEquals(await server.exit(), 0);
});
