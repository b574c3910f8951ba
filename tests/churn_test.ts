// Thousands of short connections: what is left behind when they are gone? Nothing.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { assert, assertEquals } from "@std/assert";
import {
  connect,
  connectFrames,
  serve,
  serveConnections,
  serveFrames,
  type Server,
  type ServerEvent,
} from "../mod.ts";
import { Acceptor } from "../transport/acceptor.ts";
import { Wire } from "../testkit/mod.ts";
import { idOf, RawPeer, submitFrame } from "./support/peer.ts";
import { idsOf, plainFrame, plainFramesIn, UnhandledRejections } from "./support/raw_server.ts";
import { Recorder, until, within } from "./support/wait.ts";

const base = { port: 0, poison: true, drainTimeoutMs: 5000 } as const;
const plain = { initialBytesToStrip: 4 } as const;
const linux = Deno.build.os === "linux";
const seed = Number(Deno.env.get("CHURN_SEED") ?? crypto.getRandomValues(new Uint32Array(1))[0]!);

/** Gives up even where it is the end of a test that hangs. */
function test(name: string, fn: () => void | Promise<void>, ignore = false): void {
  Deno.test({ name, fn, ignore, timeout: 60_000 });
}

/** How many descriptors this process has open; 0 where that cannot be known. */
function openDescriptors(): number {
  return linux ? [...Deno.readDirSync("/proc/self/fd")].length : 0;
}

/** Runs `work` for 0 to `total` - 1, `atOnce` of them at a time. */
async function churn(total: number, atOnce: number, work: (index: number) => Promise<void>): Promise<void> {
  let index = 0;
  const lane = async () => {
    while (index < total) await work(index++);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

/** How many connections a server has met: what was gone before it was accepted is an error of accepting. */
function seenBy(server: Server): number {
  const { connectionsAccepted, acceptErrors } = server.stats();
  return connectionsAccepted + acceptErrors;
}

/** Numbers from 0 to `below` - 1 that a seed repeats. */
function numbersOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

for (const { total, atOnce } of [{ total: 3000, atOnce: 1 }, { total: 2000, atOnce: 50 }]) {
  test(`serve() and connect() leave no descriptor behind ${total} connections, ${atOnce} at a time`, async () => {
    const before = openDescriptors();
    {
      await using server = serve(base, ({ payload }) => payload[0]);
      const { port } = server.addr;
      await within(
        churn(total, atOnce, async (index) => {
          await using client = await connect({ port, poison: true, reconnect: false });
          const result = 10 + (index & 127);
          assertEquals((await client.submit(new Uint8Array([result]))).result, result);
        }),
        "all connections",
        40_000,
      );
      await until(() => server.stats().connectionsOpen === 0, "the server's sides are closed");
      const { connectionsAccepted, handled, inFlight, bytesRead, bytesWritten } = server.stats();
      assertEquals(
        { connectionsAccepted, handled, inFlight, bytesRead, bytesWritten },
        {
          connectionsAccepted: total,
          handled: total,
          inFlight: 0,
          bytesRead: total * 14,
          bytesWritten: total * 14,
        },
      );
      const { protocolErrors, handlerErrors, acceptErrors } = server.stats();
      assertEquals([protocolErrors, handlerErrors, acceptErrors], [0, 0, 0]);
    }
    await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
  });
}

test("serve() serves 1000 connections that are open at once, and leaves no descriptor behind", async () => {
  const total = 1000, before = openDescriptors();
  {
    await using server = serve(base, ({ payload }) => payload[0]);
    const { port } = server.addr;
    const clients = await within(
      Promise.all(Array.from({ length: total }, () => connect({ port, poison: true, reconnect: false }))),
      "all are connected",
    );
    const answers = await within(
      Promise.all(clients.map((client, i) => client.submit(new Uint8Array([10 + (i & 127)])))),
      "all answers",
    );
    assertEquals(answers.map(({ result }) => result), answers.map((_, i) => 10 + (i & 127)));
    assertEquals(server.stats().connectionsOpen, total);
    await within(Promise.all(clients.map((client) => client.end())), "all have ended");
    await until(() => server.stats().connectionsOpen === 0, "the server's sides are closed");
  }
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

test("serveFrames() and serveConnections() leave no descriptor behind 1000 connections each", async () => {
  const before = openDescriptors();
  {
    await using frames = serveFrames({ ...base, format: plain }, (frame) => frame);
    await using connections = serveConnections({ ...base, format: plain }, async (connection) => {
      for await (const frame of connection.frames) await connection.send(frame);
    });
    const servers = [frames, connections];
    await within(
      churn(2000, 20, async (index) => {
        const { port } = servers[index & 1]!.addr;
        await using connection = await connectFrames({ port, poison: true, format: plain });
        await connection.send(new Uint8Array([index & 255]));
        await connection.end();
        assertEquals((await Array.fromAsync(connection.frames)).map((frame) => [...frame]), [[index & 255]]);
      }),
      "all connections",
      40_000,
    );
    for (const server of servers) {
      await until(() => server.stats().connectionsOpen === 0, "the server's sides are closed");
      assertEquals(server.stats().connectionsAccepted, 1000);
    }
  }
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

test("connect() leaves no descriptor behind 500 attempts that fail in each way", async () => {
  const before = openDescriptors();
  const closed = Deno.listen({ hostname: "127.0.0.1", port: 0 }), refusedPort = closed.addr.port;
  closed.close();
  {
    // Ends every connection at once, so every session fails.
    await using server = serveConnections(base, () => {});
    const { port } = server.addr;
    await within(
      churn(1500, 20, async (index) => {
        const controller = new AbortController(), { signal } = controller;
        const failed = index % 3 === 0
          ? connect({ port: refusedPort })
          : index % 3 === 1
          ? connect({ port, name: "gauge" })
          : connect({ port, signal, name: "gauge" });
        if (index % 3 === 2) queueMicrotask(() => controller.abort(new Error("not any more")));
        assertEquals(await failed.then(() => "connected", () => "failed"), "failed");
      }),
      "all attempts",
      30_000,
    );
  }
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

test("serve() and connect() hold no more memory after thousands of connections than after hundreds", async () => {
  await using server = serve(base, () => Promise.resolve());
  const { port } = server.addr, payload = new Uint8Array(3000);
  const round = (total: number) =>
    within(
      churn(total, 20, async () => {
        await using client = await connect({ port, poison: true, reconnect: false });
        await Promise.all([client.submit(payload), client.submit(payload), client.submit(payload)]);
      }),
      "all connections",
      40_000,
    );
  await round(800);
  const before = await heldBytes();
  await round(1600);
  // What is kept for a connection would show 1600 times: 2 KiB each would be 3 MiB.
  const grown = (await heldBytes() - before) / 1_048_576;
  assert(grown < 3, `memory grew by ${grown.toFixed(1)} MiB`);
});

/** Bytes that objects and buffers hold when all garbage is collected. */
async function heldBytes(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let turn = 0; turn < 4; turn++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

const endings = ["half-close", "close", "reset", "cut frame", "half-close at once", "garbage"] as const;

test(`serve() survives 1500 connections that end in every way, and its counts are right (CHURN_SEED=${seed})`, async () => {
  const total = 1500, before = openDescriptors(), next = numbersOf(seed);
  using unhandled = new UnhandledRejections();
  const events = new Recorder<ServerEvent>();
  const done = { requests: 0, cuts: 0, garbage: 0, resets: 0 };
  const wrong: string[] = [];
  {
    await using server = serve({ ...base, onEvent: events.record }, ({ payload }) => {
      const result = payload[0] ?? 0;
      return result & 1 ? result : new Promise((go) => setTimeout(() => go(result), result & 3));
    });
    const { port } = server.addr;
    await within(
      churn(total, 40, async (index) => {
        const ending = endings[next(endings.length)]!, count = next(20);
        const frames = Array.from(
          { length: count },
          (_, i) => submitFrame(i + 1, new Uint8Array(1 + next(2000)).fill(10 + next(100))),
        );
        if (ending === "reset") {
          done.resets++;
          await using wire = await Wire.connect({ port });
          for (const frame of frames) void wire.send(frame);
          if (next(2)) await new Promise((go) => setTimeout(go, next(4)));
          return wire.reset();
        }
        using peer = await RawPeer.connect(port);
        if (ending === "half-close at once") await peer.closeWrite();
        if (ending === "half-close at once") frames.length = 0;
        for (const frame of frames) await peer.write(frame);
        if (ending === "close") return;
        done.requests += frames.length;
        if (ending === "cut frame") {
          done.cuts++;
          const frame = submitFrame(99, new Uint8Array(50));
          await peer.write(frame.subarray(0, 1 + next(frame.length - 1)));
        } else if (ending === "garbage") {
          done.garbage++;
          await peer.write(new Uint8Array([0xff, 0, 0, 0, 1, 2, 3]));
        }
        if (ending !== "half-close at once") await peer.closeWrite();
        const acks = await within(peer.readAcksToEnd(), `answers to connection ${index}: ${ending}`, 20_000);
        const ids = acks.map(({ id }) => id).sort();
        const expected = idsOf(1, frames.length);
        if (ids.join() !== expected.join()) {
          wrong.push(`${ending}: ${ids.length} of ${expected.length} answers`);
        }
        const results = acks.map(({ id, result }) => result === frames[Number(id) - 1]![13]);
        if (!results.every((right) => right)) wrong.push(`${ending}: a wrong result`);
      }),
      "all connections",
      40_000,
    );
    assertEquals(wrong, []);
    // Those that were gone before they were accepted are met too, as connections or as errors.
    await until(() => seenBy(server) >= total, "all are accepted");
    await until(() => server.stats().connectionsOpen === 0, "the server's sides are closed");
    await until(() => server.stats().inFlight === 0, "no handler runs");
    const stats = server.stats();
    assert(stats.connectionsAccepted <= total);
    assertEquals(events.items.filter(({ type }) => type === "protocol-error").length, stats.protocolErrors);
    // A connection that was closed or reset never shows a cut frame of its own: only these do.
    assertEquals(stats.protocolErrors, done.cuts + done.garbage);
    assert(stats.handled >= done.requests, `${stats.handled} handled, at least ${done.requests} sent`);
    assertEquals([stats.handlerErrors, stats.limits.handlerTimeoutMs, stats.listenerErrors], [0, 0, 0]);
    const opened = events.items.filter(({ type }) => type === "opened").length;
    const closed = events.items.filter((event) => event.type === "closed");
    assertEquals(closed.length, opened);
    assert(opened <= stats.connectionsAccepted && opened >= total - stats.acceptErrors);
    const byCode = (code: string) => closed.filter(({ reason }) => reason.code === code).length;
    assertEquals([byCode("protocol"), byCode("truncated")], [done.garbage, done.cuts]);
    assertEquals(byCode("failed"), 0);
    using peer = await RawPeer.connect(port);
    await peer.write(submitFrame(1, new Uint8Array([77])));
    const [ack] = await within(peer.readAcks(1), "an answer at last");
    assertEquals([ack!.id, ack!.result], [idOf(1), 77]);
  }
  assertEquals(unhandled.reasons, []);
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

test(`serveFrames() survives 600 connections that end in every way (CHURN_SEED=${seed})`, async () => {
  const total = 600, before = openDescriptors(), next = numbersOf(seed + 1), wrong: string[] = [];
  using unhandled = new UnhandledRejections();
  {
    await using server = serveFrames({ ...base, format: plain }, (frame) => {
      return frame[0]! & 1 ? frame : new Promise((go) => setTimeout(() => go(frame), frame[0]! & 3));
    });
    const { port } = server.addr;
    await within(
      churn(total, 30, async () => {
        const ending = next(3), count = next(8);
        const bodies = Array.from({ length: count }, () => new Uint8Array(1 + next(30_000)).fill(next(256)));
        if (ending === 0) {
          await using wire = await Wire.connect({ port });
          for (const body of bodies) void wire.send(plainFrame(body));
          return wire.reset();
        }
        using peer = await RawPeer.connect(port);
        const sent = peer.write(...bodies.map(plainFrame)).then(() => peer.closeWrite());
        if (ending === 1) return await sent;
        const echoes = plainFramesIn(await within(peer.readToEnd(), "replies and FIN", 20_000));
        await sent;
        const right = echoes.length === count &&
          echoes.every((echo, i) =>
            echo.length === bodies[i]!.length && echo.every((byte) => byte === bodies[i]![0])
          );
        if (!right) wrong.push(`${echoes.length} of ${count} echoes`);
      }),
      "all connections",
      40_000,
    );
    assertEquals(wrong, []);
    await until(() => seenBy(server) >= total, "all are accepted");
    await until(() => server.stats().connectionsOpen === 0, "the server's sides are closed");
    const { inFlight, protocolErrors, handlerErrors } = server.stats();
    assertEquals([inFlight, protocolErrors, handlerErrors], [0, 0, 0]);
  }
  assertEquals(unhandled.reasons, []);
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

test("serve() accepts at once behind hundreds of connections that were reset before they were accepted", async () => {
  await using server = serve(base, () => {});
  const { port } = server.addr;
  await within(
    churn(600, 40, async () => {
      await using wire = await Wire.connect({ port });
      wire.reset();
    }),
    "all resets",
    30_000,
  );
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1));
  const acks = await within(
    peer.readAcks(1),
    `an answer; ${server.stats().acceptErrors} accepts failed`,
    4000,
  );
  assertEquals(acks[0]!.result, 0);
});

test(`shutdown() leaves nothing behind when clients connect and submit all the while (CHURN_SEED=${seed})`, async () => {
  const next = numbersOf(seed + 2), before = openDescriptors();
  using unhandled = new UnhandledRejections();
  for (let round = 0; round < 30; round++) {
    const server = serve(base, ({ payload }) => payload.length & 1 ? undefined : Promise.resolve());
    const { port } = server.addr;
    let stopped = false;
    const storm = churn(10_000, 8, async () => {
      if (stopped) return;
      try {
        await using client = await connect({ port, poison: true, reconnect: false });
        while (!stopped) await client.submit(new Uint8Array(next(100)));
      } catch {
        // Refused, reset, or shutting down: that is what a storm meets.
      }
    });
    await until(() => server.stats().handled > next(200), "some requests are handled");
    const { handled, connectionsOpen } = server.stats();
    assert(handled > 0 && connectionsOpen > 0);
    await within(server.shutdown(), "the server has stopped", 8000);
    assertEquals([server.stats().connectionsOpen, server.stats().inFlight], [0, 0]);
    stopped = true;
    await within(storm, "the storm is over");
  }
  assertEquals(unhandled.reasons, []);
  await until(() => openDescriptors() <= before, `descriptors are back at ${before}`);
});

/** A listener whose accepts come out as the test says. */
class PlayedListener {
  accepts = 0;
  closes = 0;
  readonly #play: (accept: number) => Deno.TcpConn | Error | null;
  readonly #closed = Promise.withResolvers<never>();

  /** `play` gives a socket, an error, or null to wait until the listener is closed. */
  constructor(play: (accept: number) => Deno.TcpConn | Error | null) {
    this.#play = play;
    this.#closed.promise.catch(() => {});
  }

  async accept(): Promise<Deno.TcpConn> {
    const outcome = this.#play(++this.accepts);
    if (outcome instanceof Error) throw outcome;
    return outcome ?? await this.#closed.promise;
  }

  close(): void {
    this.closes++;
    this.#closed.reject(new Deno.errors.BadResource("Listener has been closed"));
  }
}

function played(play: (accept: number) => Deno.TcpConn | Error | null) {
  const listener = new PlayedListener(play), sockets: Deno.TcpConn[] = [], errors: unknown[] = [];
  const acceptor = new Acceptor(listener as unknown as Deno.Listener<Deno.TcpConn, Deno.NetAddr>);
  const run = acceptor.run((socket) => void sockets.push(socket), (error) => void errors.push(error));
  return { listener, acceptor, sockets, errors, run };
}

const socketOf = (number: number) => ({ number }) as unknown as Deno.TcpConn;
const emfile = () => Object.assign(new Error("Too many open files (os error 24)"), { code: "EMFILE" });

test("Acceptor.run() tells each error and goes on when accepting fails a few times", async () => {
  const { acceptor, sockets, errors, run, listener } = played((accept) =>
    accept <= 4 ? emfile() : accept <= 7 ? socketOf(accept) : null
  );
  await until(() => sockets.length === 3, "the connections behind the errors");
  assertEquals(errors.map((error) => (error as { code: string }).code), new Array(4).fill("EMFILE"));
  acceptor.close();
  await within(run, "the loop has ended");
  assertEquals([listener.accepts, listener.closes, errors.length], [8, 1, 4]);
});

for (const name of ["NotConnected", "ConnectionReset", "ConnectionAborted"] as const) {
  test(`Acceptor.run() does not wait when accepting fails with ${name}, which is one connection's own trouble`, async () => {
    const { acceptor, sockets, errors, run } = played((accept) =>
      accept <= 100 ? new Deno.errors[name]("gone") : accept === 101 ? socketOf(accept) : null
    );
    try {
      await until(() => sockets.length === 1, "the connection behind a hundred that were gone", 2000);
      assertEquals(errors.length, 100);
    } finally {
      acceptor.close();
      await within(run, "the loop has ended");
    }
  });
}

test("Acceptor.run() waits longer from error to error, and starts again when one was accepted", async () => {
  const start = performance.now(), times: number[] = [];
  const { acceptor, run } = played((accept) => {
    times.push(performance.now() - start);
    if (accept === 8) return null;
    return accept === 6 ? socketOf(6) : emfile();
  });
  await until(() => times.length === 8, "all accepts");
  acceptor.close();
  await within(run, "the loop has ended");
  const gaps = times.slice(1).map((time, i) => time - times[i]!);
  // 5, 10, 20, 40, 80 ms, nothing behind the one that was accepted, then 5 ms.
  for (const [i, least] of [5, 10, 20, 40, 80].entries()) {
    assert(gaps[i]! > least - 2, `pause ${i} took ${gaps[i]} of ${least} ms`);
  }
  assert(gaps[6]! < 150, `the last pause took ${gaps[6]} ms, as if nothing had been accepted`);
});

test("Acceptor.run() does not spin when accepting fails for ever", async () => {
  const { acceptor, listener, run } = played(() => emfile());
  const start = performance.now();
  await until(() => performance.now() - start > 100, "a while");
  const { accepts } = listener, passed = performance.now() - start;
  acceptor.close();
  await within(run, "the loop has ended", 500);
  // The pauses before the last attempt add up to this; a timer may be a millisecond early.
  const paused = 5 * (2 ** (accepts - 1) - 1);
  assert(paused <= passed + accepts, `${accepts} attempts in ${passed} ms`);
});

test("Acceptor.close() ends a pause at once, and a second call does nothing", async () => {
  const { acceptor, listener, errors, run } = played(() => emfile());
  await until(() => errors.length === 8, "some pauses");
  const start = performance.now();
  acceptor.close();
  acceptor.close();
  await within(run, "the loop has ended");
  assert(performance.now() - start < 500, "the pause of 640 ms is not waited for");
  assertEquals([listener.closes, errors.length], [1, 8]);
});

test("Acceptor.run() ends without an error when it is closed while it waits for a connection", async () => {
  const { acceptor, errors, run } = played(() => null);
  acceptor.close();
  await within(run, "the loop has ended");
  assertEquals(errors, []);
});

test("Acceptor.settle() waits until nothing more is accepted, and has an end in a storm", async () => {
  let storm = true;
  const { acceptor, sockets, run, listener } = played((accept) => {
    if (accept <= 200 || storm) return socketOf(accept);
    return null;
  });
  // Accepted in microtasks, so a storm without end would leave no turn to anybody: let it end after a while.
  queueMicrotask(() => storm = false);
  await within(acceptor.settle(), "what had come is accepted");
  assertEquals(sockets.length, listener.accepts - 1);
  assert(sockets.length >= 200);
  acceptor.close();
  await within(run, "the loop has ended");
});

test("serve() accepts again when descriptors run out for a while", async () => {
  // In a process of its own, since only there the limit can be low.
  const program = `
    import { serve } from "${new URL("../mod.ts", import.meta.url)}";
    let errors = 0;
    const server = serve({ port: 0, onEvent: ({ type }) => type === "accept-error" && errors++ }, () => {});
    const { port } = server.addr, peers = [];
    // Each connection takes two: the limit is met on either side.
    while (errors === 0 && peers.length < 500) {
      try {
        peers.push(await Deno.connect({ hostname: "127.0.0.1", port }));
      } catch {
        peers.pop()?.close();
      }
      await new Promise((go) => setTimeout(go, 1));
    }
    const most = peers.length;
    for (const peer of peers) peer.close();
    const peer = await Deno.connect({ hostname: "127.0.0.1", port });
    await peer.write(new Uint8Array([0, 0, 0, 13, 2, 48, 48, 48, 48, 48, 48, 48, 49]));
    const answer = new Uint8Array(14);
    for (let at = 0; at < 14;) at += await peer.read(answer.subarray(at)) ?? 99;
    peer.close();
    await server.shutdown();
    console.log(JSON.stringify({ errors: errors > 0, most: most < 500, answer: [...answer] }));
  `;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, program);
    const command = new Deno.Command("sh", {
      args: ["-c", `ulimit -n 96; exec "${Deno.execPath()}" run --no-check -A --no-lock "${file}"`],
      stdout: "piped",
      stderr: "piped",
    });
    const { stdout, stderr } = await within(command.output(), "the program has ended", 30_000);
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    assertEquals(JSON.parse(decode(stdout) || "null"), {
      errors: true,
      most: true,
      answer: [0, 0, 0, 14, 0x82, 48, 48, 48, 48, 48, 48, 48, 49, 0],
    }, decode(stderr));
  } finally {
    await Deno.remove(file);
  }
}, !linux);
