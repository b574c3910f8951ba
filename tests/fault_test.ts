// FIN and RST at every stage of a connection, and other bad days of a server: what is promised, and that nobody else
// is harmed. docs/reliability.md is the table of it.

import { assertEquals, assertGreaterOrEqual, assertInstanceOf, assertLess } from "@std/assert";
import { duplex, type FrameConnection, LimitError } from "../mod.ts";
import { Wire } from "../testkit/mod.ts";
import { serve, serveConnections, serveFrames } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { idOf, joined, RawPeer, request, submitFrame } from "./support/peer.ts";
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
      await using wire = await Wire.connect({ port });
      await events.next("opened");
      using other = await RawPeer.connect(port);
      await other.write(submitFrame(1, "other"));
      await other.readAcks(1);
      await wire.send(bytes);
      await until(() => server.stats().bytesRead >= bytes.length + 18, "it is read");
      const requests = slow ? sent.length : 0;
      await until(() => server.stats().inFlight === requests, "its handlers run");
      const stopped = draining ? server.shutdown() : null;
      if (draining) await events.next("draining");

      if (how === "FIN") wire.fin();
      else wire.reset();
      gate.resolve();
      if (how === "FIN") assertEquals((await wire.readToEnd({ timeoutMs: 10_000 })).end, "fin");

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

/** Resolves when the signal is aborted. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

Deno.test("submit.signal is aborted also for requests that are handed out after the reset", async () => {
  const events = new ServerEvents(), reasons: string[] = [];
  await using server = serve(
    { port: 0, poison: true, maxInFlight: 2, onEvent: events.record },
    async (submit) => {
      await aborted(submit.signal);
      reasons.push((submit.signal.reason as Error).name);
    },
  );
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(joined(...[1, 2, 3, 4, 5, 6, 7, 8].map((serial) => submitFrame(serial))));
  await until(() => server.stats().inFlight === 2, "two handlers run");
  wire.reset();
  assertEquals((await events.closed(1)).code, "reset");
  await until(() => reasons.length === server.stats().handled, "all handlers have settled");
  assertEquals(new Set(reasons), new Set(["ConnectionReset"]));
  assertEquals([server.stats().answered, server.stats().cut], [0, server.stats().handled]);
});

Deno.test("serveFrames() ends a reset connection whose handlers settle after it", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, maxInFlight: 2, onEvent: events.record };
  let settled = 0;
  await using server = serveFrames(options, async (_frame, peer) => {
    await aborted(peer.signal);
    await new Promise((resolve) => setTimeout(resolve, 5));
    settled++;
    return null;
  });
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(new Uint8Array([0, 0, 0, 1, 1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 3, 0, 0, 0, 1, 4]));
  await until(() => server.stats().inFlight === 2, "two handlers run");
  wire.reset();
  assertEquals((await events.closed(1)).code, "reset");
  await until(() => settled === server.stats().handled, "all handlers have settled");
});

Deno.test("serve() calls no handler after the one that cut the server", async () => {
  const control = new AbortController();
  let calls = 0;
  const server = serve({ port: 0, poison: true, signal: control.signal }, () => {
    if (++calls === 1) control.abort(new Error("enough"));
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...Array.from({ length: 50 }, (_, i) => submitFrame(i))));
  await within(server.finished, "the server is cut");
  assertEquals([calls, server.stats().answered], [1, 0]);
});

Deno.test("peer.close() lets an answer be written although half a frame is held past its time", async () => {
  const gate = Promise.withResolvers<void>(), closing = Promise.withResolvers<void>();
  await using server = serve({ port: 0, poison: true, frameTimeoutMs: 50 }, async (_submit, peer) => {
    peer.close();
    closing.resolve();
    await gate.promise;
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(submitFrame(1), submitFrame(2).subarray(0, 2)));
  await within(closing.promise, "the handler closes");
  await new Promise((resolve) => setTimeout(resolve, 300)); // many times what a frame may take
  gate.resolve();
  assertEquals((await peer.readAcksToEnd()).map(({ id }) => id), [idOf(1)]);
});

Deno.test("Server.shutdown() waits also for a connection that waits for a place", async () => {
  const options = {
    port: 0,
    poison: true,
    maxConnections: 1,
    whenFull: "wait",
    drainTimeoutMs: 500,
  } as const;
  const server = serve(options, () => {});
  using first = await RawPeer.connect(server.addr.port);
  await until(() => server.stats().connectionsOpen === 1, "the first is served");
  using _second = await RawPeer.connect(server.addr.port);
  await until(() => server.stats().connectionsAccepted === 2, "the second waits");
  const stopped = server.shutdown();
  first[Symbol.dispose]();
  await within(stopped, "the server has stopped");
  assertEquals(server.stats().connectionsOpen, 0);
});

Deno.test("connection.frames fails when the connection is cut for a limit in mid-frame", async () => {
  const failed = Promise.withResolvers<unknown>();
  await using server = serveConnections({ port: 0, poison: true, frameTimeoutMs: 50 }, async (connection) => {
    try {
      await Array.fromAsync(connection.frames);
      failed.resolve("a clean end");
    } catch (error) {
      failed.resolve(error);
    }
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(new Uint8Array([0, 0, 0, 9, 1]));
  assertInstanceOf(await within(failed.promise, "the end of the frames"), LimitError);
});

Deno.test("maxBufferedBytes comes to an end where cutting one connection cuts another", async () => {
  const connections: FrameConnection[] = [];
  const options = { port: 0, poison: true, maxBufferedBytes: 1000 };
  await using server = serveConnections(options, async (connection) => {
    connections.push(connection);
    // A bridge: where one side goes, the other goes.
    connection.signal.addEventListener("abort", () => connections.forEach((each) => each.abort()));
    await Array.fromAsync(connection.frames).catch(() => {});
  });
  using small = await RawPeer.connect(server.addr.port);
  using large = await RawPeer.connect(server.addr.port);
  await small.write(new Uint8Array([0, 0, 4, 0, 1]));
  await until(() => server.stats().bytesRead === 5, "the small one is held");
  await large.write(new Uint8Array([0, 1, 0, 0, ...new Uint8Array(1900)]));
  await until(() => server.stats().connectionsOpen === 0, "both are gone");
  assertEquals(server.stats().limits.maxBufferedBytes, 1);
});

Deno.test("duplex() closes the socket when its writable is aborted during a blocked write", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { writable } = duplex(await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }));
  using peer = new RawPeer(await listener.accept());
  const writer = writable.getWriter();
  const written = writer.write(new Uint8Array(32 << 20)).catch(() => {});
  writer.closed.catch(() => {});
  await peer.readExactly(1);
  await within(writer.abort(new Error("no more")).catch(() => {}), "the abort", 3000);
  await written;
  assertLess((await peer.readToEnd().catch(() => new Uint8Array(0))).length, 32 << 20);
});
