// Each limit of a server: reached over real sockets, told by name, and no harm to others.

import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { connect as connectNode, type Socket } from "node:net";
import { LimitError, type LimitName, type ServeOptions, type Server } from "../mod.ts";
import { serve, serveFrames } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { frameOf, idOf, joined, RawPeer, request, submitFrame } from "./support/peer.ts";
import { plainFrame } from "./support/raw_server.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

/** Fails unless a connection was cut for a limit, and the event, the count and the reason say so. */
async function assertCut(
  server: Server,
  events: ServerEvents,
  limit: LimitName,
  value: number,
  connection = 1,
): Promise<void> {
  const { code, limit: named, error } = await events.closed(connection);
  assertEquals([code, named], ["limit", limit]);
  assertLimitError(error, limit, value);
  assertTold(events, limit, value, connection);
  assertEquals(server.stats().limits[limit], 1);
}

function assertLimitError(error: unknown, limit: LimitName, value: number): asserts error is LimitError {
  assertInstanceOf(error, LimitError);
  assertEquals([error.limit, error.value], [limit, value]);
}

/** Fails unless there was a `limit` event of just this. */
function assertTold(events: ServerEvents, limit: LimitName, value: number, connection: number | null): void {
  const told = events.items.filter((event) => event.type === "limit" && event.limit === limit);
  assertEquals(told[0], { type: "limit", connection, limit, value });
}

/** Fails unless the peer is served. */
async function assertServed(peer: RawPeer, serial = 77): Promise<void> {
  await peer.write(submitFrame(serial));
  assertEquals(await peer.readAcks(1), [{ command: 0x82, id: idOf(serial), result: 0 }]);
}

/** A submit frame of just `length` bytes. */
function longSubmit(serial: number, length: number): Uint8Array<ArrayBuffer> {
  return submitFrame(serial, new Uint8Array(length - 13));
}

/** A connection from another address of this machine; it takes what it is sent. */
async function connectFrom(localAddress: string, port: number): Promise<Socket> {
  const socket = connectNode({ host: "127.0.0.1", port, localAddress });
  socket.on("error", () => {});
  await within(new Promise<void>((resolve) => socket.once("connect", () => resolve())), "connected");
  return socket;
}

async function destroyed(socket: Socket): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    if (socket.closed) resolve();
    else socket.once("close", () => resolve());
  });
  socket.destroy();
  await within(closed, "the socket is closed");
}

// Connections

Deno.test("maxConnections refuses one more when it is reached, and serves those it has", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, maxConnections: 1, onEvent: events.record };
  await using server = serve(options, () => {});
  using first = await RawPeer.connect(server.addr.port);
  await assertServed(first, 1);
  using second = await RawPeer.connect(server.addr.port);
  assertEquals(await second.readToEnd(), new Uint8Array(0));
  assertLimitError((await events.next("refused")).error, "maxConnections", 1);
  assertTold(events, "maxConnections", 1, null);
  const { limits, connectionsRefused, connectionsOpen } = server.stats();
  assertEquals([limits.maxConnections, connectionsRefused, connectionsOpen], [1, 1, 1]);
  await assertServed(first, 2);
});

Deno.test("maxConnections lets one more wait until a place is freed when whenFull is wait", async () => {
  const events = new ServerEvents();
  const options = {
    port: 0,
    poison: true,
    maxConnections: 1,
    whenFull: "wait",
    onEvent: events.record,
  } as const;
  await using server = serve(options, () => {});
  using first = await RawPeer.connect(server.addr.port);
  await assertServed(first, 1);
  using second = await RawPeer.connect(server.addr.port);
  await second.write(submitFrame(2));
  await events.next("limit");
  assertTold(events, "maxConnections", 1, null);
  await assertServed(first, 3);
  assertEquals(server.stats().handled, 2);
  await first.closeWrite();
  assertEquals(await second.readAcks(1), [{ command: 0x82, id: idOf(2), result: 0 }]);
  assertEquals([server.stats().limits.maxConnections, server.stats().connectionsRefused], [1, 0]);
});

Deno.test("Server.shutdown leaves no connection behind when one waited for a place", async () => {
  const events = new ServerEvents();
  const options = {
    port: 0,
    poison: true,
    maxConnections: 1,
    whenFull: "wait",
    onEvent: events.record,
  } as const;
  await using server = serve(options, () => {});
  using first = await RawPeer.connect(server.addr.port);
  await assertServed(first, 1);
  using second = await RawPeer.connect(server.addr.port);
  await events.next("limit");
  const stopped = server.shutdown();
  await first.closeWrite();
  await second.closeWrite();
  assertEquals(await second.readToEnd(), new Uint8Array(0));
  await within(stopped, "the server has stopped");
  const count = events.items.length;
  await turn(20);
  assertEquals(events.types.slice(count), []);
  assertEquals([server.stats().connectionsOpen, events.types.at(-1)], [0, "drained"]);
});

Deno.test("maxConnectionsPerAddress refuses one more from an address, and none from another", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, maxConnectionsPerAddress: 1, onEvent: events.record };
  await using server = serve(options, () => {});
  using first = await RawPeer.connect(server.addr.port);
  await assertServed(first, 1);
  using second = await RawPeer.connect(server.addr.port);
  assertEquals(await second.readToEnd(), new Uint8Array(0));
  assertLimitError((await events.next("refused")).error, "maxConnectionsPerAddress", 1);
  assertTold(events, "maxConnectionsPerAddress", 1, null);
  const other = await connectFrom("127.0.0.2", server.addr.port);
  const answer = new Promise<Uint8Array>((resolve) => other.once("data", resolve));
  other.write(submitFrame(5));
  assertEquals((await within(answer, "an answer to the other address")).at(-1), 0);
  await destroyed(other);
  assertEquals(server.stats().limits.maxConnectionsPerAddress, 1);
  await assertServed(first, 2);
});

Deno.test("maxConnectionsPerAddress gives a place back when a connection ends", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, maxConnectionsPerAddress: 1, onEvent: events.record };
  await using server = serve(options, () => {});
  for (const connection of [1, 2, 3]) {
    using peer = await RawPeer.connect(server.addr.port);
    await assertServed(peer);
    await peer.closeWrite();
    await events.closed(connection);
  }
  assertEquals(server.stats().connectionsRefused, 0);
});

// Bounds on what is under way

Deno.test("maxInFlight leaves requests unread when so many handlers run", async () => {
  const events = new ServerEvents(), gates: (() => void)[] = [];
  const options = { port: 0, poison: true, maxInFlight: 2, onEvent: events.record };
  await using server = serve(
    options,
    ({ payload }) => payload.length === 0 ? undefined : new Promise<void>((resolve) => gates.push(resolve)),
  );
  using other = await RawPeer.connect(server.addr.port);
  await assertServed(other, 1);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(...[1, 2, 3, 4].map((serial) => submitFrame(serial, "x")));
  await events.next("limit");
  assertTold(events, "maxInFlight", 2, 2);
  await assertServed(other, 2);
  assertEquals([gates.length, server.stats().inFlight], [2, 2]);
  for (let i = 0; i < 4; i++) {
    await until(() => gates.length > i, `handler ${i + 1} called`);
    gates[i]!();
  }
  assertEquals((await peer.readAcks(4)).map(({ id }) => id), [1, 2, 3, 4].map(idOf));
  assert(server.stats().limits.maxInFlight > 0);
});

Deno.test("outboundHighWaterBytes stops handling when replies pile up, until they are read", async () => {
  const events = new ServerEvents(), replyLength = 1_048_576, count = 24;
  const options = { port: 0, poison: true, outboundHighWaterBytes: replyLength, onEvent: events.record };
  await using server = serveFrames(
    { ...options, format: { maxFrameLength: 2 * replyLength } },
    (frame) => frame.length === 4 ? frame : new Uint8Array(replyLength),
  );
  using other = await RawPeer.connect(server.addr.port);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(...Array.from({ length: count }, () => plainFrame("x")));
  await events.next("limit");
  assertTold(events, "outboundHighWaterBytes", replyLength, 2);
  assert(server.stats().handled < count, "handled all although nobody reads");
  await other.write(plainFrame(""));
  await other.readExactly(4);
  for (let i = 0; i < count; i++) await peer.readExactly(4 + replyLength);
  assertEquals(server.stats().handled, count + 1);
  assert(server.stats().limits.outboundHighWaterBytes > 0);
});

Deno.test("maxBufferedBytes cuts the connection with the largest partial frame, and no other", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, maxBufferedBytes: 300_000, onEvent: events.record };
  await using server = serve(options, () => {});
  using big = await RawPeer.connect(server.addr.port);
  await big.write(longSubmit(9, 200_001).subarray(0, 200_000));
  await until(() => server.stats().bytesRead === 200_000, "the largest part was read");
  const peers: RawPeer[] = [], frame = longSubmit(1, 30_000);
  try {
    for (let i = 0; i < 5; i++) {
      peers.push(await RawPeer.connect(server.addr.port));
      await peers[i]!.write(frame.subarray(0, 29_000));
    }
    await assertCut(server, events, "maxBufferedBytes", 300_000);
    for (const peer of peers) {
      await peer.write(frame.subarray(29_000));
      assertEquals(await peer.readAcks(1), [{ command: 0x82, id: idOf(1), result: 0 }]);
    }
    assertEquals(server.stats().limits.maxBufferedBytes, 1);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});

Deno.test("maxBufferedBytes counts a frame no more when it is whole or its peer is gone", async () => {
  const options = { port: 0, poison: true, maxBufferedBytes: 100_000 };
  await using server = serve(options, () => {});
  const frame = longSubmit(1, 60_000);
  for (let i = 0; i < 5; i++) {
    {
      using gone = await RawPeer.connect(server.addr.port);
      const before = server.stats().bytesRead;
      await gone.write(frame.subarray(0, 59_000));
      await until(() => server.stats().bytesRead === before + 59_000, "the part was read");
    }
    await until(() => server.stats().connectionsOpen === 0, "the connection is gone");
    using whole = await RawPeer.connect(server.addr.port);
    await whole.write(frame.subarray(0, 59_000));
    await turn(2);
    await whole.write(frame.subarray(59_000));
    assertEquals((await whole.readAcks(1))[0]!.result, 0);
    await whole.closeWrite();
    await whole.readToEnd();
    await until(() => server.stats().connectionsOpen === 0, "the connection is gone");
  }
  assertEquals(server.stats().limits.maxBufferedBytes, 0);
});

Deno.test("maxBufferedBytes cuts one, once, when several connections overrun it in one turn", async () => {
  const worker = new Worker(new URL("./support/budget_worker.ts", import.meta.url), { type: "module" });
  try {
    const said = new Promise<unknown>((resolve) => worker.onmessage = ({ data }) => resolve(data));
    assertEquals(await within(said, "the server goes on", 8000), "served");
  } finally {
    worker.terminate();
  }
});

// Time

Deno.test("connTimeoutMs cuts a connection that opens no session when one is demanded", async () => {
  const events = new ServerEvents();
  await using server = serve(
    { port: 0, poison: true, connTimeoutMs: 150, onEvent: events.record, authenticate: () => "guest" },
    () => {},
  );
  using peer = await RawPeer.connect(server.addr.port);
  using other = await RawPeer.connect(server.addr.port);
  await other.write(request(0x01, idOf(1)));
  await other.readAcks(1);
  await assertCut(server, events, "connTimeoutMs", 150);
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  // Its time has passed for this one too; it has its session.
  await assertServed(other, 2);
});

Deno.test("connTimeoutMs is not heeded when no session is demanded", async () => {
  const events = new ServerEvents();
  await using server = serve(
    { port: 0, poison: true, connTimeoutMs: 20, handlerTimeoutMs: 300, onEvent: events.record },
    ({ payload }) => payload.length > 0 ? new Promise<void>(() => {}) : undefined,
  );
  using peer = await RawPeer.connect(server.addr.port);
  using clock = await RawPeer.connect(server.addr.port);
  await clock.write(submitFrame(1, "stuck"));
  assertEquals((await clock.readAcks(1))[0]!.result, 6);
  await assertServed(peer);
});

Deno.test("connTimeoutMs does not rename the end when a CONN was refused before", async () => {
  const events = new ServerEvents();
  await using server = serve(
    { port: 0, poison: true, connTimeoutMs: 100, onEvent: events.record, authenticate: () => 9 },
    () => {},
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(request(0x01, idOf(1)));
  assertEquals((await peer.readAcks(1))[0]!.result, 9);
  // The peer does not close: the server does, after a while.
  assertEquals((await events.closed()).code, "refused");
});

for (
  const [what, sent] of [["header", 3], ["length alone", 4], ["body", 15]] as const
) {
  Deno.test(`frameTimeoutMs cuts a peer that stops in mid-frame, at the ${what}`, async () => {
    const events = new ServerEvents();
    const options = { port: 0, poison: true, frameTimeoutMs: 100, onEvent: events.record };
    await using server = serve(options, () => {});
    using peer = await RawPeer.connect(server.addr.port);
    using other = await RawPeer.connect(server.addr.port);
    await peer.write(longSubmit(1, 20).subarray(0, sent));
    await assertCut(server, events, "frameTimeoutMs", 100);
    await assertServed(other);
  });
}

Deno.test("frameTimeoutMs is not begun anew when bytes drip in", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, frameTimeoutMs: 150, onEvent: events.record };
  await using server = serve(options, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  const frame = longSubmit(1, 10_000);
  let dripping = true;
  const drip = async () => {
    for (let at = 0; dripping && at < frame.length; at++) {
      await peer.write(frame.subarray(at, at + 1));
      await turn(10);
    }
  };
  const dripped = drip().catch(() => {});
  try {
    await assertCut(server, events, "frameTimeoutMs", 150);
  } finally {
    dripping = false;
    await dripped;
  }
});

Deno.test("frameTimeoutMs gives a second more when a frame announces 16 KiB more", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, frameTimeoutMs: 100, onEvent: events.record };
  await using server = serve(options, () => {});
  using long = await RawPeer.connect(server.addr.port);
  const frame = longSubmit(1, 16 * 16_384);
  await long.write(frame.subarray(0, 100));
  await until(() => server.stats().bytesRead === 100, "the part was read");
  using short = await RawPeer.connect(server.addr.port);
  await short.write(longSubmit(1, 16_383).subarray(0, 100));
  await assertCut(server, events, "frameTimeoutMs", 100, 2);
  await long.write(frame.subarray(100));
  assertEquals((await long.readAcks(1))[0]!.result, 0);
});

Deno.test("frameTimeoutMs counts each frame by itself when their parts come in one chunk", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, frameTimeoutMs: 1000, onEvent: events.record };
  await using server = serve(options, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  const frames = joined(...Array.from({ length: 7 }, (_, i) => submitFrame(i + 1, "x")));
  // There is a part of a frame at all times, and none of them is old.
  for (let at = 0; at < frames.length; at += 14) {
    await peer.write(frames.subarray(Math.max(0, at - 7), at + 7));
    await turn(250);
  }
  await peer.write(frames.subarray(frames.length - 7));
  assertEquals((await peer.readAcks(7)).length, 7);
  assertEquals(server.stats().limits.frameTimeoutMs, 0);
});

Deno.test("frameTimeoutMs does not count the time when the server does not read", async () => {
  const events = new ServerEvents(), gate = Promise.withResolvers<void>();
  await using server = serve(
    { port: 0, poison: true, frameTimeoutMs: 60, maxInFlight: 1, onEvent: events.record },
    ({ payload }) => payload.length === 4 ? gate.promise : undefined,
  );
  try {
    using held = await RawPeer.connect(server.addr.port);
    const frame = submitFrame(3, "behind it");
    await held.write(joined(submitFrame(1, "wait"), submitFrame(2, "wait"), frame.subarray(0, 10)));
    await until(() => server.stats().inFlight === 1, "the handler runs");
    using witness = await RawPeer.connect(server.addr.port);
    await witness.write(frame.subarray(0, 10));
    await assertCut(server, events, "frameTimeoutMs", 60, 2);
    gate.resolve();
    await held.write(frame.subarray(10));
    assertEquals((await held.readAcks(3)).map(({ result }) => result), [0, 0, 0]);
  } finally {
    gate.resolve();
  }
});

Deno.test("idleTimeoutMs cuts a peer that is silent", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, idleTimeoutMs: 150, onEvent: events.record };
  await using server = serve(options, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await assertServed(peer);
  await assertCut(server, events, "idleTimeoutMs", 150);
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
});

Deno.test("idleTimeoutMs spares a peer that moves a byte now and then", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, idleTimeoutMs: 500, onEvent: events.record };
  await using server = serve(options, () => {});
  using witness = await RawPeer.connect(server.addr.port);
  await until(() => server.stats().connectionsOpen === 1, "the witness is served");
  using slow = await RawPeer.connect(server.addr.port);
  const frame = submitFrame(1, new Uint8Array(10_000));
  let at = 0, gone = false;
  const cut = events.closed(1).then(() => gone = true);
  for (; !gone; at++) {
    await slow.write(frame.subarray(at, at + 1));
    await turn(30);
  }
  await cut;
  await slow.write(frame.subarray(at));
  assertEquals((await slow.readAcks(1))[0]!.result, 0);
  assertEquals(await witness.readToEnd(), new Uint8Array(0));
});

Deno.test("idleTimeoutMs spares a connection when a handler is at work", async () => {
  const events = new ServerEvents(), gate = Promise.withResolvers<void>();
  const options = { port: 0, poison: true, idleTimeoutMs: 100, onEvent: events.record };
  await using server = serve(options, () => gate.promise);
  try {
    using busy = await RawPeer.connect(server.addr.port);
    await busy.write(submitFrame(1));
    await until(() => server.stats().inFlight === 1, "the handler runs");
    using _witness = await RawPeer.connect(server.addr.port);
    await assertCut(server, events, "idleTimeoutMs", 100, 2);
    gate.resolve();
    assertEquals((await busy.readAcks(1))[0]!.result, 0);
  } finally {
    gate.resolve();
  }
});

Deno.test("idleTimeoutMs spares a connection when answers are pending", async () => {
  const events = new ServerEvents(), replyLength = 16 * 1_048_576;
  const options = { port: 0, poison: true, idleTimeoutMs: 100, onEvent: events.record };
  await using server = serveFrames(
    { ...options, format: { maxFrameLength: 2 * replyLength } },
    () => new Uint8Array(replyLength),
  );
  using slow = await RawPeer.connect(server.addr.port);
  await slow.write(plainFrame("x"));
  await until(() => server.stats().answered === 1, "the reply is pending");
  using _witness = await RawPeer.connect(server.addr.port);
  await assertCut(server, events, "idleTimeoutMs", 100, 2);
  await slow.closeWrite();
  assertEquals((await slow.readToEnd()).length, 4 + replyLength);
});

Deno.test("handlerTimeoutMs answers 6, aborts the signal, and frees the place", async () => {
  const events = new ServerEvents(), aborted = Promise.withResolvers<unknown>();
  await using server = serve(
    { port: 0, poison: true, handlerTimeoutMs: 100, maxInFlight: 1, onEvent: events.record },
    ({ payload, signal }) => {
      if (payload.length === 0) return;
      signal.addEventListener("abort", () => aborted.resolve(signal.reason));
      return new Promise<void>(() => {});
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "stuck"), submitFrame(2));
  assertEquals((await peer.readAcks(2)).map(({ id, result }) => [id, result]), [[idOf(1), 6], [idOf(2), 0]]);
  const reason = await within(aborted.promise, "the signal is aborted");
  assertEquals((reason as DOMException).name, "TimeoutError");
  assertTold(events, "handlerTimeoutMs", 100, 1);
  assertEquals([server.stats().limits.handlerTimeoutMs, server.stats().inFlight], [1, 0]);
});

Deno.test("handlerTimeoutMs answers once when the handler settles afterwards", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = serve(
    { port: 0, poison: true, handlerTimeoutMs: 50 },
    ({ payload }) => payload.length > 0 ? gate.promise : undefined,
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "late"));
  assertEquals((await peer.readAcks(1))[0]!.result, 6);
  gate.resolve();
  await assertServed(peer, 2);
  await peer.closeWrite();
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  assertEquals(server.stats().answered, 2);
});

Deno.test("writeTimeoutMs cuts a peer that accepts nothing of what is pending", async () => {
  const events = new ServerEvents(), replyLength = 16 * 1_048_576;
  const options = { port: 0, poison: true, writeTimeoutMs: 150, onEvent: events.record };
  await using server = serveFrames(
    { ...options, format: { maxFrameLength: 2 * replyLength } },
    (frame) => frame.length === 4 ? frame : new Uint8Array(replyLength),
  );
  using stuck = await RawPeer.connect(server.addr.port);
  using other = await RawPeer.connect(server.addr.port);
  await stuck.write(plainFrame("x"));
  await assertCut(server, events, "writeTimeoutMs", 150);
  await other.write(plainFrame(""));
  await other.readExactly(4);
});

Deno.test("drainTimeoutMs cuts a connection that does not end while the server stops", async () => {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, drainTimeoutMs: 100, onEvent: events.record };
  await using server = serve(options, () => new Promise<void>(() => {}));
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  await until(() => server.stats().inFlight === 1, "the handler runs");
  assertEquals(await within(server.shutdown(), "the server has stopped"), { answered: 0, cut: 1 });
  await assertCut(server, events, "drainTimeoutMs", 100);
});

Deno.test("handshakeTimeoutMs refuses a peer when it sends no PROXY header", async () => {
  const events = new ServerEvents();
  await using server = serve(
    {
      port: 0,
      poison: true,
      proxyFrom: ["127.0.0.1"],
      handshakeTimeoutMs: 150,
      onEvent: events.record,
    },
    () => {},
  );
  using silent = await RawPeer.connect(server.addr.port);
  using proxied = await RawPeer.connect(server.addr.port);
  await proxied.write(new TextEncoder().encode("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"));
  assertLimitError((await events.next("refused")).error, "handshakeTimeoutMs", 150);
  assertEquals(await silent.readToEnd(), new Uint8Array(0));
  assertTold(events, "handshakeTimeoutMs", 150, null);
  assertEquals([server.stats().limits.handshakeTimeoutMs, server.stats().connectionsRefused], [1, 1]);
  await assertServed(proxied);
});

Deno.test("serve expires nothing when the clock jumps", async () => {
  const events = new ServerEvents(), { now } = Date;
  await using server = serve(
    {
      port: 0,
      poison: true,
      idleTimeoutMs: 60_000,
      frameTimeoutMs: 60_000,
      handlerTimeoutMs: 60,
      onEvent: events.record,
    },
    ({ payload }) => payload.length > 0 ? new Promise<void>(() => {}) : undefined,
  );
  using idle = await RawPeer.connect(server.addr.port);
  using partial = await RawPeer.connect(server.addr.port);
  await partial.write(submitFrame(77).subarray(0, 6));
  using clock = await RawPeer.connect(server.addr.port);
  await assertServed(idle, 1);
  Date.now = () => now() + 86_400_000;
  try {
    // Ticks have passed when this is answered.
    await clock.write(submitFrame(1, "stuck"));
    assertEquals((await clock.readAcks(1))[0]!.result, 6);
    await clock.write(submitFrame(2, "stuck"));
    assertEquals((await clock.readAcks(1))[0]!.result, 6);
  } finally {
    Date.now = now;
  }
  await assertServed(idle, 2);
  await partial.write(submitFrame(77).subarray(6));
  assertEquals((await partial.readAcks(1))[0]!.result, 0);
  assertEquals(events.types.includes("closed"), false);
});

// Values

const counts = [
  "maxConnections",
  "maxConnectionsPerAddress",
  "maxInFlight",
  "outboundHighWaterBytes",
  "outboundLowWaterBytes",
  "maxBufferedBytes",
];
const times = [
  "connTimeoutMs",
  "frameTimeoutMs",
  "idleTimeoutMs",
  "handlerTimeoutMs",
  "writeTimeoutMs",
  "drainTimeoutMs",
  "handshakeTimeoutMs",
];
/** Those that may be 0, and cannot be turned off. */
const withZero = ["outboundLowWaterBytes", "drainTimeoutMs"];

for (const field of [...counts, ...times]) {
  Deno.test(`serve refuses ${field} by its name when it is out of range`, () => {
    const beyond = counts.includes(field) ? 2 ** 53 : 2 ** 31;
    const bad = [-1, 1.5, NaN, -Infinity, beyond, "5", true, 5n];
    for (const value of [...bad, withZero.includes(field) ? Infinity : 0]) {
      const options = { port: 0, [field]: value } as ServeOptions;
      assertThrows(() => serve(options, () => {}), RangeError, field, `${typeof value} ${value}`);
    }
  });
}

Deno.test("serve refuses an outboundLowWaterBytes when it is above the high mark", () => {
  const options = { port: 0, outboundHighWaterBytes: 1000, outboundLowWaterBytes: 1001 };
  assertThrows(() => serve(options, () => {}), RangeError, "outboundLowWaterBytes");
});

Deno.test("serve refuses a whenFull that it does not know", () => {
  const options = { port: 0, whenFull: "queue" } as unknown as ServeOptions;
  assertThrows(() => serve(options, () => {}), RangeError, "whenFull");
});

Deno.test("serve takes Infinity for every limit that can be turned off", async () => {
  const off = [...counts, ...times].filter((field) => !withZero.includes(field));
  const options = Object.fromEntries(off.map((field) => [field, Infinity]));
  await using server = serve({ port: 0, poison: true, ...options, authenticate: () => "guest" }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(request(0x01, idOf(1)), frameOf(new Uint8Array([2, ...Array(8).fill(48)])));
  assertEquals((await peer.readAcks(2)).map(({ result }) => result), [0, 0]);
  assertEquals(Object.values(server.stats().limits).filter((count) => count > 0), []);
});

Deno.test("drainTimeoutMs of 0 cuts at once what is under way", async () => {
  const options = { port: 0, poison: true, drainTimeoutMs: 0 };
  await using server = serve(options, () => new Promise<void>(() => {}));
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  await until(() => server.stats().inFlight === 1, "the handler runs");
  assertEquals(await within(server.shutdown(), "the server has stopped"), { answered: 0, cut: 1 });
  await assertRejects(() => Deno.connect({ port: server.addr.port, hostname: "127.0.0.1" }));
});
