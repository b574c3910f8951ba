// Is every answer delivered when one side ends its sending first? The peer's FIN, ours, a FIN in mid-frame,
// and one chunk that becomes more than the kernel takes.

import { assertEquals, assertLess, assertRejects } from "@std/assert";
import {
  type CloseReason,
  type Duplex,
  duplex,
  FrameDecoderStream,
  FrameError,
  type ListenOptions,
  type Server,
} from "../mod.ts";
import { serve, serveConnections, serveFrames } from "./support/doors.ts";
import { forever, ScriptedSocket } from "./support/byte_socket.ts";
import { factsOf, ServerEvents } from "./support/events.ts";
import { bodiesIn, readSlowly, selfCounting } from "./support/frames.ts";
import { acksIn, frameOf, idOf, joined, RawPeer, submitFrame } from "./support/peer.ts";
import { turn } from "./support/turn.ts";
import { settled, until, within } from "./support/wait.ts";

/** One of the three ways to serve, for requests that carry a serial number, which their answers repeat. */
interface Door {
  readonly name: string;
  /** Whether the answers must come in the order of the requests. */
  readonly ordered: boolean;
  /** `due` says what an answer waits for, if anything. */
  open(options: ListenOptions, due: (serial: number) => Promise<void> | null): Server;
  request(serial: number): Uint8Array;
  /** The serial numbers of the answers. */
  serials(answers: Uint8Array): number[];
}

const framed = {
  ordered: true,
  request: (serial: number) => frameOf(new TextEncoder().encode(idOf(serial))),
  serials: (answers: Uint8Array) => bodiesIn(answers).map(serialOf),
};

const doors: Door[] = [
  {
    name: "serve()",
    ordered: false,
    open: (options, due) => serve(options, ({ id }) => due(Number(id)) ?? undefined),
    request: (serial) => submitFrame(serial),
    serials: (answers) => acksIn(answers).map(({ id }) => Number(id)),
  },
  {
    ...framed,
    name: "serveFrames()",
    open: (options, due) =>
      serveFrames({ ...options, format: selfCounting }, (frame) => {
        return due(serialOf(frame))?.then(() => frame) ?? frame;
      }),
  },
  {
    ...framed,
    name: "serveConnections()",
    open: (options, due) =>
      serveConnections({ ...options, format: selfCounting }, async (connection) => {
        for await (const frame of connection.frames) {
          await due(serialOf(frame));
          await connection.send(frame);
        }
      }),
  },
];

function serialOf(body: Uint8Array): number {
  return Number(new TextDecoder().decode(body));
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

function requestsOf({ request }: Door, count: number): Uint8Array {
  return joined(...upTo(count).map(request));
}

/** Asserts that each request was answered exactly once, and in order where that is promised. */
function assertAllAnswered({ ordered, serials }: Door, answers: Uint8Array, count: number): void {
  const seen = serials(answers);
  assertEquals(ordered ? seen : seen.sort((one, other) => one - other), upTo(count));
}

for (const door of doors) {
  for (const count of [1, 100, 20_000]) {
    Deno.test(`${door.name} answers ${count} requests, then ends, when the FIN comes with them`, async () => {
      const events = new ServerEvents();
      await using server = door.open({ port: 0, poison: true, onEvent: events.record }, () => null);
      using peer = await RawPeer.connect(server.addr.port);
      await within(peer.write(requestsOf(door, count)), "written");
      await peer.closeWrite();
      assertAllAnswered(door, await within(readSlowly(peer, 300), "answers, then EOF"), count);
      assertEquals((await events.closed()).code, "ended");
    });

    Deno.test(`${door.name} answers ${count} requests, then ends, when handlers are slow`, async () => {
      const events = new ServerEvents(), fin = Promise.withResolvers<void>();
      // The first ones settle in another order than they were called in.
      const slow = (serial: number) =>
        fin.promise.then(() => serial > 50 ? undefined : turn((serial * 7) % 5));
      await using server = door.open({ port: 0, poison: true, onEvent: events.record }, slow);
      using peer = await RawPeer.connect(server.addr.port);
      await within(peer.write(requestsOf(door, count)), "written");
      await peer.closeWrite();
      fin.resolve();
      assertAllAnswered(door, await within(readSlowly(peer, 300), "answers, then EOF"), count);
      assertEquals((await events.closed()).code, "ended");
    });
  }

  Deno.test(`${door.name} leaves all answers to the kernel when its peer reads too late`, async () => {
    const events = new ServerEvents();
    await using server = door.open({ port: 0, poison: true, onEvent: events.record }, () => turn());
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(requestsOf(door, 100));
    await peer.closeWrite();
    await events.closed();
    assertAllAnswered(door, await within(peer.readToEnd(), "answers, then EOF"), 100);
  });

  Deno.test(`${door.name} ends without an answer when the peer sends nothing but its FIN`, async () => {
    const events = new ServerEvents();
    await using server = door.open({ port: 0, poison: true, onEvent: events.record }, () => null);
    using peer = await RawPeer.connect(server.addr.port);
    await peer.closeWrite();
    assertEquals(await within(peer.readToEnd(), "EOF"), new Uint8Array(0));
    const { code, error, bytesRead, bytesWritten } = await events.closed();
    assertEquals({ code, error, bytesRead, bytesWritten }, {
      code: "ended",
      error: null,
      bytesRead: 0,
      bytesWritten: 0,
    });
    assertEquals(events.types, ["opened", "closed"]);
  });
}

// -- FIN in mid-frame -----------------------------------------------------------------------------

/** How many bytes of a frame come, and what the decoder then needs: the length field first, then all. */
function cutsOf(length: number) {
  return [1, 3].map((have) => ({ have, need: 4 })).concat(
    [4, 5, length - 1].map((have) => ({ have, need: length })),
  );
}

for (const door of doors) {
  const whole = door.request(3);
  for (const { have, need } of cutsOf(whole.length)) {
    const told = { name: "FrameError", code: "truncated", met: have, limit: need } as const;

    Deno.test(`${door.name} tells of ${have} bytes of ${need} when the FIN comes in mid-frame`, async () => {
      const events = new ServerEvents();
      await using server = door.open({ port: 0, poison: true, onEvent: events.record }, () => null);
      using peer = await RawPeer.connect(server.addr.port);
      await peer.write(joined(requestsOf(door, 2), whole.subarray(0, have)));
      await peer.closeWrite();
      const answers = door.serials(await within(peer.readToEnd(), "answers, then EOF"));
      const reason: CloseReason = await events.closed(), { error } = await events.next("protocol-error");
      assertEquals(
        { answers, told: factsOf(error), code: reason.code, counted: server.stats().protocolErrors },
        { answers: [1, 2], told, code: "truncated", counted: 1 },
      );
      assertEquals(reason.error, error);
      assertEquals(events.types, ["opened", "protocol-error", "closed"]);
    });
  }

  Deno.test(`${door.name} answers what came before when the FIN comes in mid-frame`, async () => {
    const events = new ServerEvents(), fin = Promise.withResolvers<void>();
    await using server = door.open(
      { port: 0, poison: true, onEvent: events.record },
      () => fin.promise.then(() => turn()),
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(requestsOf(door, 2), whole.subarray(0, 4)));
    await peer.closeWrite();
    fin.resolve();
    assertEquals(door.serials(await within(peer.readToEnd(), "answers, then EOF")), [1, 2]);
    assertEquals((await events.closed()).code, "truncated");
  });

  Deno.test(`${door.name} tells of a truncation when the FIN comes after a piece of a frame`, async () => {
    const events = new ServerEvents();
    await using server = door.open({ port: 0, poison: true, onEvent: events.record }, () => null);
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(whole.subarray(0, 4));
    await until(() => server.stats().bytesRead === 4, "the length field is read");
    await peer.closeWrite();
    assertEquals(await within(peer.readToEnd(), "EOF"), new Uint8Array(0));
    assertEquals((await events.closed()).code, "truncated");
  });
}

Deno.test("serve() tells how much of a frame came when the FIN cuts one of many chunks short", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await within(peer.write(submitFrame(1, new Uint8Array(999_987)).subarray(0, 700_001)), "written");
  await peer.closeWrite();
  assertEquals(await within(peer.readToEnd(), "EOF"), new Uint8Array(0));
  const { error } = await events.next("protocol-error");
  assertEquals(factsOf(error), { name: "FrameError", code: "truncated", met: 700_001, limit: 1_000_000 });
});

for (const kind of ["serve()", "serveFrames()"]) {
  Deno.test(`${kind} stops when it is shut down while a peer that half-closed waits`, async () => {
    const door = doors.find(({ name }) => name === kind)!, events = new ServerEvents();
    const slow = Promise.withResolvers<void>();
    await using server = door.open(
      { port: 0, poison: true, drainTimeoutMs: 5000, onEvent: events.record },
      () => slow.promise,
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(requestsOf(door, 3));
    await until(() => server.stats().inFlight === 3, "handlers run");
    await peer.closeWrite();
    await turn(); // the FIN is read, and what reads it waits for the handlers
    const stopped = server.shutdown();
    await turn(10); // now the shutdown waits for them too
    slow.resolve();
    assertAllAnswered(door, await within(peer.readToEnd(), "answers, then EOF"), 3);
    await within(stopped, "the server has stopped", 3000);
  });
}

// -- Our FIN --------------------------------------------------------------------------------------

for (const count of [1, 100, 20_000]) {
  Deno.test(`FrameConnection.end() leaves ${count} frames to read when more are sent`, async () => {
    const events = new ServerEvents(), read: number[] = [];
    await using server = serveConnections(
      { port: 0, poison: true, format: selfCounting, onEvent: events.record },
      async (connection) => {
        await connection.send(new TextEncoder().encode("all I say"));
        await connection.end();
        for await (const frame of connection.frames) read.push(serialOf(frame));
      },
    );
    using peer = await RawPeer.connect(server.addr.port);
    const said = bodiesIn(await within(peer.readToEnd(), "a frame, then EOF"));
    assertEquals(said.map((body) => new TextDecoder().decode(body)), ["all I say"]);
    // Only now does the peer begin.
    await within(peer.write(requestsOf(doors[2]!, count)), "written");
    await peer.closeWrite();
    assertEquals((await events.closed()).code, "ended");
    assertEquals(read, upTo(count));
  });
}

Deno.test("FrameConnection.end() comes behind what was sent when sends are not waited for", async () => {
  const body = new Uint8Array(65_536).fill(7);
  await using server = serveConnections(
    { port: 0, poison: true, format: selfCounting },
    async (connection) => {
      const sent = upTo(200).map(() => connection.send(body));
      await connection.end();
      await Promise.all(sent);
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  await settled(() => server.stats().bytesWritten); // the kernel is full
  const bodies = bodiesIn(await within(readSlowly(peer, 65_536), "frames, then EOF"));
  assertEquals(bodies.map(({ length }) => length), upTo(200).map(() => body.length));
});

Deno.test("FrameConnection.send() rejects when this side has ended", async () => {
  const tried = Promise.withResolvers<void>();
  await using server = serveConnections({ port: 0, poison: true }, async (connection) => {
    await connection.end();
    tried.resolve(connection.send(new Uint8Array(1)));
  });
  using _peer = await RawPeer.connect(server.addr.port);
  await assertRejects(() => within(tried.promise, "sent"), Deno.errors.BrokenPipe);
});

// -- One chunk that becomes more than the kernel takes --------------------------------------------

const blocks = 200, blockBytes = 65_536;
const blockRequests = joined(...upTo(blocks).map((serial) => frameOf(new Uint8Array([serial]))));

function block(serial: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(blockBytes).fill(serial);
}

/** How many blocks lie at the front of `bytes`, each whole and in order. */
function blocksIn(bytes: Uint8Array): number {
  let count = 0;
  for (let at = 0; at + blockBytes <= bytes.length; at += blockBytes) {
    const serial = count + 1;
    if (!bytes.subarray(at, at + blockBytes).every((byte) => byte === serial)) break;
    count++;
  }
  return count;
}

/** Makes a block of each frame: 200 in one chunk become 13 MB, of which the kernel takes a third. */
function expandFrames({ readable, writable }: Duplex, onReadEnd: () => void): Promise<void> {
  return readable
    .pipeThrough(new TransformStream({ flush: onReadEnd }))
    .pipeThrough(new FrameDecoderStream(selfCounting))
    .pipeThrough(
      new TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>({
        transform: (frame, controller) => controller.enqueue(block(frame[0]!)),
      }),
    )
    .pipeTo(writable);
}

/** Sends 200 requests and a FIN to a pipeline, and begins to read when the pipeline has seen the FIN. */
async function throughPipeline(streamsOf: (socket: Deno.TcpConn) => Duplex): Promise<{
  received: Uint8Array;
  piped: PromiseSettledResult<void>;
}> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = listener.accept();
  using peer = await RawPeer.connect(listener.addr.port);
  using socket = await accepted;
  await peer.write(blockRequests);
  await peer.closeWrite();
  const ended = Promise.withResolvers<void>();
  const piped = Promise.allSettled([expandFrames(streamsOf(socket), ended.resolve)]);
  await within(ended.promise, "the pipeline sees the FIN while it is full");
  const received = await within(readSlowly(peer, blockBytes), "EOF");
  return { received, piped: (await within(piped, "the pipeline is done"))[0]! };
}

Deno.test("duplex() delivers all when a chunk becomes many frames and the peer half-closed", async () => {
  const { received, piped } = await throughPipeline(duplex);
  assertEquals({ bytes: received.length, blocks: blocksIn(received) }, {
    bytes: blocks * blockBytes,
    blocks,
  });
  assertEquals(piped.status, "fulfilled");
});

Deno.test("Deno's own streams lose data when a chunk becomes many and the peer half-closed", async () => {
  const { received } = await throughPipeline((socket) => socket);
  assertLess(
    received.length,
    blocks * blockBytes,
    "Good news: conn.readable no longer closes all at EOF, which was the reason for duplex(): think again",
  );
});

for (const kind of ["at once", "later"]) {
  Deno.test(`serveFrames() delivers all when one chunk becomes many long replies, made ${kind}`, async () => {
    const events = new ServerEvents(), format = { ...selfCounting };
    await using server = serveFrames({ port: 0, poison: true, format, onEvent: events.record }, (frame) => {
      const reply = block(frame[0]!);
      return kind === "at once" ? reply : turn().then(() => reply);
    });
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(blockRequests);
    await peer.closeWrite();
    await settled(() => server.stats().bytesWritten); // the kernel is full
    const bodies = bodiesIn(await within(readSlowly(peer, blockBytes), "replies, then EOF"));
    assertEquals(bodies.length, blocks);
    assertEquals(blocksIn(joined(...bodies)), blocks);
    assertEquals((await events.closed()).code, "ended");
  });
}

// -- duplex() -------------------------------------------------------------------------------------

async function pair(): Promise<{ peer: RawPeer; socket: Deno.TcpConn }> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = listener.accept(), peer = await RawPeer.connect(listener.addr.port);
  return { peer, socket: await accepted };
}

for (const end of [3, null]) {
  Deno.test(`duplex() goes on writing when its readable was cancelled before a read of ${end}`, async () => {
    const read = Promise.withResolvers<number | null>(), written: number[] = [];
    const socket: ScriptedSocket = new ScriptedSocket(
      () => socket.reads === 1 ? read.promise : forever,
      (bytes) => {
        written.push(...bytes);
        return bytes.length;
      },
    );
    const { readable, writable } = duplex(socket),
      reader = readable.getReader(),
      writer = writable.getWriter();
    reader.read();
    await until(() => socket.reads === 1, "a read is under way");
    await within(reader.cancel(), "cancelled");
    read.resolve(end); // for nobody, and no reason to stop
    await turn();
    await within(writer.write(new Uint8Array([1, 2])), "written");
    await within(writer.close(), "closed");
    assertEquals({ written, halfClosed: socket.halfClosed }, { written: [1, 2], halfClosed: true });
  });
}

Deno.test("duplex() goes on reading when its writable is closed", async () => {
  const { peer, socket } = await pair();
  using _peer = peer, _socket = socket;
  const { readable, writable } = duplex(socket);
  await within(writable.close(), "half-closed");
  assertEquals(await within(peer.readToEnd(), "EOF"), new Uint8Array(0));
  await peer.write(new TextEncoder().encode("and I"));
  await peer.closeWrite();
  assertEquals(
    await within(new Response(readable as ReadableStream<Uint8Array<ArrayBuffer>>).text(), "read"),
    "and I",
  );
});

Deno.test("FrameDecoderStream shows a truncation behind the last frame when a duplex() ends", async () => {
  const { peer, socket } = await pair();
  using _peer = peer, _socket = socket;
  await peer.write(joined(frameOf(new Uint8Array([1])), new Uint8Array([0, 0, 0, 9])));
  await peer.closeWrite();
  const reader = duplex(socket).readable.pipeThrough(new FrameDecoderStream(selfCounting)).getReader();
  assertEquals((await within(reader.read(), "a frame")).value, new Uint8Array([1]));
  const error = await assertRejects(() => within(reader.read(), "the error"), FrameError);
  assertEquals(factsOf(error), { name: "FrameError", code: "truncated", met: 4, limit: 9 });
});
