// How a server stops under load: every request handled and answered, or not handled and told so.

import { assert, assertEquals, assertMatch } from "@std/assert";
import { connect, SubmitError } from "../mod.ts";
import { serve } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { acksIn, idOf, joined, RawPeer, type ReadAck, submitFrame } from "./support/peer.ts";
import { Program, serverProgram } from "./support/program.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

const text = new TextDecoder();

/** A raw client that keeps requests coming, cut anywhere, and reads all answers to the end. */
class Loader implements Disposable {
  readonly acks: Promise<ReadAck[]>;
  /** Requests whose last byte was written. */
  sent = 0;
  readonly #peer: RawPeer;
  readonly #name: string;
  #stopped = false;

  constructor(peer: RawPeer, name: string, perWrite: number) {
    this.#peer = peer;
    this.#name = name;
    void this.#write(perWrite);
    this.acks = this.#read();
  }

  static async connect(port: number, name: string, perWrite: number): Promise<Loader> {
    return new Loader(await RawPeer.connect(port), name, perWrite);
  }

  [Symbol.dispose](): void {
    this.#stopped = true;
    this.#peer[Symbol.dispose]();
  }

  /** What this client calls its request. */
  named(id: string): string {
    return `${this.#name} ${id}`;
  }

  async #write(perWrite: number): Promise<void> {
    let rest: Uint8Array = new Uint8Array(0);
    try {
      for (let serial = 1; !this.#stopped; serial += perWrite) {
        const frames = Array.from({ length: perWrite }, (_, i) => {
          return submitFrame(serial + i, this.named(idOf(serial + i)));
        });
        const bytes = joined(rest, ...frames), cut = bytes.length - (serial % 29);
        await this.#peer.write(bytes.subarray(0, cut));
        rest = bytes.slice(cut);
        this.sent = serial + perWrite - 2;
        await turn();
      }
    } catch {
      // The server has closed: what matters is how reading ended.
    }
  }

  async #read(): Promise<ReadAck[]> {
    try {
      return acksIn(await this.#peer.readToEnd());
    } finally {
      this.#stopped = true;
      await this.#peer.closeWrite().catch(() => {});
    }
  }
}

for (const handling of ["at once", "later"] as const) {
  Deno.test(`Server.shutdown handles once what it answers, when handlers settle ${handling}`, async () => {
    const handled = new Map<string, number>(), events = new ServerEvents();
    await using server = serve(
      { port: 0, poison: true, maxInFlight: 64, drainTimeoutMs: 8000, onEvent: events.record },
      ({ payload }) => {
        const name = text.decode(payload);
        handled.set(name, (handled.get(name) ?? 0) + 1);
        return handling === "later" ? turn(handled.size % 3) : undefined;
      },
    );
    const loaders = await Promise.all(
      [1, 7, 50, 200].map((perWrite, i) => Loader.connect(server.addr.port, `client ${i}`, perWrite)),
    );
    try {
      await until(() => handled.size > 2000, "the load is on");
      const { answered: before } = server.stats();
      const report = await within(server.shutdown(), "the server has stopped", 9000);
      const { answered, cut, handled: called } = server.stats();
      assertEquals(report, { answered: answered - before, cut });
      assertEquals(cut, 0);
      let acksOfHandled = 0;
      for (const loader of loaders) {
        // A reset would reject here, and destroy answers.
        for (const { id, result } of await loader.acks) {
          const times = handled.get(loader.named(id)) ?? 0;
          if (result === 4) assertEquals(times, 0, `${loader.named(id)} was answered 4`);
          else assertEquals([result, times], [0, 1], loader.named(id));
          if (result !== 4) acksOfHandled++;
        }
      }
      assertEquals([acksOfHandled, called], [answered, answered]);
      assertEquals(handled.size, answered);
      assertEquals(server.stats().protocolErrors, 0);
    } finally {
      for (const loader of loaders) loader[Symbol.dispose]();
    }
  });
}

Deno.test("Server.shutdown answers 4 what comes later, while answers are due", async () => {
  const gate = Promise.withResolvers<void>(), events = new ServerEvents(), handled: string[] = [];
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, ({ id }) => {
    handled.push(id);
    return gate.promise;
  });
  try {
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(submitFrame(1));
    await until(() => handled.length === 1, "the handler runs");
    const stopped = server.shutdown();
    await events.next("draining");
    await peer.write(submitFrame(2), submitFrame(3));
    assertEquals((await peer.readAcks(2)).map(({ id, result }) => [id, result]), [[idOf(2), 4], [
      idOf(3),
      4,
    ]]);
    gate.resolve();
    assertEquals((await peer.readAcksToEnd()).map(({ id, result }) => [id, result]), [[idOf(1), 0]]);
    await peer.closeWrite();
    assertEquals(await within(stopped, "the server has stopped"), { answered: 1, cut: 0 });
    assertEquals(handled, [idOf(1)]);
    assertEquals((await events.closed()).code, "shutdown");
  } finally {
    gate.resolve();
  }
});

Deno.test("Server.shutdown takes a partial frame for no error", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(submitFrame(1), submitFrame(2).subarray(0, 7)));
  await peer.readAcks(1);
  await until(() => server.stats().bytesRead === 20, "the part was read");
  const stopped = server.shutdown();
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  await peer.closeWrite();
  assertEquals(await within(stopped, "the server has stopped"), { answered: 0, cut: 0 });
  assertEquals([(await events.closed()).code, server.stats().protocolErrors], ["shutdown", 0]);
});

Deno.test("Server.shutdown takes a partial frame for no error when answers are due", async () => {
  const gate = Promise.withResolvers<void>(), events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => gate.promise);
  try {
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(submitFrame(1), submitFrame(2).subarray(0, 7)));
    await until(() => server.stats().inFlight === 1, "the handler runs");
    const stopped = server.shutdown();
    await events.next("draining");
    await peer.closeWrite();
    gate.resolve();
    assertEquals((await peer.readAcksToEnd()).map(({ id, result }) => [id, result]), [[idOf(1), 0]]);
    assertEquals(await within(stopped, "the server has stopped"), { answered: 1, cut: 0 });
    assertEquals([(await events.closed()).code, server.stats().protocolErrors], ["shutdown", 0]);
  } finally {
    gate.resolve();
  }
});

Deno.test("Server.shutdown accepts the connections that the kernel has queued", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  const count = 40;
  const connecting = Array.from({ length: count }, () => RawPeer.connect(server.addr.port));
  const peers = await Promise.all(connecting);
  try {
    const stopped = server.shutdown();
    for (const peer of peers) {
      assertEquals(await peer.readToEnd(), new Uint8Array(0));
      await peer.closeWrite();
    }
    await within(stopped, "the server has stopped");
    assertEquals(server.stats().connectionsAccepted, count);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});

Deno.test("Server.shutdown tells that it drains, by connection, and that it has drained", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using first = await RawPeer.connect(server.addr.port);
  using second = await RawPeer.connect(server.addr.port);
  await until(() => server.stats().connectionsOpen === 2, "both are served");
  const stopped = server.shutdown();
  await events.next("draining");
  await first.closeWrite();
  await events.closed(1);
  await second.closeWrite();
  const report = await within(stopped, "the server has stopped");
  const told = events.items.filter(({ type }) => type === "draining" || type === "drained");
  assertEquals(told, [
    { type: "draining", connectionsOpen: 2 },
    { type: "draining", connectionsOpen: 1 },
    { type: "draining", connectionsOpen: 0 },
    { type: "drained", report },
  ]);
});

Deno.test("Server.shutdown gives the same report when it is called again", async () => {
  await using server = serve({ port: 0, poison: true }, () => {});
  const [first, second] = [server.shutdown(), server.shutdown()];
  assertEquals(await within(first, "the server has stopped"), await second);
  await within(server.finished, "finished");
});

Deno.test("Server.shutdown cuts a handler that is stuck, and answers those that are not", async () => {
  const events = new ServerEvents(), aborted = Promise.withResolvers<void>();
  await using server = serve(
    { port: 0, poison: true, drainTimeoutMs: 150, onEvent: events.record },
    ({ payload, signal }) => {
      if (payload.length === 0) return;
      signal.addEventListener("abort", () => aborted.resolve());
      return new Promise<void>(() => {});
    },
  );
  using stuck = await RawPeer.connect(server.addr.port);
  using fine = await RawPeer.connect(server.addr.port);
  await stuck.write(submitFrame(1, "x"), submitFrame(2, "x"), submitFrame(3));
  await stuck.readAcks(1);
  await until(() => server.stats().inFlight === 2, "the handlers run");
  const report = await within(server.shutdown(), "the server has stopped");
  await within(aborted.promise, "the signal is aborted");
  assertEquals(report, { answered: 0, cut: 2 });
  assertEquals([server.stats().cut, server.stats().inFlight], [2, 0]);
  assertEquals(await fine.readToEnd(), new Uint8Array(0));
  assertEquals((await events.closed(1)).limit, "drainTimeoutMs");
});

Deno.test("Client.submit rejects as unsent what is answered 4 when it does not reconnect", async () => {
  const gate = Promise.withResolvers<void>(), events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => gate.promise);
  try {
    await using client = await connect({ port: server.addr.port, reconnect: false, poison: true });
    const first = client.submit("handled");
    await until(() => server.stats().inFlight === 1, "the handler runs");
    const stopped = server.shutdown();
    await events.next("draining");
    const error = await within(client.submit("late").then(() => null, (error) => error), "a failure");
    assert(error instanceof SubmitError);
    assertEquals([error.outcome, error.id], ["unsent", idOf(2)]);
    gate.resolve();
    assertEquals((await within(first, "the answer")).outcome, "accepted");
    await within(stopped, "the server has stopped");
    assertEquals((await within(client.closed, "the client is closed")).code, "ended");
    assertEquals(server.stats().handled, 1);
  } finally {
    gate.resolve();
  }
});

// The programs

for (const quiet of [false, true]) {
  Deno.test(`server.ts says what it drained at SIGTERM under load${quiet ? ", --quiet" : ""}`, async () => {
    const { server, port } = await serverProgram(...(quiet ? ["--quiet"] : []));
    await using _ = server;
    const loaders = await Promise.all([1, 100].map((perWrite, i) => Loader.connect(port, `${i}`, perWrite)));
    try {
      await until(() => loaders.every(({ sent }) => sent > 200), "the load is on");
      server.signal("SIGTERM");
      const acks = (await Promise.all(loaders.map(({ acks }) => acks))).flat();
      assertEquals(await server.exit(), 0);
      assertMatch(server.stderr, /^drained: \d+ answered, 0 cut$/m);
      assert(acks.every(({ result }) => result === 0 || result === 4));
      assert(Number(server.stderr.match(/drained: (\d+)/)![1]) <= acks.length);
      if (quiet) assertEquals(server.stderr.split("\n").length, 2);
    } finally {
      for (const loader of loaders) loader[Symbol.dispose]();
    }
  });
}

Deno.test("connect goes on, and each submit has an outcome, when its server was killed", async () => {
  const { server: first, port } = await serverProgram("--quiet");
  await using _first = first;
  let lost = 0;
  const client = await connect({
    port,
    poison: true,
    window: 16,
    reconnect: { minDelayMs: 5, maxDelayMs: 50 },
    onEvent: ({ type }) => void (type === "disconnected" && lost++),
  });
  await using _client = client;
  let submitting = true, submitted = 0;
  const outcomes: string[] = [];
  const work = Array.from({ length: 32 }, async () => {
    while (submitting) {
      submitted++;
      outcomes.push(
        await client.submit(`${submitted}`).then(
          ({ outcome }) => outcome,
          (error) => error instanceof SubmitError ? error.outcome : String(error),
        ),
      );
    }
  });
  await until(() => outcomes.length > 500, "the work is on");
  first.signal("SIGKILL");
  await first.exit();
  await using second = new Program("server.ts", ["--port", `${port}`, "--quiet"]);
  await second.says("\n");
  await until(() => client.stats().reconnects === 1, "the client is connected again");
  const before = outcomes.length;
  await until(() => outcomes.length > before + 500, "the work goes on");
  submitting = false;
  await within(Promise.all(work), "every submit has an outcome");
  assertEquals(outcomes.length, submitted);
  const unknown = outcomes.filter((outcome) => outcome === "unknown").length;
  assert(unknown <= 16 * lost, `${unknown} unknown, the window is 16, and ${lost} connections were lost`);
  assertEquals(outcomes.filter((outcome) => outcome === "accepted").length, submitted - unknown);
  await within(client.end(), "the client has ended");
});
