// FIN and RST at every stage of a connection, and other bad days of a server: what is promised, and that nobody else
// is harmed. docs/reliability.md is the table of it.

import { assertEquals, assertGreaterOrEqual } from "@std/assert";
import type { Socket } from "node:net";
import { serve } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { idOf, joined, RawPeer, request, reset, resettable, submitFrame } from "./support/peer.ts";
import { until, within } from "./support/wait.ts";

/** What the peer has sent when it goes, and why its connection is then no more. */
const stages: { name: string; sent: Uint8Array[]; fin: string; slow?: boolean; draining?: boolean }[] = [
  { name: "before CONN", sent: [], fin: "ended" },
  { name: "in a header", sent: [submitFrame(1).subarray(0, 3)], fin: "truncated" },
  { name: "right behind a header", sent: [submitFrame(1).subarray(0, 4)], fin: "truncated" },
  { name: "in a body", sent: [submitFrame(1, "hello").subarray(0, 15)], fin: "truncated" },
  { name: "behind CONN", sent: [request(0x01, idOf(1), "name")], fin: "ended" },
  { name: "with requests in flight", sent: [submitFrame(1), submitFrame(2)], fin: "ended", slow: true },
  { name: "during drain", sent: [submitFrame(1)], fin: "shutdown", slow: true, draining: true },
];

for (const how of ["FIN", "RST"] as const) {
  for (const { name, sent, fin, slow = false, draining = false } of stages) {
    Deno.test(`serve() ends one connection and no other when a ${how} comes ${name}`, async () => {
      const events = new ServerEvents(), gate = Promise.withResolvers<void>();
      await using server = serve({ port: 0, poison: true, onEvent: events.record }, ({ payload }) => {
        return slow && payload.length === 0 ? gate.promise : undefined;
      });
      const { port } = server.addr, bytes = joined(...sent);
      const socket = await resettable(port);
      await events.next("opened");
      using other = await RawPeer.connect(port);
      await other.write(submitFrame(1, "other"));
      await other.readAcks(1);
      if (bytes.length > 0) socket.write(bytes);
      await until(() => server.stats().bytesRead >= bytes.length + 18, "it is read");
      const requests = slow ? sent.length : 0;
      await until(() => server.stats().inFlight === requests, "its handlers run");
      const stopped = draining ? server.shutdown() : null;
      if (draining) await events.next("draining");

      if (how === "FIN") await ended(socket, () => gate.resolve());
      else await reset(socket);
      gate.resolve();

      const { code } = await events.closed(1);
      assertEquals(code, how === "FIN" ? fin : "reset");
      if (stopped === null) {
        await other.write(submitFrame(2, "other"));
        assertEquals((await other.readAcks(1))[0]!.result, 0);
      } else {
        other[Symbol.dispose]();
        await within(stopped, "the server has stopped");
      }
      assertEquals(server.stats().inFlight, 0);
    });
  }
}

/** Half-closes, lets the answers come, reads them all, and waits until the socket is gone. */
async function ended(socket: Socket, answer: () => void): Promise<void> {
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  socket.resume();
  socket.end();
  answer();
  await within(closed, "the socket is gone");
}

Deno.test("serve() answers each of many requests with equal ids", async () => {
  let seen = 0;
  await using server = serve({ port: 0, poison: true }, async () => {
    const result = seen++;
    await Promise.resolve();
    return result;
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...Array.from({ length: 100 }, () => submitFrame(7))));
  const acks = await peer.readAcks(100);
  assertEquals(new Set(acks.map(({ id }) => id)), new Set([idOf(7)]));
  assertEquals(new Set(acks.map(({ result }) => result)).size, 100);
});

Deno.test("serve() expires nothing that was on time when a handler blocks the event loop for a second", async () => {
  const limits = { handlerTimeoutMs: 400, frameTimeoutMs: 400, idleTimeoutMs: 400, writeTimeoutMs: 400 };
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record, ...limits }, ({ payload }) => {
    if (payload.length === 0) return Promise.resolve();
    for (const end = performance.now() + 1000; performance.now() < end;);
    return 7;
  });
  const { port } = server.addr;
  using blocking = await RawPeer.connect(port);
  using halfway = await RawPeer.connect(port);
  using idle = await RawPeer.connect(port);
  await idle.write(submitFrame(1));
  await idle.readAcks(1);
  const frame = submitFrame(1);
  await halfway.write(frame.subarray(0, 6));
  await until(() => server.stats().bytesRead >= 13 + 6, "half a frame is read");
  await blocking.write(submitFrame(1, "block"));
  // What comes while the loop stands still was on time.
  await halfway.write(frame.subarray(6));
  assertEquals((await blocking.readAcks(1))[0]!.result, 7);
  assertEquals((await halfway.readAcks(1))[0]!.result, 0);
  await idle.write(submitFrame(2));
  assertEquals((await idle.readAcks(1))[0]!.result, 0);
  assertEquals(events.types.filter((type) => type === "closed" || type === "limit"), []);
});

Deno.test("serve() holds no more than was sent when many headers promise 4 GiB or nearly the limit", async () => {
  await using server = serve({ port: 0, poison: true }, () => {});
  const { port } = server.addr;
  const { external: before } = Deno.memoryUsage();
  const peers = await Promise.all(Array.from({ length: 200 }, () => RawPeer.connect(port)));
  try {
    await Promise.all(peers.map((peer) => peer.write(new Uint8Array([0x00, 0x0f, 0xff, 0xff, 2]))));
    await until(() => server.stats().bytesRead === 5 * peers.length, "all headers are read");
    // 200 promises of a mebibyte each, and 1000 bytes sent.
    assertGreaterOrEqual(20 * 1_048_576, Deno.memoryUsage().external - before);
    using liar = await RawPeer.connect(port);
    await liar.write(new Uint8Array([0xff, 0xff, 0xff, 0xff]));
    assertEquals((await liar.readToEnd()).length, 0);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});
