// Are the parts for users' tests what they say?

import {
  chunkings,
  formatVectors,
  type PairedSocket,
  PoisonGuard,
  randomFrom,
  scriptedPeer,
  ScriptError,
  socketPair,
  submitVectors,
  Wire,
  WireListener,
} from "@framewire/framewire/testkit";
import { connect, connectFrames } from "@framewire/framewire/client";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { concat } from "@std/bytes";
import fc from "fast-check";
import { serve, serveFrames } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { marked } from "./support/raw_server.ts";
import { until, within } from "./support/wait.ts";

const { BadResource, BrokenPipe, ConnectionReset, Interrupted } = Deno.errors;

async function writeAll(socket: PairedSocket, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await socket.write(bytes.subarray(at));
}

async function readAll(socket: PairedSocket, length = 4096): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (const buffer = new Uint8Array(length);;) {
    const count = await socket.read(buffer);
    if (count === null) return concat(chunks);
    chunks.push(buffer.slice(0, count));
  }
}

async function read(socket: PairedSocket, length = 4096): Promise<number[]> {
  const buffer = new Uint8Array(length), count = await socket.read(buffer);
  return [...buffer.subarray(0, count!)];
}

/** Whether a promise is pending after all that is due has run. */
async function pends(promise: Promise<unknown>): Promise<boolean> {
  const pending = new Promise<string>((resolve) => setTimeout(() => resolve("pending"), 0));
  return await Promise.race([promise.then(() => "", () => ""), pending]) === "pending";
}

Deno.test("socketPair() brings what is written to the other end, both ways, whatever the sizes", async () => {
  for (const seed of [1, 2, 3]) {
    const [one, other] = socketPair({
      bufferBytes: 97,
      readSizes: randomFrom(seed),
      writeSizes: randomFrom(seed + 1),
    });
    const [there, back] = [marked(seed, 5000), marked(seed + 7, 5000)];
    const send = async (socket: PairedSocket, bytes: Uint8Array) => {
      await writeAll(socket, bytes);
      await socket.closeWrite();
    };
    const [got, gotBack] = await within(
      Promise.all([readAll(other), readAll(one), send(one, there), send(other, back)]),
      "all bytes",
    );
    assertEquals(got, there);
    assertEquals(gotBack, back);
  }
});

Deno.test("socketPair() moves as many bytes a call as its list says, over and over", async () => {
  const [one, other] = socketPair({ writeSizes: [3, 1], readSizes: [2] });
  const accepted = [];
  for (let i = 0; i < 3; i++) accepted.push(await one.write(new Uint8Array([1, 2, 3, 4])));
  assertEquals(accepted, [3, 1, 3]);
  assertEquals([await read(other), await read(other)], [[1, 2], [3, 1]]);
  assertThrows(() => socketPair({ readSizes: [0] }), RangeError, "readSizes");
  assertThrows(() => socketPair({ readSizes: [] }), RangeError, "readSizes");
  assertThrows(() => socketPair({ bufferBytes: 1.5 }), RangeError, "bufferBytes");
});

Deno.test("PairedSocket.write() accepts what there is room for, and waits when there is none", async () => {
  const [one, other] = socketPair({ bufferBytes: 4 });
  assertEquals(await one.write(marked(1, 6)), 4);
  const blocked = one.write(new Uint8Array([9]));
  assert(await pends(blocked));
  assertEquals(one.unreadBytes, 4);
  await read(other, 2);
  assertEquals(await blocked, 1);
});

Deno.test("PairedSocket.closeWrite() ends one direction behind its bytes, and the other goes on", async () => {
  const [one, other] = socketPair();
  await one.write(new Uint8Array([1]));
  await one.closeWrite();
  await one.closeWrite();
  await assertRejects(() => one.write(new Uint8Array([2])), BrokenPipe);
  assertEquals(await readAll(other), new Uint8Array([1]));
  assertEquals(await other.read(new Uint8Array(1)), null);
  await other.write(new Uint8Array([3]));
  assertEquals(await read(one), [3]);
});

Deno.test("PairedSocket.reset() fails the pending and later calls of both ends, and loses what is unread", async () => {
  const [one, other] = socketPair({ bufferBytes: 1 });
  await one.write(new Uint8Array(1));
  const pending = [one.write(new Uint8Array(1)), one.read(new Uint8Array(1))];
  other.reset();
  for (const call of pending) await assertRejects(() => call, ConnectionReset);
  for (const end of [one, other]) {
    await assertRejects(() => end.read(new Uint8Array(1)), ConnectionReset);
    await assertRejects(() => end.write(new Uint8Array(1)), ConnectionReset);
    await assertRejects(() => end.closeWrite(), ConnectionReset);
    end[Symbol.dispose]();
  }
});

Deno.test("PairedSocket.stall() holds bytes and the end back until resume(), in one direction", async () => {
  const [one, other] = socketPair({ bufferBytes: 2 });
  one.stall();
  await one.write(new Uint8Array([1, 2]));
  const got = readAll(other), blocked = one.write(new Uint8Array([3]));
  assert(await pends(got));
  assert(await pends(blocked));
  await other.write(new Uint8Array([4]));
  assertEquals(await read(one), [4]);
  one.resume();
  await blocked;
  one.stall();
  await one.closeWrite();
  assert(await pends(got));
  one.resume();
  assertEquals(await got, new Uint8Array([1, 2, 3]));
});

Deno.test("PairedSocket's disposal ends or resets the other end, by whether bytes were unread", async () => {
  const [one, other] = socketPair();
  const reading = one.read(new Uint8Array(1));
  await one.write(new Uint8Array([1]));
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  await assertRejects(() => reading, Interrupted);
  await assertRejects(() => one.read(new Uint8Array(1)), BadResource);
  assertEquals(await readAll(other), new Uint8Array([1]));
  await assertRejects(() => other.write(new Uint8Array(1)), BrokenPipe);
  const [third, fourth] = socketPair();
  await fourth.write(new Uint8Array(1));
  third[Symbol.dispose]();
  await assertRejects(() => fourth.read(new Uint8Array(1)), ConnectionReset);
});

Deno.test("a server and a client talk over socketPair(), byte by byte, with answers due at the half-close", async () => {
  const [near, far] = socketPair({ bufferBytes: 5, readSizes: [1], writeSizes: [1] });
  const events = new ServerEvents(), due = Promise.withResolvers<void>();
  await using server = serve({ port: 0, onEvent: events.record }, async ({ payload }) => {
    const result = payload.length;
    await due.promise;
    return result;
  });
  const remoteAddr = { transport: "tcp", hostname: "gauge", port: 7 } as const;
  const handled = server.handle(far, remoteAddr);
  await using client = await connect({ openSocket: () => near, reconnect: false });
  const answers = Promise.all(["", "a", "bb"].map((payload) => client.submit(payload)));
  const ended = client.end();
  await until(() => server.stats().inFlight === 3, "three requests are under way");
  due.resolve();
  assertEquals((await answers).map(({ result }) => result), [0, 1, 2]);
  assertEquals((await ended).code, "ended");
  await handled;
  assertEquals((await events.closed()).code, "ended");
  assertEquals((await events.next("opened")).remoteAddr, remoteAddr);
});

Deno.test("a server and a client see the reset of a socketPair(), and the client connects again", async () => {
  const ends: PairedSocket[] = [], events = new ServerEvents();
  await using server = serve({ port: 0, onEvent: events.record }, () => {});
  const openSocket = () => {
    const [near, far] = socketPair();
    ends.push(near);
    server.handle(far);
    return near;
  };
  await using client = await connect({ openSocket, reconnect: { minDelayMs: 1 } });
  await client.submit("a");
  ends[0]!.reset();
  assertEquals((await events.closed(1)).code, "reset");
  assertEquals((await client.submit("b", { idempotent: true })).outcome, "accepted");
  assertEquals([ends.length, server.stats().connectionsAccepted], [2, 2]);
});

Deno.test("server.handle() holds a socket to the limits, and closes it where the server has stopped", async () => {
  const server = serveFrames({ port: 0, maxConnections: 1, whenFull: "refuse" }, (frame) => frame.slice(4));
  const pairs = [socketPair(), socketPair(), socketPair()];
  const first = server.handle(pairs[0]![1]);
  await server.handle(pairs[1]![1]);
  assertEquals(await readAll(pairs[1]![0]), new Uint8Array(0));
  assertEquals([server.stats().connectionsRefused, server.stats().connectionsOpen], [1, 1]);
  pairs[0]![0][Symbol.dispose]();
  await first;
  await server.shutdown();
  await server.handle(pairs[2]![1]);
  assertEquals(await readAll(pairs[2]![0]), new Uint8Array(0));
});

Deno.test("connectFrames() gives up a socket that openSocket is late with, and closes it when it comes", async () => {
  const late = Promise.withResolvers<PairedSocket>(), [near, far] = socketPair();
  const opened = connectFrames({ openSocket: () => late.promise, connectTimeoutMs: 10 });
  await assertRejects(() => opened, Error, "no answer within 10 ms");
  late.resolve(near);
  assertEquals(await readAll(far), new Uint8Array(0));
});

Deno.test("chunkings() gives every split once, and then random ones; each is the bytes", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 9 }), fc.integer(), (bytes, seed) => {
    const all = [...chunkings(bytes)],
      random = [...chunkings(bytes, { maxAll: 0, random: { seed, count: 9 } })];
    for (const chunks of [...all, ...random]) {
      assertEquals(concat(chunks), bytes.slice());
      assert(chunks.every(({ length }) => length > 0));
    }
    const lengths = new Set(all.map((chunks) => chunks.map(({ length }) => length).join()));
    assertEquals([lengths.size, all.length], [2 ** Math.max(0, bytes.length - 1), lengths.size]);
    assertEquals(random, [...chunkings(bytes, { maxAll: 0, random: { seed, count: 9 } })]);
  }));
});

Deno.test("chunkings() goes from no cut over every byte alone to more and more cuts, up to its bound", () => {
  const shapes = (maxAll: number) =>
    [...chunkings(marked(1, 4), { maxAll })].map((chunks) => chunks.map(({ length }) => length).join(""));
  assertEquals(shapes(99), ["4", "1111", "13", "22", "31", "112", "121", "211"]);
  assertEquals(shapes(3), ["4", "1111", "13"]);
  assertThrows(() => [...chunkings(marked(1, 4), { maxAll: -1 })], RangeError, "maxAll");
});

Deno.test("submitVectors and formatVectors are whole", () => {
  assert(
    submitVectors.length > 50 && formatVectors.length > 50,
    `${submitVectors.length}, ${formatVectors.length}`,
  );
  assert(submitVectors.every(({ maxFrameLength }) => maxFrameLength > 0));
  assert(formatVectors.every(({ format }) => Object.keys(format).length === 6));
});

Deno.test("PoisonGuard.submits() takes the payload away when the handler settles, not before", async () => {
  const guard = new PoisonGuard(), kept: Uint8Array[] = [], during: string[] = [];
  await using server = serve(
    { port: 0 },
    guard.submits(async ({ payload }) => {
      kept.push(payload.subarray(1));
      await new Promise((resolve) => setTimeout(resolve, 0));
      during.push(new TextDecoder().decode(payload));
      if (during.length === 2) throw new Error("on purpose");
    }),
  );
  await using client = await connect({ port: server.addr.port });
  await client.submit("one");
  await client.submit("two");
  assertEquals(during, ["one", "two"]);
  assertEquals(kept.map(({ length }) => length), [0, 0]);
  // In a function of its own: a local variable of this one would hold the last view.
  kept.forEach((view) => assertThrows(() => view.slice(), TypeError, "detached"));
  await assertRejects(() => guard.check(), Error, "request 00000001 of connection 1, request 00000002");
  kept.length = 0;
  await guard.check();
});

Deno.test("PoisonGuard.check() says nothing of payloads that were copied, or are still lent", async () => {
  const guard = new PoisonGuard(), copies: Uint8Array[] = [], due = Promise.withResolvers<void>();
  await using server = serve(
    { port: 0 },
    guard.submits(({ payload }) => {
      if (payload.length > 0) return void copies.push(payload.slice());
      return due.promise.then(() => payload.length);
    }),
  );
  await using client = await connect({ port: server.addr.port });
  const lent = client.submit("");
  await client.submit("a");
  await guard.check();
  due.resolve();
  assertEquals((await lent).result, 0);
  assertEquals(copies, [new Uint8Array([97])]);
});

Deno.test("PoisonGuard.frames() sends a reply that is a part of the frame, and takes it away then", async () => {
  const guard = new PoisonGuard(), kept: Uint8Array[] = [];
  await using server = serveFrames(
    { port: 0 },
    guard.frames((frame) => (kept.push(frame), frame.subarray(4))),
  );
  await using connection = await connectFrames({ port: server.addr.port });
  await connection.send(new Uint8Array([1, 2]));
  await connection.end();
  assertEquals(await Array.fromAsync(connection.frames), [new Uint8Array([0, 0, 0, 2, 1, 2])]);
  assertEquals(kept[0]!.length, 0);
  await assertRejects(() => guard.check(), Error, "frame 1 (connection 1)");
});

Deno.test("scriptedPeer() plays with a scriptedPeer(), every kind of step", async () => {
  const fact = Promise.withResolvers<void>();
  await using one = await scriptedPeer({ listen: true }, [
    { expect: new Uint8Array([1, 2, 3]) },
    { wait: fact.promise },
    { send: [new Uint8Array([4]), new Uint8Array([5])] },
    { expectEnd: "fin" },
    "reset",
  ]);
  await using other = await scriptedPeer({ port: one.port }, [
    { send: new Uint8Array([1, 2, 3]) },
    { pauseMs: 1 },
    { wait: () => Promise.resolve(fact.resolve()) },
    { expect: new Uint8Array([4, 5]) },
    "fin",
    { expectEnd: "reset" },
  ]);
  await Promise.all([one.done, other.done]);
});

Deno.test("scriptedPeer() says which step failed, with both sides' bytes where they differ", async () => {
  await using peer = await scriptedPeer({ listen: true }, [
    { pauseMs: 0 },
    { expect: new Uint8Array([1, 7]) },
  ]);
  await using wire = await Wire.connect({ port: peer.port });
  await wire.send(new Uint8Array([1, 8]));
  const error = await assertRejects(
    () => peer.done,
    ScriptError,
    "first difference at byte 1: 07 was expected",
  );
  assertEquals(error.step, 2);
});

Deno.test("scriptedPeer() fails where bytes or an end do not come, and where nobody connects", async () => {
  await using lonely = await scriptedPeer({ listen: true, timeoutMs: 10 }, []);
  await assertRejects(() => lonely.done, ScriptError, "nobody has connected within 10 ms");
  for (
    const [step, what] of [
      [{ expect: new Uint8Array(2) }, "1 bytes came, 2 were expected"],
      [{ expectEnd: "fin" }, "bytes before the end"],
    ] as const
  ) {
    await using peer = await scriptedPeer({ listen: true, timeoutMs: 50 }, [step]);
    await using wire = await Wire.connect({ port: peer.port });
    await wire.send(new Uint8Array(1));
    await assertRejects(() => peer.done, ScriptError, what);
  }
});

Deno.test("scriptedPeer()'s disposal throws a failure that nobody asked for, and none where it cut the script", async () => {
  const peer = await scriptedPeer({ listen: true, timeoutMs: 5 }, []);
  await new Promise((resolve) => setTimeout(resolve, 30));
  await assertRejects(async () => await peer[Symbol.asyncDispose](), ScriptError, "nobody");
  const cut = await scriptedPeer({ listen: true }, [{ expectEnd: "fin" }]);
  await using _wire = await Wire.connect({ port: cut.port });
  await cut[Symbol.asyncDispose]();
});

Deno.test("WireListener.accept() gives connections in their order, those too that came before it was called", async () => {
  await using listener = await WireListener.listen();
  const early = listener.accept();
  await using first = await Wire.connect({ port: listener.port });
  await using second = await Wire.connect({ port: listener.port });
  await first.send(new Uint8Array([1]));
  await second.send(new Uint8Array([2]));
  const wires = [await early, await listener.accept()];
  assertEquals(await Promise.all(wires.map((wire) => wire.readExactly(1))), [
    new Uint8Array([1]),
    new Uint8Array([2]),
  ]);
  wires[0]!.reset();
  wires[1]!.fin();
  assertEquals([(await first.readToEnd()).end, (await second.readToEnd()).end], ["reset", "fin"]);
});

Deno.test("WireListener.accept() gives a wire that reads nothing when it is paused at once", async () => {
  await using listener = await WireListener.listen();
  const [one, other] = [listener.accept(), listener.accept()];
  await using first = await Wire.connect({ port: listener.port });
  const paused = await one;
  paused.pause();
  await first.send(new Uint8Array(10));
  // Bytes that left later have arrived: so have these.
  await using second = await Wire.connect({ port: listener.port });
  await second.send(new Uint8Array(1));
  await (await other).readExactly(1);
  assertEquals(paused.bytesReceived, 0);
  paused.resume();
  assertEquals((await paused.readExactly(10)).length, 10);
});

Deno.test("WireListener's disposal closes what was accepted and what was not, and fails who waits", async () => {
  const listener = await WireListener.listen();
  await using accepted = await Wire.connect({ port: listener.port });
  await listener.accept();
  await using waiting = await Wire.connect({ port: listener.port });
  await using probe = await WireListener.listen({ port: 0 });
  await using _last = await Wire.connect({ port: probe.port });
  const rejected = assertRejects(
    () => probe.accept().then(() => probe.accept()),
    Error,
    "listener is closed",
  );
  await listener[Symbol.asyncDispose]();
  await probe[Symbol.asyncDispose]();
  await rejected;
  assert((await accepted.readToEnd()).end !== "open" && (await waiting.readToEnd()).end !== "open");
  await assertRejects(() => listener.accept(), Error, "Cannot accept: the listener is closed");
});
