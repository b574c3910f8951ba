// A connection that is lost, and made again: what goes out again, what fails, and when it is given up.

import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { Tries } from "../client/reconnect.ts";
import {
  type Answer,
  type Client,
  type ClientEvent,
  connect,
  ConnectError,
  type ConnectOptions,
  LimitError,
  SubmitError,
} from "../mod.ts";
import { ackFrame, idOf, type RawPeer } from "./support/peer.ts";
import { idsOf, marked, RawServer, readRequest, readRequests, sameBytes } from "./support/raw_server.ts";
import { turn } from "./support/turn.ts";
import { Recorder, until, within } from "./support/wait.ts";

/** Pauses that a test does not notice. */
const soon = { minDelayMs: 1, maxDelayMs: 5 };
/** The first pause outlasts any test. */
const never = { minDelayMs: 600_000, maxDelayMs: 600_000 };

class ClientEvents extends Recorder<ClientEvent> {
  /** What a test does at once when something is told. */
  heed: (event: ClientEvent) => void = () => {};

  get types(): string[] {
    return this.items.map(({ type }) => type);
  }

  /** Resolves when so many events of a kind were told. */
  times(type: ClientEvent["type"], count = 1): Promise<void> {
    return until(() => this.types.filter((each) => each === type).length >= count, `${count} x ${type}`);
  }
}

/** A client of a server that the test plays, and what it says. */
async function opened(server: RawServer, options: ConnectOptions = {}) {
  const events = new ClientEvents();
  const connecting = connect({
    port: server.port,
    poison: true,
    reconnect: soon,
    drainTimeoutMs: 100,
    onEvent: (event) => {
      events.record(event);
      events.heed(event);
    },
    ...options,
  });
  const peer = await accepted(server);
  return { connecting, peer, events };
}

/** The same, where no session is asked for. */
async function connected(server: RawServer, options: ConnectOptions = {}) {
  const { connecting, peer, events } = await opened(server, options);
  return { client: await within(connecting, "connected"), peer, events };
}

function accepted(server: RawServer): Promise<RawPeer> {
  return within(server.accept(), "the client connects");
}

/** What became of a submit: its id, and its outcome, or the name of what it failed with. */
function fate(submitted: Promise<Answer>): Promise<[string, string]> {
  return within(
    submitted.then(
      ({ id, outcome }) => [id, outcome],
      (error) => error instanceof SubmitError ? [error.id, error.outcome] : ["", error.name],
    ),
    "the submit has an outcome",
  );
}

function closed(client: Client) {
  return within(client.closed, "the client is closed");
}

/** Takes the requests and answers them 0; gives their ids. */
async function answerAll(peer: RawPeer, count: number): Promise<string[]> {
  const requests = await readRequests(peer, count);
  for (const { id } of requests) await peer.write(ackFrame(Number(id)));
  return requests.map(({ id }) => id);
}

// When and where

Deno.test("Tries.server goes round the servers as they fail", () => {
  const tries = new Tries([{ port: 1 }, { port: 2 }, { port: 3 }], {});
  const ports = Array.from({ length: 5 }, () => {
    const { port } = tries.server;
    tries.failed();
    return port;
  });
  assertEquals(ports, [1, 2, 3, 1, 2]);
});

Deno.test("Tries.server stays with a server when it was to be had", () => {
  const tries = new Tries([{ port: 1 }, { port: 2 }], {});
  tries.failed();
  tries.succeeded();
  assertEquals(tries.server, { port: 2 });
});

for (const [what, random, factor] of [["half", 0, 0.5], ["full", 1 - 2 ** -53, 1]] as const) {
  Deno.test(`Tries.next doubles its pauses up to the longest, at least the ${what} of them`, () => {
    const tries = new Tries([{}], { minDelayMs: 100, maxDelayMs: 1000 }), original = Math.random;
    Math.random = () => random;
    try {
      const pauses = Array.from({ length: 8 }, () => tries.next()!);
      assertEquals(pauses.map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6, 7, 8]);
      const full = [0, 100, 200, 400, 800, 1000, 1000, 1000];
      assertEquals(pauses.map(({ delayMs }) => delayMs), full.map((ms) => ms * factor));
    } finally {
      Math.random = original;
    }
  });
}

Deno.test("Tries.next draws its pauses between half and full", () => {
  const drawn = new Set<number>();
  for (let i = 0; i < 300; i++) {
    const tries = new Tries([{}], { minDelayMs: 1000 });
    tries.next();
    drawn.add(tries.next()!.delayMs);
  }
  assert([...drawn].every((ms) => ms >= 500 && ms <= 1000), [...drawn].join());
  assert(drawn.size > 50, `only ${drawn.size} different pauses`);
});

Deno.test("Tries.next stays at the longest pause after very many tries", () => {
  const tries = new Tries([{}], { minDelayMs: 1, maxDelayMs: 50 });
  for (let i = 0; i < 2000; i++) tries.next();
  const { attempt, delayMs } = tries.next()!;
  assert(attempt === 2001 && delayMs >= 25 && delayMs <= 50, `${attempt} ${delayMs}`);
});

Deno.test("Tries.next ends after maxAttempts in a row, and begins anew after a success", () => {
  const tries = new Tries([{}], { maxAttempts: 2 });
  assertEquals([tries.next()?.attempt, tries.next()?.attempt, tries.next()], [1, 2, null]);
  tries.succeeded();
  assertEquals(tries.next(), { attempt: 1, delayMs: 0 });
});

Deno.test("Tries.any is false when there is nothing to try", () => {
  const any = [{}, { maxAttempts: 1 }, { maxAttempts: 0 }, false as const].map((options) =>
    new Tries([{}], options).any
  );
  assertEquals(any, [true, true, false, false]);
});

for (
  const [field, options] of [
    ["maxAttempts", { maxAttempts: -1 }],
    ["maxAttempts", { maxAttempts: NaN }],
    ["minDelayMs", { minDelayMs: 0 }],
    ["minDelayMs", { minDelayMs: NaN }],
    ["maxDelayMs", { minDelayMs: 200, maxDelayMs: 100 }],
    ["maxDelayMs", { maxDelayMs: NaN }],
  ] as const
) {
  Deno.test(`Tries refuses ${JSON.stringify(options)} by the field's name`, () => {
    assertThrows(() => new Tries([{}], options), RangeError, field);
  });
}

Deno.test("connect refuses an empty list of servers", async () => {
  await assertRejects(() => connect({ servers: [] }), RangeError, "servers");
});

// The first connection

/** A port where nobody listens. */
function deadPort(): number {
  using server = new RawServer();
  return server.port;
}

Deno.test("connect takes the next server when the first is down", async () => {
  using server = new RawServer();
  const servers = [{ port: deadPort() }, { port: server.port }];
  const { client, peer, events } = await connected(server, { servers });
  await using _ = client;
  using _peer = peer;
  assertEquals(events.items, [{ type: "connected", hostname: "127.0.0.1", port: server.port }]);
  await peer.closeWrite();
});

Deno.test("connect rejects when no server is to be had at first, although it would reconnect", async () => {
  const events = new ClientEvents(), servers = [{ port: deadPort() }, { port: deadPort() }];
  const error = await assertRejects(
    () => within(connect({ servers, onEvent: events.record }), "a failure"),
    ConnectError,
  );
  assertEquals([error.code, error.port], ["refused", servers[1]!.port]);
  assertEquals(events.types.includes("reconnecting"), false);
});

// What goes out again

Deno.test("Client sends again what was answered 4, with its id, in order, before what is new", async () => {
  using server = new RawServer();
  const { client, peer: first, events } = await connected(server);
  await using _ = client;
  let late: Promise<[string, string]> | undefined;
  events.heed = ({ type }) => void (type === "disconnected" && (late ??= fate(client.submit("new"))));
  const fates = ["a", "b", "c", "d"].map((text) => fate(client.submit(text)));
  await readRequests(first, 4);
  await first.write(ackFrame(3, 4), ackFrame(2, 4), ackFrame(1), ackFrame(4, 7));
  await until(() => client.stats().accepted + client.stats().refused === 2, "two are answered");
  first[Symbol.dispose]();
  using peer = await accepted(server);
  const requests = await readRequests(peer, 3);
  assertEquals(requests.map(({ id, payload }) => [id, new TextDecoder().decode(payload)]), [
    [idOf(2), "b"],
    [idOf(3), "c"],
    [idOf(5), "new"],
  ]);
  await peer.write(ackFrame(2), ackFrame(3), ackFrame(5));
  assertEquals(await Promise.all([...fates, late!]), [
    [idOf(1), "accepted"],
    [idOf(2), "accepted"],
    [idOf(3), "accepted"],
    [idOf(4), "refused"],
    [idOf(5), "accepted"],
  ]);
  assertEquals([client.stats().resent, client.stats().reconnects, client.stats().unsent], [2, 1, 0]);
  await peer.closeWrite();
});

Deno.test("Client sends again what no socket had accepted, and fails what it had, as unknown", async () => {
  using server = new RawServer();
  const { client, peer: first } = await connected(server);
  await using _ = client;
  const count = 40, length = 900_000;
  const fates = Array.from({ length: count }, (_, i) => fate(client.submit(marked(i + 1, length))));
  await until(() => client.stats().waiting > 0, "the socket takes no more");
  await turn(20);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  const ids: string[] = [];
  let intact = true;
  for (let id = ""; id !== idOf(count);) {
    const request = await readRequest(peer);
    ids.push(id = request.id);
    intact &&= sameBytes(request.payload, marked(Number(id), length));
    await peer.write(ackFrame(Number(id)));
  }
  const lost = count - ids.length;
  assert(lost > 0 && lost < count, `${lost} of ${count} lost`);
  assertEquals([ids, intact], [idsOf(lost + 1, count), true]);
  assertEquals(
    await Promise.all(fates),
    idsOf(1, count).map((id, i) => [id, i < lost ? "unknown" : "accepted"]),
  );
  await peer.closeWrite();
});

Deno.test("Client fails what may have been handled as unknown, but sends idempotent ones again", async () => {
  using server = new RawServer();
  const { client, peer: first } = await connected(server);
  await using _ = client;
  const fates = [true, false, true].map((idempotent) => fate(client.submit("x", { idempotent })));
  await readRequests(first, 3);
  first[Symbol.dispose]();
  assertEquals(await fates[1], [idOf(2), "unknown"]);
  using peer = await accepted(server);
  assertEquals(await answerAll(peer, 2), [idOf(1), idOf(3)]);
  assertEquals(await Promise.all([fates[0], fates[2]]), [[idOf(1), "accepted"], [idOf(3), "accepted"]]);
  const { resent, unknown, accepted: acceptedCount } = client.stats();
  assertEquals([resent, unknown, acceptedCount], [2, 1, 2]);
  await peer.closeWrite();
});

Deno.test("Client holds its window when it sends again", async () => {
  using server = new RawServer();
  const { client, peer: first } = await connected(server, { window: 2 });
  await using _ = client;
  const fates = [1, 2, 3, 4].map(() => fate(client.submit("x", { idempotent: true })));
  await readRequests(first, 2);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  assertEquals((await readRequests(peer, 2)).map(({ id }) => id), [idOf(1), idOf(2)]);
  let came = false;
  const third = readRequest(peer).then((request) => {
    came = true;
    return request.id;
  });
  await turn(20);
  assertEquals([came, client.stats().pending, client.stats().waiting], [false, 2, 2]);
  await peer.write(ackFrame(2));
  assertEquals(await third, idOf(3));
  await peer.write(ackFrame(1));
  assertEquals((await readRequest(peer)).id, idOf(4));
  await peer.write(ackFrame(3), ackFrame(4));
  assertEquals(await Promise.all(fates), idsOf(1, 4).map((id) => [id, "accepted"]));
  await peer.closeWrite();
});

Deno.test("Client.submit from the connected event goes out once, behind what is sent again", async () => {
  using server = new RawServer();
  const { client, peer: first, events } = await connected(server);
  await using _ = client;
  let late: Promise<[string, string]> | undefined;
  events.heed = ({ type }) => void (type === "connected" && (late = fate(client.submit("new"))));
  const old = fate(client.submit("old", { idempotent: true }));
  await readRequest(first);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  await until(() => late !== undefined, "connected again");
  const last = turn(20).then(() => fate(client.submit("last")));
  const ids: string[] = [];
  for (let id = ""; id !== idOf(3);) {
    ids.push(id = (await readRequest(peer)).id);
    await peer.write(ackFrame(Number(id)));
  }
  assertEquals(ids, idsOf(1, 3));
  assertEquals(await Promise.all([old, late!, last]), idsOf(1, 3).map((id) => [id, "accepted"]));
  await peer.closeWrite();
});

// Sessions

Deno.test("Client opens a session on each connection, with a new id, before it sends again", async () => {
  using server = new RawServer();
  const { connecting, peer: first } = await opened(server, { name: "gauge" });
  const conn = await readRequest(first);
  assertEquals([conn.command, conn.id], [0x01, idOf(1)]);
  await first.write(ackFrame(1, 0, 0x81));
  await using client = await within(connecting, "connected");
  const submitted = fate(client.submit("x", { idempotent: true }));
  assertEquals((await readRequest(first)).id, idOf(2));
  first[Symbol.dispose]();
  using peer = await accepted(server);
  const again = await readRequest(peer);
  assertEquals([again.command, again.id, new TextDecoder().decode(again.payload)], [0x01, idOf(3), "gauge"]);
  let early = true;
  const next = readRequest(peer).then((request) => [early, request.command, request.id]);
  await turn(20);
  early = false;
  await peer.write(ackFrame(3, 0, 0x81));
  assertEquals(await next, [false, 0x02, idOf(2)]);
  await peer.write(ackFrame(2));
  assertEquals(await submitted, [idOf(2), "accepted"]);
  await peer.closeWrite();
});

Deno.test("Client ends with code refused when its session is refused on a new connection", async () => {
  using server = new RawServer();
  const { connecting, peer: first, events } = await opened(server, { name: "gauge" });
  await readRequest(first);
  await first.write(ackFrame(1, 0, 0x81));
  await using client = await within(connecting, "connected");
  const sent = fate(client.submit("x", { idempotent: true }));
  await readRequest(first);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  const { id } = await readRequest(peer);
  await peer.write(ackFrame(Number(id), 9, 0x81));
  const { code, error } = await closed(client);
  assertEquals(code, "refused");
  assertInstanceOf(error, ConnectError);
  assertEquals([error.code, error.result], ["session-refused", 9]);
  assertEquals(await sent, [idOf(2), "unknown"]);
  assertEquals(await fate(client.submit("late")), ["", "unsent"]);
  assertEquals(events.types, ["connected", "disconnected", "reconnecting", "connect-error", "closed"]);
});

// The end of it

Deno.test("Client closes when its connection is lost and reconnect is false", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server, { reconnect: false });
  await using _ = client;
  const sent = fate(client.submit("x", { idempotent: true }));
  await readRequest(peer);
  peer[Symbol.dispose]();
  assertEquals((await closed(client)).code, "ended");
  assertEquals(await sent, [idOf(1), "unknown"]);
  assertEquals(events.types, ["connected", "disconnected", "closed"]);
});

Deno.test("Client gives up after maxAttempts, and says of each request whether it was sent", async () => {
  const server = new RawServer();
  const { client, peer, events } = await connected(server, {
    window: 2,
    reconnect: { ...soon, maxAttempts: 2 },
  });
  await using _ = client;
  let late: Promise<[string, string]> | undefined;
  events.heed = ({ type }) => {
    if (type === "disconnected") late = fate(client.submit("late", { idempotent: true }));
  };
  const fates = [1, 2, 3].map(() => fate(client.submit("x", { idempotent: true })));
  await readRequests(peer, 2);
  await peer.write(ackFrame(2, 4));
  server[Symbol.dispose]();
  peer[Symbol.dispose]();
  await closed(client);
  const told = await Promise.all([...fates, late!]);
  assertEquals(told.map(([, outcome]) => outcome), ["unknown", "unsent", "unsent", "unsent"]);
  const types = ["reconnecting", "connect-error"];
  assertEquals(events.types, ["connected", "disconnected", ...types, ...types, "closed"]);
  const { unknown, unsent, pending, waiting } = client.stats();
  assertEquals([unknown, unsent, pending, waiting], [1, 3, 0, 0]);
});

Deno.test("Client does not reconnect when the server broke the protocol", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server);
  await using _ = client;
  using _peer = peer;
  const sent = fate(client.submit("x", { idempotent: true }));
  await readRequest(peer);
  await peer.write(ackFrame(1, 0, 0x55));
  assertEquals((await closed(client)).code, "protocol");
  assertEquals(await sent, [idOf(1), "unknown"]);
  assertEquals(events.types, ["connected", "protocol-error", "disconnected", "closed"]);
});

Deno.test("Client pauses between its tries when a server accepts and closes at once", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server, { reconnect: never });
  await using _ = client;
  peer[Symbol.dispose]();
  let accepting = true;
  const closing = (async () => {
    while (accepting) (await server.accept())[Symbol.dispose]();
  })().catch(() => {});
  await until(
    () =>
      events.items.some((event) => event.type === "reconnecting" && event.delayMs > 0) ||
      events.types.filter((type) => type === "reconnecting").length > 50,
    "a pause",
  );
  const delays = events.items.flatMap((event) => event.type === "reconnecting" ? [event.delayMs] : []);
  accepting = false;
  await within(client.close(), "the client is closed");
  server[Symbol.dispose]();
  await closing;
  assert(delays.some((ms) => ms > 0), `${delays.length} tries without a pause`);
});

/** A client whose connection is lost, and the server with it. */
async function stranded(options: ConnectOptions = {}) {
  const server = new RawServer(), first = await connected(server, { reconnect: never, ...options });
  server[Symbol.dispose]();
  first.peer[Symbol.dispose]();
  await first.events.times("connect-error");
  return first;
}

Deno.test("Client.close ends at once when the client pauses before a try", async () => {
  const { client, events } = await stranded();
  await events.times("reconnecting", 2);
  const late = fate(client.submit("x"));
  assertEquals((await within(client.close(), "the client is closed")).code, "closed");
  assertEquals(await late, ["", "unsent"]);
});

for (const event of ["disconnected", "connect-error", "reconnecting"] as const) {
  Deno.test(`Client.close from the ${event} event ends at once`, async () => {
    const server = new RawServer(), { client, peer, events } = await connected(server, { reconnect: never });
    let told = 0;
    events.heed = ({ type }) => {
      // The second try is the first one with a pause.
      if (type === event && ++told === (event === "reconnecting" ? 2 : 1)) void client.close();
    };
    server[Symbol.dispose]();
    peer[Symbol.dispose]();
    try {
      assertEquals((await within(client.closed, "the client is closed", 3000)).code, "closed");
    } finally {
      await client.close();
    }
  });
}

Deno.test("Client.close ends at once when a dial gets no answer", async () => {
  // A backlog of one holds two connections; the next one is not answered.
  using full = new RawServer({ tcpBacklog: 1 });
  using one = await Deno.connect({ port: full.port, hostname: "127.0.0.1" });
  using two = await Deno.connect({ port: full.port, hostname: "127.0.0.1" });
  const server = new RawServer();
  const { client, peer, events } = await connected(server, {
    servers: [{ port: server.port }, { port: full.port }],
  });
  server[Symbol.dispose]();
  peer[Symbol.dispose]();
  // The server that was lost without an answer is followed by the next one.
  await events.times("reconnecting");
  await turn(20);
  assertEquals((await within(client.close(), "the client is closed")).code, "closed");
  assert(one.localAddr !== two.localAddr);
});

Deno.test("Client.close ends at once when a new session is not answered", async () => {
  using server = new RawServer();
  const { connecting, peer: first } = await opened(server, { name: "gauge" });
  await readRequest(first);
  await first.write(ackFrame(1, 0, 0x81));
  const client = await within(connecting, "connected");
  first[Symbol.dispose]();
  using peer = await accepted(server);
  await readRequest(peer);
  assertEquals((await within(client.close(), "the client is closed")).code, "closed");
});

Deno.test("Client.end finishes on a new connection when it is called without one", async () => {
  using server = new RawServer();
  const { client, peer: first, events } = await connected(server);
  const fates = [1, 2].map(() => fate(client.submit("x", { idempotent: true })));
  await readRequests(first, 2);
  first[Symbol.dispose]();
  await events.times("disconnected");
  const ended = client.end();
  assertEquals(await fate(client.submit("late")), ["", "unsent"]);
  using peer = await accepted(server);
  assertEquals(await answerAll(peer, 2), idsOf(1, 2));
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  await peer.closeWrite();
  assertEquals((await within(ended, "the client has ended")).code, "ended");
  assertEquals(await Promise.all(fates), idsOf(1, 2).map((id) => [id, "accepted"]));
});

Deno.test("Client.end goes on with a new connection when it loses the one that it ends", async () => {
  using server = new RawServer();
  const { client, peer: first } = await connected(server);
  const submitted = fate(client.submit("x", { idempotent: true }));
  const ended = client.end();
  await readRequest(first);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  assertEquals(await answerAll(peer, 1), [idOf(1)]);
  await peer.readToEnd();
  await peer.closeWrite();
  assertEquals((await within(ended, "the client has ended")).code, "ended");
  assertEquals(await submitted, [idOf(1), "accepted"]);
});

// Requests that are given up

Deno.test("Client.submit sends nothing again when it was cancelled without a connection", async () => {
  using server = new RawServer();
  const gone = new AbortController(), waiting = new AbortController();
  const { client, peer: first, events } = await connected(server);
  await using _ = client;
  let late: Promise<[string, string]> | undefined;
  events.heed = ({ type }) => {
    if (type !== "disconnected") return;
    late = fate(client.submit("waits", { signal: waiting.signal }));
    gone.abort();
    waiting.abort();
  };
  const cancelled = fate(client.submit("a", { idempotent: true, signal: gone.signal }));
  const kept = fate(client.submit("b", { idempotent: true }));
  await readRequests(first, 2);
  first[Symbol.dispose]();
  await events.times("disconnected");
  assertEquals([await cancelled, await late!], [["", "AbortError"], ["", "AbortError"]]);
  using peer = await accepted(server);
  assertEquals(await answerAll(peer, 1), [idOf(2)]);
  assertEquals(await kept, [idOf(2), "accepted"]);
  const ended = client.end();
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  await peer.closeWrite();
  await within(ended, "the client has ended");
  assertEquals([client.stats().cancelled, client.stats().resent], [2, 1]);
});

Deno.test("requestTimeoutMs fails what was sent as unknown, and what waits as unsent", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server, { window: 1, requestTimeoutMs: 100 });
  await using _ = client;
  using _peer = peer;
  const sent = client.submit("a"), waits = client.submit("b");
  const errors = await within(
    Promise.all([sent, waits].map((each) => each.then(() => null, (error) => error))),
    "both fail",
  );
  assertEquals(errors.map(({ id, outcome }) => [id, outcome]), [[idOf(1), "unknown"], ["", "unsent"]]);
  for (const { cause } of errors) {
    assertInstanceOf(cause, LimitError);
    assertEquals([cause.limit, cause.value], ["requestTimeoutMs", 100]);
  }
  const limits = events.items.flatMap((event) => event.type === "limit" ? [[event.limit, event.id]] : []);
  assertEquals(limits.toSorted(), [["requestTimeoutMs", ""], ["requestTimeoutMs", idOf(1)]]);
  assertEquals(client.stats().timedOut, 2);
});

Deno.test("requestTimeoutMs leaves the connection as it is when the answer comes late", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server, { requestTimeoutMs: 150 });
  await using _ = client;
  using _peer = peer;
  assertEquals(await fate(client.submit("slow")), [idOf(1), "unknown"]);
  await readRequest(peer);
  await peer.write(ackFrame(1));
  await events.times("late-answer");
  const next = fate(client.submit("next"));
  assertEquals(await answerAll(peer, 1), [idOf(2)]);
  assertEquals(await next, [idOf(2), "accepted"]);
  const { lateAnswers, unknownAnswers, timedOut, reconnects } = client.stats();
  assertEquals([lateAnswers, unknownAnswers, timedOut, reconnects], [1, 0, 1, 0]);
  await client.close();
});

Deno.test("requestTimeoutMs replaces the connection when two in a row met it and no byte came", async () => {
  using server = new RawServer();
  const { client, peer: first, events } = await connected(server, { requestTimeoutMs: 100 });
  await using _ = client;
  using _first = first;
  assertEquals(await fate(client.submit("a")), [idOf(1), "unknown"]);
  assertEquals(client.stats().reconnects, 0);
  assertEquals(await fate(client.submit("b")), [idOf(2), "unknown"]);
  using peer = await accepted(server);
  const lost = events.items.find((event) => event.type === "disconnected");
  assertEquals([lost!.reason.code, lost!.reason.limit], ["limit", "requestTimeoutMs"]);
  const next = fate(client.submit("c"));
  assertEquals(await answerAll(peer, 1), [idOf(3)]);
  assertEquals(await next, [idOf(3), "accepted"]);
  await client.close();
});

Deno.test("requestTimeoutMs fails requests when there is no connection", async () => {
  const { client } = await stranded({ requestTimeoutMs: 50 });
  await using _ = client;
  assertEquals(await fate(client.submit("x")), ["", "unsent"]);
});

Deno.test("requestTimeoutMs fails a request without a connection behind bulk work", async () => {
  const { client } = await stranded({ requestTimeoutMs: 50 });
  try {
    const { readable, writable } = client.bulk();
    const answers = readable.getReader().read(), writer = writable.getWriter();
    writer.write([new Uint8Array(1)]).catch(() => {});
    await until(() => client.stats().waiting === 1, "the bulk work waits");
    const submitted = within(fate(client.submit("x")), "the submit has an outcome", 3000);
    assertEquals(await submitted, ["", "unsent"]);
    await client.close();
    await answers;
  } finally {
    await client.close();
  }
});

Deno.test("Client's disposal closes it after drainTimeoutMs when answers are missing", async () => {
  using server = new RawServer();
  const { client, peer } = await connected(server, { drainTimeoutMs: 100 });
  using _ = peer;
  const submitted = fate(client.submit("x"));
  await readRequest(peer);
  await within(client[Symbol.asyncDispose]() as Promise<void>, "the client is closed");
  assertEquals([await submitted, (await client.closed).code], [[idOf(1), "unknown"], "closed"]);
});

Deno.test("Client's disposal closes it after drainTimeoutMs when there is no connection", async () => {
  const { client } = await stranded({ drainTimeoutMs: 100 });
  await within(client[Symbol.asyncDispose]() as Promise<void>, "the client is closed");
  assertEquals((await client.closed).code, "closed");
});

// Events

Deno.test("connect tells of each connection that is lost and made, in order", async () => {
  using server = new RawServer();
  const { client, peer: first, events } = await connected(server);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  await events.times("connected", 2);
  await peer.closeWrite();
  await within(client.close(), "the client is closed");
  assertEquals(events.types.slice(0, 4), ["connected", "disconnected", "reconnecting", "connected"]);
  assertEquals(events.types.at(-1), "closed");
  assertEquals(events.items[2], { type: "reconnecting", attempt: 1, delayMs: 0 });
});

Deno.test("onEvent hurts nobody when it throws", async () => {
  using server = new RawServer();
  const { client, peer: first } = await connected(server, {
    onEvent: () => {
      throw new Error("the listener's own");
    },
  });
  const sent = fate(client.submit("x", { idempotent: true }));
  await readRequest(first);
  first[Symbol.dispose]();
  using peer = await accepted(server);
  assertEquals(await answerAll(peer, 1), [idOf(1)]);
  assertEquals(await sent, [idOf(1), "accepted"]);
  await client.close();
  // Connected, lost, trying, connected, lost, closed.
  assertEquals(client.stats().listenerErrors, 6);
});

// What is told must be true, and what is due must end

Deno.test("requestTimeoutMs says unknown of a request that waits in the outbox, since it still leaves", async () => {
  using server = new RawServer();
  const options = { window: 64, requestTimeoutMs: 100, writeTimeoutMs: 60_000, reconnect: false } as const;
  const { client, peer } = await connected(server, options);
  using _peer = peer;
  // The peer reads nothing: what the kernel does not take waits in the outbox.
  const submits = Array.from({ length: 30 }, (_, i) => client.submit(marked(i, 400_000)));
  const outcomes = await within(
    Promise.all(submits.map((submit) => submit.catch((error: SubmitError) => [error.id, error.outcome]))),
    "all time out",
  );
  const unsent = new Set(
    outcomes.map((outcome) => outcome as [string, string]).flatMap(([id, outcome]) => {
      return outcome === "unsent" && id !== "" ? [id] : [];
    }),
  );
  assertEquals(unsent.size, 0);
  await client.close();
});

for (const how of ["times out", "is cancelled"] as const) {
  Deno.test(`Client.end() resolves when the last request ${how} while there is no connection`, async () => {
    using server = new RawServer();
    const requestTimeoutMs = how === "times out" ? 100 : 30_000, control = new AbortController();
    const { client, peer, events } = await connected(server, { reconnect: never, requestTimeoutMs });
    // Two losses: the first try after one comes at once, the second after a pause that outlasts the test.
    peer[Symbol.dispose]();
    (await accepted(server))[Symbol.dispose]();
    await events.times("disconnected", 2);
    const last = client.submit("x", { signal: control.signal }).catch(() => {});
    const ended = client.end();
    if (how === "is cancelled") control.abort();
    await within(last, "the request is over");
    await within(ended, "the end", 5000);
  });
}

Deno.test("Client pauses between its tries when a server answers 4 and closes at once", async () => {
  using server = new RawServer();
  const { client, peer, events } = await connected(server, {
    reconnect: { minDelayMs: 50, maxDelayMs: 100 },
  });
  const lost = client.submit("x").catch((error: SubmitError) => error.outcome);
  let connections = 1;
  const answer4 = async (peer: RawPeer) => {
    const { id } = await readRequest(peer);
    await peer.write(ackFrame(Number(id), 4));
    await peer.closeWrite();
    await peer.readToEnd().catch(() => {});
    peer[Symbol.dispose]();
  };
  await answer4(peer);
  for (; connections < 4; connections++) await answer4(await accepted(server));
  const pauses = events.items.flatMap((event) => event.type === "reconnecting" ? [event.delayMs] : []);
  assertEquals(pauses[0], 0);
  assert(pauses.slice(1).every((pause) => pause >= 25), `pauses of ${pauses} ms`);
  await client.close();
  assertEquals(await within(lost, "an outcome"), "unsent");
});

Deno.test("Client goes to the next server when one accepts and hangs up", async () => {
  using bad = new RawServer(), good = new RawServer();
  const { client, peer } = await connected(bad, {
    servers: [{ port: bad.port }, { port: good.port }],
    reconnect: soon,
  });
  await using _ = client;
  const submitted = client.submit("x", { idempotent: true });
  await readRequest(peer);
  peer[Symbol.dispose]();
  using other = await accepted(good);
  const { id } = await readRequest(other);
  await other.write(ackFrame(Number(id)));
  assertEquals((await within(submitted, "the answer")).outcome, "accepted");
  await other.closeWrite();
});

Deno.test("connect keeps to the options as they were when its caller changes them", async () => {
  using first = new RawServer(), second = new RawServer();
  const options: ConnectOptions = { port: first.port, poison: true, reconnect: soon, drainTimeoutMs: 100 };
  const connecting = connect(options);
  const peer = await accepted(first);
  await using client = await within(connecting, "connected");
  options.port = second.port;
  const submitted = client.submit("x", { idempotent: true });
  await readRequest(peer);
  peer[Symbol.dispose]();
  using again = await accepted(first);
  const { id } = await readRequest(again);
  await again.write(ackFrame(Number(id)));
  assertEquals((await within(submitted, "the answer")).outcome, "accepted");
  await again.closeWrite();
});
