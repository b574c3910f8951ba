// Is anything queued without a limit? Slow peers, slow handlers, and the memory and bytes that they hold.

import { assertEquals, assertGreater, assertLessOrEqual, assertThrows } from "@std/assert";
import { equals } from "@std/bytes";
import { FrameFormat, type Submit } from "../mod.ts";
import { Connection, type FrameConsumer } from "../transport/connection.ts";
import { Ticker } from "../transport/deadline.ts";
import { type Slab, SlabPool } from "../transport/slab.ts";
import { endless, forever, ScriptedSocket } from "./support/byte_socket.ts";
import { serve, serveConnections, serveFrames } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { bodiesIn, readSlowly, selfCounting } from "./support/frames.ts";
import { ackFrame, frameOf, idOf, joined, RawPeer, submitFrame } from "./support/peer.ts";
import { turn } from "./support/turn.ts";
import { settled, until, within } from "./support/wait.ts";

/** What the kernel takes for a peer that does not read, at most: on Linux a bit more than 4 MiB. */
const kernelBytes = 16 * 1_048_576;
/**
 * What one connection may have read ahead of its handlers: two slabs of the largest size, the short frame that
 * straddles them, and what there is of the next one.
 */
const readAheadBytes = 2 * 262_144 + 2 * 1024;

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** A peer that writes in a loop of its own until it is told to stop, or 128 MiB are taken. */
class Pusher {
  /** Bytes that the kernel took. */
  taken = 0;
  #stopping = false;
  readonly #done: Promise<void>;

  /** Writes `unit` again and again; always whole, also at the end. */
  constructor(peer: RawPeer, unit: Uint8Array) {
    this.#done = this.#push(peer, unit);
    this.#done.catch(() => {}); // told by stop()
  }

  /** Resolves when the last unit is written, which takes a peer that reads. */
  stop(): Promise<void> {
    this.#stopping = true;
    return this.#done;
  }

  async #push({ socket }: RawPeer, unit: Uint8Array): Promise<void> {
    while (!this.#stopping && this.taken < 128 * 1_048_576) {
      for (let at = 0; at < unit.length;) {
        const count = await socket.write(unit.subarray(at));
        at += count;
        this.taken += count;
      }
      await turn(); // a socket that always takes more would let no timer run
    }
  }
}

// -- A peer that does not read --------------------------------------------------------------------

Deno.test("serve() stops to read when its peer reads no answers, and loses none when it does", async () => {
  const limits = { outboundHighWaterBytes: 65_536, outboundLowWaterBytes: 16_384 }, unit = 10_000;
  await using server = serve({ port: 0, poison: true, ...limits }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  const serials = Array.from({ length: unit }, (_, index) => index + 1);
  const pusher = new Pusher(peer, joined(...serials.map((serial) => submitFrame(serial))));
  const taken = await settled(() => pusher.taken), { bytesRead, bytesWritten } = server.stats();
  // Each 13 bytes read became 14: some are with the kernel, others below the limit and what a read brings.
  assertLessOrEqual(bytesWritten, kernelBytes);
  assertLessOrEqual(bytesRead, bytesWritten + limits.outboundHighWaterBytes + 2 * readAheadBytes);
  // The peer's own kernel buffers, which the server's have grown to while it still read.
  assertLessOrEqual(taken, bytesRead + 3 * kernelBytes);

  const stopped = pusher.stop().then(() => peer.closeWrite());
  const answers = await within(readSlowly(peer, 262_144), "answers, then EOF");
  await stopped;
  const answered = joined(...serials.map((serial) => ackFrame(serial)));
  assertEquals(answers.length, pusher.taken / 13 * 14);
  let wrong = 0;
  for (let at = 0; at < answers.length; at += answered.length) {
    if (!equals(answers.subarray(at, at + answered.length), answered)) wrong++;
  }
  assertEquals(wrong, 0);
});

for (const kind of ["at once", "later"]) {
  Deno.test(`serveFrames() calls no handler when long replies, made ${kind}, are not read`, async () => {
    const replyBytes = 262_144, requests = 300, outboundHighWaterBytes = 262_144, maxInFlight = 8;
    await using server = serveFrames(
      { port: 0, poison: true, format: selfCounting, outboundHighWaterBytes, maxInFlight },
      (frame) => {
        const reply = new Uint8Array(replyBytes).fill(frame[0]!);
        return kind === "at once" ? reply : turn().then(() => reply);
      },
    );
    using peer = await RawPeer.connect(server.addr.port);
    const frames = Array.from({ length: requests }, (_, index) => frameOf(new Uint8Array([index & 255])));
    await within(peer.write(joined(...frames)), "written: so little fits into any buffer");
    const handled = await settled(() => server.stats().handled);
    // One reply more than the limit says, and those of the handlers that ran when it was reached.
    assertLessOrEqual(
      handled * replyBytes,
      kernelBytes + outboundHighWaterBytes + (1 + maxInFlight) * replyBytes,
    );

    await peer.closeWrite();
    const bodies = bodiesIn(await within(readSlowly(peer, 262_144), "replies, then EOF"));
    assertEquals(bodies.map((body) => body[0]), frames.map((_, index) => index & 255));
    const wrong = bodies.filter((body) => !equals(body, new Uint8Array(replyBytes).fill(body[0]!)));
    assertEquals(wrong.length, 0);
  });
}

// A reply is documented to be copied before its frame.s loan ends: then its buffer is the handler's again.
for (
  const [length, wait] of [[100, "a slow handler"], [32_768, "a slow handler"], [32_768, "the peer"]] as const
) {
  Deno.test(`serveFrames() sends what was returned when ${length} bytes wait behind ${wait}`, async () => {
    const scratch = new Uint8Array(length), requests = 100, first = Promise.withResolvers<Uint8Array>();
    await using server = serveFrames({ port: 0, poison: true, format: selfCounting }, (frame) => {
      const reply = scratch.fill(frame[0]!);
      return frame[0] === 0 && wait === "a slow handler" ? first.promise : reply;
    });
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(
      joined(...Array.from({ length: requests }, (_, index) => frameOf(new Uint8Array([index])))),
    );
    await peer.closeWrite();
    await until(() => server.stats().handled > 0, "handlers are called");
    await settled(() => server.stats().handled, 20);
    first.resolve(new Uint8Array(length));
    const bodies = bodiesIn(await within(peer.readToEnd(), "replies, then EOF"));
    const wrong = bodies.filter((body, index) => body.some((byte) => byte !== index)).length;
    assertEquals({ count: bodies.length, wrong }, { count: requests, wrong: 0 });
  });
}

Deno.test("serve() cuts a connection when its peer accepts nothing for writeTimeoutMs", async () => {
  const events = new ServerEvents();
  await using server = serve(
    { port: 0, poison: true, writeTimeoutMs: 50, onEvent: events.record },
    () => {},
  );
  using peer = await RawPeer.connect(server.addr.port);
  const pusher = new Pusher(
    peer,
    new Uint8Array(joined(...Array.from({ length: 1000 }, (_, i) => submitFrame(i)))),
  );
  const { code, limit } = await events.closed();
  assertEquals([code, limit], ["limit", "writeTimeoutMs"]);
  await within(pusher.stop().catch(() => {}), "the peer is cut off too");
});

Deno.test("serve() cuts nobody when a peer that answers wait for accepts a little now and then", async () => {
  const events = new ServerEvents(), rounds = 40;
  await using server = serveFrames(
    { port: 0, poison: true, writeTimeoutMs: 400, format: selfCounting, onEvent: events.record },
    () => new Uint8Array(1_048_576 - 4),
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(...Array.from({ length: rounds }, () => frameOf(new Uint8Array(1))));
  await settled(() => server.stats().bytesWritten, 50);
  // It takes much longer than writeTimeoutMs in all.
  for (let round = 0; round < rounds; round++) {
    await within(peer.readExactly(1_048_576), "a reply");
    await turn(20);
  }
  assertEquals(events.types.filter((type) => type !== "limit"), ["opened"]);
});

// -- Slow handlers --------------------------------------------------------------------------------

/** Handlers that settle when they are told to. */
class Gates {
  /** The most that ran at the same time. */
  most = 0;
  /** Those that run, oldest first. */
  readonly running: (() => void)[] = [];
  #open = false;

  /** Resolves when its turn comes. */
  wait(): Promise<void> {
    if (this.#open) return Promise.resolve();
    return new Promise((resolve) => {
      this.running.push(resolve);
      this.most = Math.max(this.most, this.running.length);
    });
  }

  /** Lets the oldest handlers settle. */
  release(count = 1): void {
    for (const resolve of this.running.splice(0, count)) resolve();
  }

  /** Lets all settle, and all that are still to come. */
  open(): void {
    this.#open = true;
    this.release(this.running.length);
  }
}

for (const maxInFlight of [1, 8, 100]) {
  Deno.test(`serve() runs ${maxInFlight} handlers and takes no more bytes when none settles`, async () => {
    const gates = new Gates();
    await using server = serve({ port: 0, poison: true, maxInFlight }, () => gates.wait());
    using peer = await RawPeer.connect(server.addr.port);
    const unit = Array.from({ length: 500 }, (_, index) => submitFrame(index, new Uint8Array(987)));
    const pusher = new Pusher(peer, joined(...unit));
    await settled(() => pusher.taken);
    const { inFlight, handled, bytesRead } = server.stats();
    assertEquals({ inFlight, handled, most: gates.most }, {
      inFlight: maxInFlight,
      handled: maxInFlight,
      most: maxInFlight,
    });
    assertLessOrEqual(bytesRead, maxInFlight * 1000 + readAheadBytes);

    // Each place that becomes free is taken again, and no more.
    for (let settled = 1; settled <= 20; settled++) {
      gates.release();
      await until(() => server.stats().handled === maxInFlight + settled, "the place is taken");
      assertEquals(server.stats().inFlight, maxInFlight);
    }
    gates.open();
    const stopped = pusher.stop().then(() => peer.closeWrite());
    const answers = await within(readSlowly(peer, 65_536), "answers, then EOF");
    await stopped;
    assertEquals({ most: gates.most, count: answers.length / 14 }, {
      most: maxInFlight,
      count: pusher.taken / 1000,
    });
  });
}

Deno.test("serveFrames() counts replies that wait when the first handler is slow", async () => {
  const first = Promise.withResolvers<void>(), maxInFlight = 16;
  await using server = serveFrames({ port: 0, poison: true, maxInFlight, format: selfCounting }, (frame) => {
    return frame[0] === 0 ? first.promise.then(() => frame) : frame;
  });
  using peer = await RawPeer.connect(server.addr.port);
  const frames = Array.from({ length: 200 }, (_, index) => frameOf(new Uint8Array([index])));
  await peer.write(...frames);
  await peer.closeWrite();
  assertEquals(await settled(() => server.stats().handled), maxInFlight);
  first.resolve();
  assertEquals(
    bodiesIn(await within(peer.readToEnd(), "replies, then EOF")),
    frames.map((frame) => frame.slice(4)),
  );
});

Deno.test("serve() bounds what it reads of each connection when many have slow handlers", async () => {
  const gates = new Gates(), peers: RawPeer[] = [], count = 16;
  await using server = serve({ port: 0, poison: true, maxInFlight: 1 }, () => gates.wait());
  try {
    const unit = joined(
      ...Array.from({ length: 1024 }, (_, index) => submitFrame(index, new Uint8Array(1011))),
    );
    const pushers: Pusher[] = [];
    for (let number = 0; number < count; number++) {
      const peer = await RawPeer.connect(server.addr.port);
      peers.push(peer);
      pushers.push(new Pusher(peer, unit));
    }
    await settled(() => pushers.reduce((sum, { taken }) => sum + taken, 0));
    assertEquals(server.stats().inFlight, count);
    assertLessOrEqual(server.stats().bytesRead, count * readAheadBytes);
    gates.open();
    const ends = pushers.map((pusher, index) => pusher.stop().then(() => peers[index]!.closeWrite()));
    const answers = await within(Promise.all(peers.map((peer) => peer.readToEnd())), "answers, then EOF");
    await Promise.all(ends);
    assertEquals(answers.map(({ length }) => length / 14), pushers.map(({ taken }) => taken / 1024));
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});

// -- Borrowed bytes -------------------------------------------------------------------------------

/** Sends each payload in a chunk of its own, so that each lies in a slab of its own unless it is copied. */
async function sendApart(peer: RawPeer, frames: Uint8Array[], arrived: () => number): Promise<void> {
  for (const [index, frame] of frames.entries()) {
    await peer.write(frame);
    await until(() => arrived() > index, `request ${index} has arrived`);
  }
}

const words = ["first", "second", "third", "fourth", "fifth"];

Deno.test("serve() keeps payloads that were taken as they are when several chunks are held", async () => {
  const payloads: Uint8Array[] = [], gates = new Gates();
  await using server = serve({ port: 0, poison: true }, ({ payload }) => {
    payloads.push(payload); // taken at once, and looked at until the handler settles
    return gates.wait();
  });
  using peer = await RawPeer.connect(server.addr.port);
  await sendApart(peer, words.map((word, index) => submitFrame(index, word)), () => payloads.length);
  await settled(() => server.stats().bytesRead, 20); // every slab that will be given back has been
  const seen = payloads.map(text);
  gates.open();
  await within(peer.readAcks(words.length), "answers");
  assertEquals(seen, words);
});

Deno.test("serve() gives the right payloads when asked for late and several chunks are held", async () => {
  const submits: Submit[] = [], gates = new Gates();
  await using server = serve({ port: 0, poison: true }, (submit) => {
    submits.push(submit);
    return gates.wait();
  });
  using peer = await RawPeer.connect(server.addr.port);
  await sendApart(peer, words.map((word, index) => submitFrame(index, word)), () => submits.length);
  const seen = submits.map(({ id, payload }) => [id, text(payload)]);
  gates.open();
  await within(peer.readAcks(words.length), "answers");
  assertEquals(seen, words.map((word, index) => [idOf(index), word]));
});

Deno.test("serveFrames() keeps frames that were taken as they are when several chunks are held", async () => {
  const frames: Uint8Array[] = [], gates = new Gates();
  await using server = serveFrames({ port: 0, poison: true, format: selfCounting }, async (frame) => {
    frames.push(frame);
    await gates.wait();
    return frame;
  });
  using peer = await RawPeer.connect(server.addr.port);
  const sent = words.map((word) => frameOf(new TextEncoder().encode(word)));
  await sendApart(peer, sent, () => frames.length);
  await settled(() => server.stats().bytesRead, 20);
  const seen = frames.map(text);
  gates.open();
  await peer.closeWrite();
  assertEquals(await within(peer.readToEnd(), "replies, then EOF"), joined(...sent));
  assertEquals(seen, words);
});

for (const kind of ["at once", "later"]) {
  Deno.test(`serve() overwrites a payload that was kept when its handler has settled ${kind}`, async () => {
    const kept: Uint8Array[] = [];
    await using server = serve({ port: 0, poison: true }, ({ payload }) => {
      kept.push(payload);
      return kind === "at once" ? undefined : turn();
    });
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(submitFrame(1, "keep me"));
    await within(peer.readAcks(1), "answer");
    await until(() => kept[0]!.every((byte) => byte === 0xdb), "the payload is poisoned");
  });

  Deno.test(`Submit.payload throws when it is first read after its handler has settled ${kind}`, async () => {
    const submits: Submit[] = [];
    await using server = serve({ port: 0, poison: true }, (submit) => {
      submits.push(submit);
      return kind === "at once" ? undefined : turn();
    });
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(submitFrame(1, "too late"));
    await within(peer.readAcks(1), "answer");
    assertThrows(() => submits[0]!.payload, TypeError, "payload");
  });
}

/** Sends each frame in two chunks, so that all of them straddle. */
async function sendCut(peer: RawPeer, frames: Uint8Array[], bytesRead: () => number): Promise<void> {
  let sent = bytesRead();
  for (const frame of frames) {
    for (const part of [frame.subarray(0, 6), frame.subarray(6)]) {
      await peer.write(part);
      sent += part.length;
      await until(() => bytesRead() === sent, "the part is read");
    }
  }
}

Deno.test("serve() keeps payloads that straddle chunks as they are while their handlers run", async () => {
  const payloads: Uint8Array[] = [], gates = new Gates();
  await using server = serve({ port: 0, poison: true }, ({ payload }) => {
    if (payload.length === 0) return;
    payloads.push(payload);
    return gates.wait();
  });
  using peer = await RawPeer.connect(server.addr.port);
  const frames = words.flatMap((word, index) => [submitFrame(index, word), submitFrame(99)]);
  await sendCut(peer, frames, () => server.stats().bytesRead);
  await until(() => server.stats().answered === words.length, "what comes between is answered");
  const seen = payloads.map(text);
  gates.open();
  await within(peer.readAcks(2 * words.length), "answers");
  assertEquals(seen, words);
  await until(() => payloads.every((payload) => payload.every((byte) => byte === 0xdb)), "they are poisoned");
});

Deno.test("serve() overwrites a payload that straddled chunks when its handler has settled at once", async () => {
  const kept: Uint8Array[] = [];
  await using server = serve({ port: 0, poison: true }, ({ payload }) => void kept.push(payload));
  using peer = await RawPeer.connect(server.addr.port);
  await sendCut(peer, [submitFrame(1, "keep me")], () => server.stats().bytesRead);
  await within(peer.readAcks(1), "answer");
  await until(() => kept[0]!.every((byte) => byte === 0xdb), "the payload is poisoned");
});

Deno.test("serveFrames() sends the right replies to frames that straddle chunks, late and at once", async () => {
  const gates = new Gates();
  await using server = serveFrames({ port: 0, poison: true, format: selfCounting }, (frame) => {
    return frame.length === 3 ? frame : gates.wait().then(() => frame);
  });
  using peer = await RawPeer.connect(server.addr.port);
  const sent = ["one", "second", "two", "fourth", "six"].map((word) =>
    frameOf(new TextEncoder().encode(word))
  );
  await sendCut(peer, sent, () => server.stats().bytesRead);
  gates.open();
  await peer.closeWrite();
  assertEquals(await within(peer.readToEnd(), "replies, then EOF"), joined(...sent));
});

Deno.test("connection.frames are the reader's for good where they straddle chunks too", async () => {
  const kept: Uint8Array[] = [];
  await using server = serveConnections(
    { port: 0, poison: true, format: selfCounting },
    async (connection) => {
      for await (const frame of connection.frames) kept.push(frame);
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  const sent = words.map((word) => frameOf(new TextEncoder().encode(word.repeat(300))));
  await sendCut(peer, sent, () => server.stats().bytesRead);
  await peer.closeWrite();
  await within(peer.readToEnd(), "EOF");
  assertEquals(kept.map(text), words.map((word) => word.repeat(300)));
});

Deno.test("serve() keeps every payload right when handlers of mixed slowness hold many chunks", async () => {
  const wrong: string[] = [], count = 3000, maxInFlight = 64;
  const payloadOf = (serial: number) => new Uint8Array(1 + serial * 37 % 2000).fill(serial % 251);
  await using server = serve({ port: 0, poison: true, maxInFlight }, (submit) => {
    const serial = Number(submit.id), { payload } = submit, right = payloadOf(serial);
    const check = () => {
      if (payload.length !== right.length || payload.some((byte) => byte !== right[0])) {
        wrong.push(idOf(serial));
      }
    };
    check();
    if (serial % 3 === 0) return;
    return turn(serial % 7).then(check);
  });
  using peer = await RawPeer.connect(server.addr.port);
  const answers = readSlowly(peer, 4096);
  for (let serial = 1; serial <= count; serial++) await peer.write(submitFrame(serial, payloadOf(serial)));
  await peer.closeWrite();
  assertEquals((await within(answers, "answers, then EOF")).length, count * 14);
  assertEquals(wrong.length, 0);
});

// -- Memory, and the clock: a connection without a kernel -----------------------------------------

function connectionOn(socket: ScriptedSocket, slabs: SlabPool, ticker = new Ticker(1000)): Connection {
  const format = new FrameFormat(selfCounting),
    remoteAddr = { transport: "tcp", hostname: "", port: 0 } as const;
  return new Connection(socket, remoteAddr, {
    format,
    slabs,
    limits: { writeTimeoutMs: 10_000, frameTimeoutMs: Infinity, idleTimeoutMs: Infinity },
    ticker,
    budget: null,
  });
}

/** Takes everything; `take` may keep the slab. */
function consumer(take: (slab: Slab) => void, ready: () => Promise<void> | null = () => null): FrameConsumer {
  return {
    ready,
    take(batch, _from, slab) {
      take(slab);
      return batch.count;
    },
  };
}

const frame = frameOf(new Uint8Array(96));

Deno.test("Connection stops to read when two slabs are held, until one is given back", async () => {
  const slabs = new SlabPool({ poison: true }), socket = new ScriptedSocket(endless(frame), () => forever);
  const connection = connectionOn(socket, slabs), held: Slab[] = [];
  const pumped = connection.pump(consumer((slab) => {
    slab.users++;
    held.push(slab);
  }));
  assertEquals(await settled(() => socket.reads), 2);
  for (let reads = 3; reads <= 20; reads++) {
    connection.release(held.shift()!);
    assertEquals(await settled(() => socket.reads, 5), reads);
    assertLessOrEqual(slabs.leasedBytes, readAheadBytes);
  }
  connection.abort(null);
  await within(pumped, "the pump ends");
});

Deno.test("Connection goes on reading with two slabs when consumers copy once it is pinned", async () => {
  const slabs = new SlabPool({ poison: true });
  let mostBytes = 0, pinned = 0;
  const fill = endless(frame);
  const socket: ScriptedSocket = new ScriptedSocket(
    (buffer) => socket.reads > 500 ? forever : fill(buffer),
    () => forever,
  );
  const connection = connectionOn(socket, slabs);
  const pumped = connection.pump(consumer((slab) => {
    mostBytes = Math.max(mostBytes, slabs.leasedBytes);
    if (connection.pinned) pinned++;
    else slab.users++; // never given back
  }));
  await until(() => socket.reads === 501, "all is read");
  assertLessOrEqual(mostBytes, readAheadBytes);
  assertGreater(pinned, 490);
  connection.abort(null);
  await within(pumped, "the pump ends");
});

Deno.test("SlabPool lends little to each connection when many are slow from the start", async () => {
  const slabs = new SlabPool({ poison: true }), count = 200;
  const connections = Array.from({ length: count }, () => {
    return connectionOn(new ScriptedSocket(endless(frame), () => forever), slabs);
  });
  const pumps = connections.map((connection) => {
    let taken = false;
    return connection.pump(consumer(() => void (taken = true), () => taken ? forever : null));
  });
  assertLessOrEqual(await settled(() => slabs.leasedBytes), count * 16_384);
  for (const connection of connections) connection.abort(null);
  await within(Promise.all(pumps), "the pumps end");
});

Deno.test("SlabPool lends two slabs at most to each connection when many became slow", async () => {
  const slabs = new SlabPool({ poison: true }), count = 20;
  const connections = Array.from({ length: count }, () => {
    return connectionOn(new ScriptedSocket(endless(frame), () => forever), slabs);
  });
  const pumps = connections.map((connection) => {
    let takes = 0;
    return connection.pump(consumer(() => void takes++, () => takes < 20 ? null : forever));
  });
  assertLessOrEqual(await settled(() => slabs.leasedBytes), count * readAheadBytes);
  for (const connection of connections) connection.abort(null);
  await within(Promise.all(pumps), "the pumps end");
});

Deno.test("SlabPool has everything back when connections are cut in the middle of their work", async () => {
  const slabs = new SlabPool({ poison: true });
  for (const takes of [0, 1, 5]) {
    const socket = new ScriptedSocket(endless(frame), () => forever),
      connection = connectionOn(socket, slabs);
    let taken = 0;
    const pumped = connection.pump(consumer(() => void taken++, () => taken < takes ? null : forever));
    await settled(() => socket.reads, 20);
    connection.out.put(new Uint8Array(100));
    connection.out.flush();
    connection.abort(null);
    await within(pumped, "the pump ends");
    await within(connection.discard(), "what was read ahead is thrown away");
  }
  await until(() => slabs.leasedBytes === 0, "nothing is on loan");
});

/** A connection with bytes to write, and a clock that the test turns. */
function clocked(sink: (bytes: Uint8Array) => number | Promise<number>) {
  const ticker = new Ticker(1000); // ticks of 250 ms: 10 s are 40, and the one under way
  const connection = connectionOn(new ScriptedSocket(() => forever, sink), new SlabPool(), ticker);
  const tick = async (times: number) => {
    for (let i = 0; i < times; i++) {
      connection.tick(++ticker.now, false);
      await Promise.resolve();
    }
  };
  const put = (length: number) => {
    connection.out.put(new Uint8Array(length));
    connection.out.flush();
  };
  return { connection, tick, put };
}

Deno.test("Connection.tick() cuts when nothing was accepted for writeTimeoutMs", async () => {
  const { connection, tick, put } = clocked(() => forever);
  await tick(1);
  put(100);
  await tick(39);
  assertEquals(connection.open, true);
  await tick(3);
  assertEquals((await within(connection.closed, "closed")).limit, "writeTimeoutMs");
});

Deno.test("Connection.tick() gives the first write its time when a tick finds it under way", async () => {
  const { connection, tick, put } = clocked(() => forever);
  put(100);
  await tick(39);
  assertEquals(connection.open, true);
  connection.abort(null);
});

Deno.test("Connection.tick() gives a later write its time when it begins after a long rest", async () => {
  let accept = true;
  const { connection, tick, put } = clocked(({ length }) => accept ? length : forever);
  put(100);
  await connection.out.accepted();
  await tick(500);
  accept = false;
  put(100);
  await tick(39);
  assertEquals(connection.open, true);
  connection.abort(null);
});

Deno.test("Connection.tick() cuts nobody when a byte is accepted within each writeTimeoutMs", async () => {
  let accept = Promise.withResolvers<number>();
  const { connection, tick, put } = clocked(() => accept.promise);
  await tick(1);
  put(100);
  for (let byte = 1; byte <= 50; byte++) {
    await tick(39);
    const before = accept;
    accept = Promise.withResolvers();
    before.resolve(1);
    await until(() => connection.out.acceptedBytes === byte, "a byte is accepted");
  }
  assertEquals(connection.open, true);
  connection.abort(null);
});
