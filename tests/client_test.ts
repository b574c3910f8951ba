// The client against servers that are ours, and against servers that are played by hand.

import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import {
  type Answer,
  type Client,
  type ClientEvent,
  connect as connectAgain,
  ConnectError,
  type ConnectErrorCode,
  connectFrames,
  type ConnectOptions,
  FrameError,
  PacketError,
  serve,
  serveConnections,
  serveFrames,
  SubmitError,
} from "../mod.ts";
import { WireListener } from "../testkit/mod.ts";
import { ackFrame, frameOf, idOf, joined, type RawPeer, request } from "./support/peer.ts";
import {
  idsOf,
  marked,
  plainFrame,
  plainFramesIn,
  RawServer,
  type ReadRequest,
  readRequest,
  readRequests,
  requestsIn,
  sameBytes,
  UnhandledRejections,
} from "./support/raw_server.ts";
import { Recorder, settled, until, within } from "./support/wait.ts";

/** One connection and no other: what becomes of a lost one is reconnect_test.ts's business. */
function connect(options: ConnectOptions = {}): Promise<Client> {
  return connectAgain({ reconnect: false, ...options });
}

const base = { port: 0, poison: true, drainTimeoutMs: 5000 } as const;
const plain = { initialBytesToStrip: 4 } as const;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Gives up even where it is the end of a test that hangs. */
function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, fn, timeout: 15_000 });
}

/** A client and the server's end of its connection. */
async function linked(server: RawServer, options: ConnectOptions = {}): Promise<[Client, RawPeer]> {
  const both = Promise.all([connect({ port: server.port, poison: true, ...options }), server.accept()]);
  return await within(both, "a client is connected");
}

/** What becomes of a submit; never rejects for what is an outcome. */
async function outcomeOf(submitted: Promise<Answer>): Promise<string> {
  try {
    return (await submitted).outcome;
  } catch (error) {
    assertInstanceOf(error, SubmitError);
    return error.outcome;
  }
}

/** What became of all of them. */
function outcomesOf(submitted: Promise<Answer>[]): Promise<string[]> {
  return within(Promise.all(submitted.map(outcomeOf)), "every submit has an outcome");
}

/** Tells events of one type. */
function event<T extends ClientEvent["type"]>(type: T) {
  return (event: ClientEvent): event is Extract<ClientEvent, { type: T }> => event.type === type;
}

/** Lets whatever can happen without the network happen. */
async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** A port where connecting never ends: the queue of its listener is full. */
async function fullServer(): Promise<RawServer & Disposable> {
  const server = new RawServer({ tcpBacklog: 1 }), sockets: Deno.TcpConn[] = [];
  for (let full = false; !full;) {
    const late = new AbortController(), timer = setTimeout(() => late.abort(), 300);
    try {
      sockets.push(await Deno.connect({ hostname: "127.0.0.1", port: server.port, signal: late.signal }));
    } catch {
      full = true;
    }
    clearTimeout(timer);
  }
  const dispose = server[Symbol.dispose].bind(server);
  server[Symbol.dispose] = () => {
    for (const socket of sockets) socket.close();
    dispose();
  };
  return server;
}

test("submit() resolves with each request's own answer when answers come out of order", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = [1, 2, 3, 4, 5].map((number) => client.submit(`request ${number}`));
  const requests = await within(readRequests(peer, 5), "all requests");
  assertEquals(
    requests.map(({ command, id, payload }) => [command, id, text(payload)]),
    [1, 2, 3, 4, 5].map((number) => [2, idOf(number), `request ${number}`]),
  );
  for (const serial of [4, 1, 5, 3, 2]) await peer.write(ackFrame(serial, serial === 1 ? 0 : serial + 9));
  const answers = await within(Promise.all(submitted), "all answers");
  assertEquals(answers.map(({ id, outcome, result }) => [id, outcome, result]), [
    [idOf(1), "accepted", 0],
    [idOf(2), "refused", 11],
    [idOf(3), "refused", 12],
    [idOf(4), "refused", 13],
    [idOf(5), "refused", 14],
  ]);
});

test("submit() takes an answer that comes in single bytes", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = client.submit("x");
  await within(readRequest(peer), "the request");
  for (const byte of ackFrame(1, 200)) {
    await peer.write(new Uint8Array([byte]));
    await turns(1);
  }
  assertEquals((await within(submitted, "the answer")).result, 200);
});

for (const result of [1, 2, 3, 5, 6, 7, 128, 255]) {
  test(`submit() resolves with refused when the answer is ${result}`, async () => {
    await using server = serve(base, () => result);
    await using client = await connect({ port: server.addr.port, poison: true });
    assertEquals(await within(client.submit("x"), "the answer"), { id: idOf(1), outcome: "refused", result });
    assertEquals(client.stats().refused, 1);
  });
}

test("submit() rejects with unsent when the answer is 4, shutting down", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = client.submit("x");
  submitted.catch(() => {});
  await within(readRequest(peer), "the request");
  await peer.write(ackFrame(1, 4));
  const error = await within(assertRejects(() => submitted, SubmitError), "the answer");
  assertEquals([error.outcome, error.id, client.stats().unsent], ["unsent", idOf(1), 1]);
});

test("submit() has exactly the window unanswered, and goes on by one for each answer", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 4 });
  await using _client = client;
  using _peer = peer;
  const submitted = Array.from({ length: 40 }, (_, i) => client.submit(`${i}`));
  const unanswered = (await within(readRequests(peer, 4), "a window of requests")).map(({ id }) =>
    Number(id)
  );
  for (let read = 4; read < 40; read++) {
    let early = true;
    const next = readRequest(peer).finally(() => early = false);
    await turns(3);
    assert(early, "a request came with the window full");
    assertEquals([client.stats().pending, client.stats().waiting], [4, 40 - read]);
    await peer.write(ackFrame(unanswered.splice(read % 4, 1)[0]!));
    unanswered.push(Number((await within(next, "one more request")).id));
  }
  for (const serial of unanswered) await peer.write(ackFrame(serial));
  assertEquals(await outcomesOf(submitted), new Array(40).fill("accepted"));
});

test("submit() never mixes the bytes of requests when many tasks submit at once", async () => {
  const tasks = 50, each = 30, total = tasks * each;
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 20 });
  await using _client = client;
  using _peer = peer;
  const lengthOf = (task: number, turn: number) =>
    [0, 10, 500, 16_370, 16_371, 16_384, 30_000][(task + turn) % 7]!;
  const played = (async () => {
    const requests: ReadRequest[] = [];
    while (requests.length < total) {
      const request = await readRequest(peer);
      requests.push(request);
      await peer.write(ackFrame(Number(request.id), request.payload.length & 3));
    }
    return requests;
  })();
  const answers = await within(
    Promise.all(Array.from({ length: tasks }, async (_, task) => {
      const results: (number | null)[] = [];
      for (let turn = 0; turn < each; turn++) {
        results.push((await client.submit(marked(task, lengthOf(task, turn)))).result);
      }
      return results;
    })),
    "all answers",
  );
  const requests = await played;
  assertEquals(requests.map(({ id }) => id), idsOf(1, total));
  const whole = (payload: Uint8Array) =>
    Array.from({ length: tasks }, (_, task) => task).some((task) =>
      payload[0] === marked(task, 1)[0] && sameBytes(payload, marked(task, payload.length))
    );
  assertEquals(requests.filter(({ payload }) => payload.length > 0 && !whole(payload)), []);
  for (const [task, results] of answers.entries()) {
    assertEquals(results, Array.from({ length: each }, (_, turn) => lengthOf(task, turn) & 3));
  }
});

test("submit() waits and holds little when the server does not read", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 100_000 });
  await using _client = client;
  using _peer = peer;
  const count = 1000, length = 65_536, payload = marked(1, length);
  const submitted = Array.from({ length: count }, () => client.submit(payload));
  const pending = await settled(() => client.stats().pending);
  assertEquals(pending + client.stats().waiting, count);
  // What the kernel takes, and the outbox up to its mark and one request.
  const kernelBytes = 16 * 1_048_576;
  assert(pending * length < kernelBytes + 1_048_576 + length, `${pending} requests are put in`);
  const requests = await within(readRequests(peer, count), "all requests once the server reads");
  await peer.write(joined(...requests.map(({ id }) => ackFrame(Number(id)))));
  assertEquals(new Set(await outcomesOf(submitted)), new Set(["accepted"]));
  assertEquals(requests.map(({ id }) => id), idsOf(1, count));
});

test("submit() takes an answer also while a long request behind it cannot be written", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { maxFrameLength: 64_000_000 });
  await using _client = client;
  using _peer = peer;
  const short = client.submit("short"), long = client.submit(new Uint8Array(12_000_000));
  const first = await within(readRequest(peer), "the short request");
  await turns(); // the rest of the long one fills the kernel's buffers
  await peer.write(ackFrame(Number(first.id)));
  const early = within(short, "the answer to the short one", 2000).then(
    () => null,
    (error: unknown) => error,
  );
  const failure = await early;
  const second = await within(readRequest(peer), "the long request");
  await peer.write(ackFrame(Number(second.id)));
  assertEquals(await outcomesOf([short, long]), ["accepted", "accepted"]);
  assertEquals(failure, null);
});

test("submit() gets its answer when it waits for room while an answer comes", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { maxFrameLength: 64_000_000 });
  await using _client = client;
  using _peer = peer;
  const submitted = [client.submit("short"), client.submit(new Uint8Array(12_000_000))];
  await within(readRequest(peer), "the short request");
  await settled(() => client.stats().pending, 30);
  await peer.write(ackFrame(1));
  await turns();
  submitted.push(client.submit("behind"));
  await turns();
  const requests = await within(readRequests(peer, 2), "the others");
  for (const { id } of requests) await peer.write(ackFrame(Number(id)));
  assertEquals(await outcomesOf(submitted), ["accepted", "accepted", "accepted"]);
});

for (const { length, count } of [{ length: 262_144, count: 60 }, { length: 1000, count: 20_000 }]) {
  const maxBytes = 2.5 * length;
  const options = { window: 100_000 };

  test(`submit() is unsent just where the server gets no whole request, when it ends early, ${length} bytes each`, async () => {
    using server = new RawServer();
    const [client, peer] = await linked(server, options);
    await using _client = client;
    using _peer = peer;
    const submitted = Array.from({ length: count }, (_, i) => client.submit(marked(i, length)));
    const outcomes = outcomesOf(submitted);
    await settled(() => client.stats().pending, 50);
    const front = await within(peer.readExactly(maxBytes), "two requests and a half");
    await peer.closeWrite();
    const { code } = await within(client.closed, "the client is closed");
    assertEquals(code, "ended");
    const { requests } = requestsIn(joined(front, await within(peer.readToEnd(), "the rest")));
    assert(requests.length < count, "not all went out");
    assertEquals(
      await outcomes,
      Array.from({ length: count }, (_, i) => i < requests.length ? "unknown" : "unsent"),
    );
  });

  test(`submit() is unknown where the socket took it whole, when the server resets, ${length} bytes each`, async () => {
    await using server = await WireListener.listen();
    await using client = await connect({ port: server.port, poison: true, ...options });
    const submitted = Array.from({ length: count }, (_, i) => client.submit(marked(i, length)));
    const outcomes = outcomesOf(submitted);
    const wire = await within(server.accept(), "the connection");
    await within(wire.readExactly(maxBytes), "two requests and a half");
    wire.pause();
    await settled(() => client.stats().pending, 50);
    wire.reset();
    const { code, bytesWritten } = await within(client.closed, "the client is closed");
    assertEquals(code, "reset");
    const whole = Math.floor(bytesWritten / (length + 13));
    assert(whole > 2 && whole < count, `${whole} went out`);
    assertEquals(await outcomes, Array.from({ length: count }, (_, i) => i < whole ? "unknown" : "unsent"));
  });
}

test("submit() is never unsent where the server gets it, when close() comes at whatever moment after it", async () => {
  using server = new RawServer();
  const wrong: string[] = [];
  for (let moment = 0; moment < 24; moment++) {
    const [client, peer] = await linked(server);
    await using _client = client;
    using _peer = peer;
    const outcome = outcomeOf(client.submit("once"));
    for (let step = 0; step < moment; step++) await Promise.resolve();
    await within(client.close(), "the client is closed");
    const { requests } = requestsIn(await within(peer.readToEnd(), "what was sent"));
    if (requests.length > 0 && await outcome !== "unknown") wrong.push(`${await outcome} at ${moment}`);
    await outcome;
  }
  assertEquals(wrong, []);
});

test("submit() is unknown when the server answers nothing and ends", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = [client.submit("a"), client.submit("b"), client.submit("c")];
  const outcomes = outcomesOf(submitted);
  await within(readRequests(peer, 3), "all requests");
  await peer.write(ackFrame(2));
  await peer.closeWrite();
  assertEquals(await outcomes, ["unknown", "accepted", "unknown"]);
  const { accepted, unknown, unsent, pending } = client.stats();
  assertEquals({ accepted, unknown, unsent, pending }, { accepted: 1, unknown: 2, unsent: 0, pending: 0 });
});

test("submit() rejects with the signal's reason and frees its place when it is cancelled while pending", async () => {
  const events = new Recorder<ClientEvent>();
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 1, onEvent: events.record });
  await using _client = client;
  using _peer = peer;
  const controller = new AbortController(), why = new Error("not any more");
  const cancelled = assertRejects(() => client.submit("cancelled", { signal: controller.signal }));
  const next = client.submit("next");
  await within(readRequest(peer), "the first request");
  controller.abort(why);
  assertEquals(await within(cancelled, "the cancelled one rejects"), why);
  assertEquals(text((await within(readRequest(peer), "the next request")).payload), "next");
  // Late, then, since it is no longer remembered, unknown.
  await peer.write(ackFrame(1, 7), ackFrame(1, 8), ackFrame(2));
  assertEquals((await within(next, "the next answer")).outcome, "accepted");
  assertEquals(events.items.filter(({ type }) => type !== "connected"), [
    { type: "late-answer", id: idOf(1), result: 7 },
    { type: "unknown-answer", id: idOf(1), result: 8 },
  ]);
  const { cancelled: count, lateAnswers, unknownAnswers, pending } = client.stats();
  assertEquals([count, lateAnswers, unknownAnswers, pending], [1, 1, 1, 0]);
});

test("submit() sends nothing when it is cancelled while it waits for room", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 1 });
  await using _client = client;
  using _peer = peer;
  const controller = new AbortController(), why = new Error("not any more");
  const first = client.submit("first");
  const cancelled = assertRejects(() => client.submit("cancelled", { signal: controller.signal }));
  const last = client.submit("last");
  await within(readRequest(peer), "the first request");
  controller.abort(why);
  assertEquals(await within(cancelled, "the cancelled one rejects"), why);
  await peer.write(ackFrame(1));
  const { id, payload } = await within(readRequest(peer), "the last request");
  assertEquals([id, text(payload)], [idOf(2), "last"], "no id was spent on the cancelled one");
  await peer.write(ackFrame(2));
  assertEquals(await outcomesOf([first, last]), ["accepted", "accepted"]);
});

test("stats().waiting does not count a submit that was cancelled while it waited", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 1 });
  await using _client = client;
  using _peer = peer;
  const first = outcomeOf(client.submit("first"));
  for (let i = 0; i < 100; i++) {
    const controller = new AbortController();
    const cancelled = assertRejects(() => client.submit(`${i}`, { signal: controller.signal }));
    controller.abort(new Error("not any more"));
    await within(cancelled, "the cancelled one rejects");
  }
  assertEquals([client.stats().waiting, client.stats().cancelled], [0, 100]);
  peer[Symbol.dispose]();
  await within(first, "the first one has an outcome");
});

test("submit() rejects at once when its signal is aborted already", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const why = new Error("not at all");
  assertEquals(await assertRejects(() => client.submit("x", { signal: AbortSignal.abort(why) })), why);
  const next = client.submit("next");
  assertEquals((await within(readRequest(peer), "the next request")).id, idOf(1));
  await peer.write(ackFrame(1));
  await within(next, "its answer");
});

test("submit() leaves the signal alone when it is aborted after the answer", async () => {
  using unhandled = new UnhandledRejections();
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true });
  const controller = new AbortController();
  await within(client.submit("x", { signal: controller.signal }), "the answer");
  controller.abort(new Error("too late"));
  await turns(1);
  assertEquals([client.stats().cancelled, client.stats().accepted, unhandled.reasons], [0, 1, []]);
});

test("submit() remembers the cancelled requests of four windows, and not one more", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 2 });
  await using _client = client;
  using _peer = peer;
  for (let serial = 1; serial <= 9; serial++) {
    const controller = new AbortController();
    const cancelled = assertRejects(() => client.submit("x", { signal: controller.signal }));
    await within(readRequest(peer), "the request");
    controller.abort(new Error("not any more"));
    await within(cancelled, "the cancelled one rejects");
  }
  for (let serial = 1; serial <= 9; serial++) await peer.write(ackFrame(serial));
  await until(() => client.stats().lateAnswers === 8, "the late answers");
  assertEquals(client.stats().unknownAnswers, 1);
});

test("the client counts and tells an answer to no request, and lives on", async () => {
  const events = new Recorder<ClientEvent>();
  using server = new RawServer();
  const [client, peer] = await linked(server, { onEvent: events.record });
  await using _client = client;
  using _peer = peer;
  const submitted = client.submit("x");
  await within(readRequest(peer), "the request");
  for (const id of ["00000002", "00000000", "99999999", "abcdefgh", "\x00\x01\x02\x03\x04\x05\x06\x07"]) {
    await peer.write(request(0x82, id, new Uint8Array([9])));
  }
  await peer.write(ackFrame(1));
  assertEquals((await within(submitted, "the answer")).outcome, "accepted");
  assertEquals(events.items.flatMap((event) => "id" in event ? [[event.type, event.id]] : []), [
    ["unknown-answer", "00000002"],
    ["unknown-answer", "00000000"],
    ["unknown-answer", "99999999"],
    ["unknown-answer", "abcdefgh"],
    ["unknown-answer", "\x00\x01\x02\x03\x04\x05\x06\x07"],
  ]);
  assertEquals(client.stats().unknownAnswers, 5);
});

test("the client hurts nobody when an onEvent listener throws", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server, {
    onEvent: () => {
      throw new Error("a listener's own trouble");
    },
  });
  await using _client = client;
  using _peer = peer;
  const submitted = client.submit("x");
  await within(readRequest(peer), "the request");
  await peer.write(ackFrame(5), ackFrame(1));
  assertEquals((await within(submitted, "the answer")).outcome, "accepted");
  await within(client.close(), "the client is closed");
  // connected, unknown-answer, disconnected, closed
  assertEquals(client.stats().listenerErrors, 4);
});

for (const name of [undefined, "gauge 7", "", new Uint8Array([0, 255])]) {
  const first = name === undefined ? 1 : 2, shown = name === undefined ? "no name" : JSON.stringify(name);
  test(`connect() gives ids from ${idOf(first)} on, step 1, when it is given ${shown}`, async () => {
    using server = new RawServer();
    const options = name === undefined ? {} : { name };
    const connected = connect({ port: server.port, poison: true, ...options });
    using peer = await within(server.accept(), "the connection");
    if (name !== undefined) {
      const { command, id, payload } = await within(readRequest(peer), "the CONN");
      const bytes = typeof name === "string" ? new TextEncoder().encode(name) : name;
      assertEquals([command, id, [...payload]], [0x01, idOf(1), [...bytes]]);
      await peer.write(ackFrame(1, 0, 0x81));
    }
    await using client = await within(connected, "a client");
    const submitted = Array.from({ length: 12 }, () => client.submit(""));
    const requests = await within(readRequests(peer, 12), "the requests");
    assertEquals(requests.map(({ id }) => id), idsOf(first, first + 11));
    await peer.write(joined(...requests.map(({ id }) => ackFrame(Number(id)))));
    await outcomesOf(submitted);
    peer[Symbol.dispose]();
  });
}

test("connect() waits for the answer to its CONN, and sends nothing else before", async () => {
  using server = new RawServer();
  let resolved = false;
  const connected = connect({ port: server.port, poison: true, name: "gauge" }).finally(() =>
    resolved = true
  );
  using peer = await within(server.accept(), "the connection");
  await within(readRequest(peer), "the CONN");
  await turns();
  assert(!resolved);
  await peer.write(ackFrame(1, 0, 0x81));
  await using client = await within(connected, "a client");
  await peer.closeWrite();
  assertEquals((await within(peer.readToEnd(), "nothing and FIN")).length, 0);
  assertEquals((await within(client.closed, "closed")).code, "ended");
});

interface ConnectFailure {
  name: string;
  code: ConnectErrorCode;
  play(peer: RawPeer): Promise<void> | void;
  result?: number;
}

const sessionFailures: ConnectFailure[] = [
  {
    name: "refuses the session with 1",
    code: "session-refused",
    result: 1,
    play: (peer) => peer.write(ackFrame(1, 1, 0x81)),
  },
  {
    name: "refuses the session with 255",
    code: "session-refused",
    result: 255,
    play: (peer) => peer.write(ackFrame(1, 255, 0x81)),
  },
  {
    name: "refuses the session and closes",
    code: "session-refused",
    result: 2,
    play: async (peer) => {
      await peer.write(ackFrame(1, 2, 0x81));
      await peer.closeWrite();
    },
  },
  { name: "does not answer the CONN", code: "timeout", play: () => {} },
  { name: "ends before it answers the CONN", code: "failed", play: (peer) => peer.closeWrite() },
  { name: "closes before it answers the CONN", code: "failed", play: (peer) => peer[Symbol.dispose]() },
  {
    name: "answers the CONN with garbage",
    code: "failed",
    play: (peer) => peer.write(frameOf(new Uint8Array(3))),
  },
];

for (const { name, code, play, result = null } of sessionFailures) {
  test(`connect() rejects with ${code} when the server ${name}`, async () => {
    using unhandled = new UnhandledRejections();
    using server = new RawServer();
    const connectTimeoutMs = code === "timeout" ? 100 : 5000;
    const connected = assertRejects(
      () => connect({ port: server.port, poison: true, name: "gauge", connectTimeoutMs }),
      ConnectError,
    );
    using peer = await within(server.accept(), "the connection");
    await within(readRequest(peer), "the CONN");
    await play(peer);
    const error = await within(connected, "connect() rejects", 3000);
    assertEquals([error.code, error.result, error.port, error.hostname], [
      code,
      result,
      server.port,
      "127.0.0.1",
    ]);
    await turns(1);
    assertEquals(unhandled.reasons, []);
  });
}

test("connect() rejects with failed when the server resets before it answers the CONN", async () => {
  await using server = await WireListener.listen();
  const connected = assertRejects(
    () => connect({ port: server.port, poison: true, name: "gauge" }),
    ConnectError,
  );
  const wire = await within(server.accept(), "the connection");
  await within(wire.readExactly(18), "the CONN");
  wire.reset();
  const error = await within(connected, "connect() rejects", 3000);
  assertEquals(error.code, "failed");
  assertInstanceOf(error.cause, Deno.errors.ConnectionReset);
});

for (const [kind, connecting] of Object.entries({ connect, connectFrames })) {
  test(`${kind}() rejects with refused when nobody listens`, async () => {
    const server = new RawServer(), { port } = server;
    server[Symbol.dispose]();
    const error = await within(assertRejects(() => connecting({ port }), ConnectError), "a rejection");
    assertEquals([error.code, error.port, error.result], ["refused", port, null]);
    assertInstanceOf(error.cause, Deno.errors.ConnectionRefused);
  });

  test(`${kind}() rejects with name-not-found when the name has no address`, async () => {
    const hostname = "no-such-host.invalid";
    const error = await within(
      assertRejects(() => connecting({ hostname, port: 1 }), ConnectError),
      "a rejection",
    );
    assertEquals([error.code, error.hostname], ["name-not-found", hostname]);
  });

  test(`${kind}() rejects with timeout when there is no answer within connectTimeoutMs`, async () => {
    using server = await fullServer();
    const start = performance.now();
    const error = await within(
      assertRejects(() => connecting({ port: server.port, connectTimeoutMs: 120 }), ConnectError),
      "a rejection",
    );
    assertEquals(error.code, "timeout");
    assert(performance.now() - start > 115, "not before its time");
  });

  test(`${kind}() rejects with the signal's reason when that is aborted before`, async () => {
    using server = new RawServer();
    const why = new Error("not at all");
    const connected = connecting({ port: server.port, signal: AbortSignal.abort(why) });
    assertEquals(await within(assertRejects(() => connected), "a rejection"), why);
  });

  test(`${kind}() rejects with the signal's reason when that is aborted while it connects`, async () => {
    using server = await fullServer();
    const controller = new AbortController(), why = new Error("not any more");
    const connected = assertRejects(() => connecting({ port: server.port, signal: controller.signal }));
    await turns(1);
    controller.abort(why);
    assertEquals(await within(connected, "a rejection"), why);
  });

  for (const connectTimeoutMs of [2 ** 31, Number.MAX_SAFE_INTEGER, Infinity]) {
    test(`${kind}() connects or throws a RangeError when connectTimeoutMs is ${connectTimeoutMs}`, async () => {
      using server = await fullServer();
      const controller = new AbortController(), why = new Error("waited long enough");
      const connected = connecting({ port: server.port, connectTimeoutMs, signal: controller.signal });
      const failure = connected.then(() => null, (error: unknown) => error);
      await turns(20);
      controller.abort(why);
      const error = await within(failure, "a rejection");
      assert(error === why || error instanceof RangeError, `${error}`);
    });
  }
}

test("connect() rejects with the signal's reason when that is aborted before the CONN is answered", async () => {
  using server = new RawServer();
  const controller = new AbortController(), why = new Error("not any more");
  const { signal } = controller;
  const connected = assertRejects(() => connect({ port: server.port, name: "gauge", signal }));
  using peer = await within(server.accept(), "the connection");
  await within(readRequest(peer), "the CONN");
  controller.abort(why);
  assertEquals(await within(connected, "a rejection"), why);
  await within(peer.readToEnd(), "the client's end of the connection is closed");
});

test("connect() has done with its signal when it is connected", async () => {
  await using server = serve(base, () => {});
  const controller = new AbortController();
  await using client = await connect({ port: server.addr.port, name: "gauge", signal: controller.signal });
  controller.abort(new Error("too late"));
  assertEquals((await within(client.submit("x"), "an answer")).outcome, "accepted");
});

const outOfRange: Record<string, unknown[]> = {
  window: [0, -1, 1.5, NaN, Infinity, 1_000_001],
  connectTimeoutMs: [0, -1, NaN],
  writeTimeoutMs: [0, -1, NaN],
  maxFrameLength: [0, 3, NaN],
  dialect: ["french"],
  port: [-1, 65_536, 1.5, NaN],
};

for (const [field, values] of Object.entries(outOfRange)) {
  for (const value of values) {
    test(`connect() rejects with a RangeError that names ${field} when that is ${value}`, async () => {
      using server = new RawServer();
      await within(
        assertRejects(() => connect({ port: server.port, [field]: value }), RangeError, field),
        "a rejection",
      );
    });
  }
}

for (const name of [undefined, "gauge"]) {
  const withName = name === undefined ? "without a name" : "with a name";
  for (const theirs of ["spec", "legacy"] as const) {
    for (const ours of ["spec", "legacy"] as const) {
      const options = { poison: true, dialect: ours, ...(name === undefined ? {} : { name }) };
      if (ours === theirs) {
        test(`connect() speaks ${ours} with a ${theirs} server ${withName}`, async () => {
          await using server = serve({ ...base, dialect: theirs }, (_, { session }) => session ? 7 : 0);
          await using client = await connect({ port: server.addr.port, ...options });
          assertEquals((await within(client.submit("x"), "an answer")).result, name === undefined ? 0 : 7);
        });
      } else {
        test(`connect() says other-dialect when it speaks ${ours} to a ${theirs} server ${withName}`, async () => {
          const events = new Recorder<ClientEvent>();
          await using server = serve({ ...base, dialect: theirs }, () => {});
          const connected = connect({ port: server.addr.port, ...options, onEvent: events.record });
          let reason: { code: string; error: unknown };
          if (name === undefined) {
            await using client = await connected;
            assertEquals(await outcomesOf([client.submit("x")]), ["unknown"]);
            reason = await within(client.closed, "the client is closed");
          } else {
            const { code, cause } = await within(assertRejects(() => connected, ConnectError), "a rejection");
            assertEquals(code, "failed");
            reason = (await events.first(event("closed"), "the client is closed")).reason;
            assertEquals(cause, reason.error);
          }
          assertInstanceOf(reason.error, PacketError);
          assertEquals([reason.code, reason.error.code], ["protocol", "other-dialect"]);
          assert(reason.error.message.includes(theirs), reason.error.message);
          assertEquals(events.items.filter(event("protocol-error")).map(({ error }) => error), [
            reason.error,
          ]);
        });
      }
    }
  }
}

const badAnswers: { name: string; bytes: Uint8Array; code: string; closed?: string }[] = [
  { name: "an unknown command", bytes: request(0x77, idOf(1), new Uint8Array(1)), code: "unknown-command" },
  { name: "a CONN", bytes: request(0x01, idOf(1), "x"), code: "unexpected-command" },
  { name: "a SUBMIT", bytes: request(0x02, idOf(1), "x"), code: "unexpected-command" },
  { name: "a CONN-ACK to nothing", bytes: ackFrame(99, 0, 0x81), code: "unexpected-command" },
  { name: "an answer without a result", bytes: request(0x82, idOf(1)), code: "too-short" },
  { name: "an answer that is too long", bytes: request(0x82, idOf(1), "xx"), code: "too-long" },
  { name: "a frame below its fixed part", bytes: new Uint8Array([0, 0, 0, 3]), code: "too-short" },
  { name: "a frame over the limit", bytes: new Uint8Array([0xff, 0xff, 0xff, 0xff]), code: "too-long" },
];

for (const { name, bytes, code } of badAnswers) {
  test(`the client takes the answers before it, then says protocol, when the server sends ${name}`, async () => {
    const events = new Recorder<ClientEvent>();
    using server = new RawServer();
    const [client, peer] = await linked(server, { onEvent: events.record });
    await using _client = client;
    using _peer = peer;
    const outcomes = outcomesOf([client.submit("a"), client.submit("b")]);
    await within(readRequests(peer, 2), "the requests");
    await peer.write(joined(ackFrame(2), bytes));
    assertEquals(await outcomes, ["unknown", "accepted"]);
    const { code: closed, error } = await within(client.closed, "the client is closed");
    assertEquals([closed, (error as PacketError | FrameError).code], ["protocol", code]);
    assertEquals(events.items.map(({ type }) => type), [
      "connected",
      "protocol-error",
      "disconnected",
      "closed",
    ]);
  });
}

test("the client says truncated when the server ends in mid-answer", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const outcomes = outcomesOf([client.submit("a"), client.submit("b")]);
  await within(readRequests(peer, 2), "the requests");
  await peer.write(joined(ackFrame(1), ackFrame(2).subarray(0, 13)));
  await peer.closeWrite();
  assertEquals(await outcomes, ["accepted", "unknown"]);
  const { code, error } = await within(client.closed, "the client is closed");
  assertInstanceOf(error, FrameError);
  assertEquals([code, error.code, error.length, error.limit], ["truncated", "truncated", 13, 14]);
});

test("the client says reset when the server resets in mid-answer", async () => {
  const events = new Recorder<ClientEvent>();
  await using server = await WireListener.listen();
  await using client = await connect({ port: server.port, poison: true, onEvent: events.record });
  const outcomes = outcomesOf([client.submit("a"), client.submit("b")]);
  const wire = await within(server.accept(), "the connection");
  await within(wire.readExactly(28), "the requests");
  await wire.send(joined(ackFrame(1), ackFrame(2).subarray(0, 13)));
  await until(() => client.stats().accepted === 1, "the first answer is taken");
  wire.reset();
  assertEquals(await outcomes, ["accepted", "unknown"]);
  const { code, error } = await within(client.closed, "the client is closed");
  assertEquals(code, "reset");
  assertInstanceOf(error, Deno.errors.ConnectionReset);
  assertEquals(events.items.map(({ type }) => type), ["connected", "disconnected", "closed"]);
});

test("end() half-closes behind the last request, and all answers still arrive", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = Array.from({ length: 20 }, (_, i) => client.submit(marked(i, 20_000)));
  const ended = client.end();
  const { requests, rest } = requestsIn(await within(peer.readToEnd(), "requests and FIN"));
  assertEquals([requests.length, rest], [20, 0]);
  for (const { id } of requests.reverse()) await peer.write(ackFrame(Number(id)));
  assertEquals(await outcomesOf(submitted), new Array(20).fill("accepted"));
  peer[Symbol.dispose]();
  const { code, error } = await within(ended, "end() resolves");
  assertEquals([code, error], ["ended", null]);
});

test("end() lets submits that wait for room be sent and answered", async () => {
  await using server = serve(
    base,
    ({ payload }) => new Promise((go) => setTimeout(() => go(payload.length), 1)),
  );
  await using client = await connect({ port: server.addr.port, poison: true, window: 2 });
  const submitted = Array.from({ length: 30 }, (_, i) => client.submit("x".repeat(i + 10)));
  assertEquals(client.stats().waiting, 28);
  assertEquals((await within(client.end(), "end() resolves")).code, "ended");
  const results = (await Promise.all(submitted)).map(({ result }) => result);
  assertEquals(results, Array.from({ length: 30 }, (_, i) => i + 10));
});

test("submit() rejects with unsent when it comes after end()", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const before = client.submit("before"), ended = client.end();
  const error = await within(assertRejects(() => client.submit("after"), SubmitError), "a rejection");
  assertEquals([error.outcome, error.id], ["unsent", ""]);
  const { requests } = requestsIn(await within(peer.readToEnd(), "requests and FIN"));
  assertEquals(requests.map(({ payload }) => text(payload)), ["before"]);
  await peer.write(ackFrame(1));
  assertEquals((await within(before, "the answer")).outcome, "accepted");
  peer[Symbol.dispose]();
  await within(ended, "end() resolves");
  assertEquals(await outcomesOf([client.submit("much later")]), ["unsent"]);
});

test("stats().unsent counts a submit that comes after end()", async () => {
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true });
  await within(client.end(), "end() resolves");
  await outcomesOf([client.submit("after")]);
  assertEquals(client.stats().unsent, 1);
});

test("end() resolves with the same reason when it is called twice, and behind it", async () => {
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true });
  const [first, second] = await within(Promise.all([client.end(), client.end()]), "both resolve");
  assertEquals([second, await within(client.end(), "a third call")], [first, first]);
  assertEquals(await within(client.closed, "closed resolves"), first);
});

test("end() resolves when the server never closes its side", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  assertEquals((await within(client.end(), "end() resolves", 4000)).code, "ended");
});

test("end() resolves with reset, and outcomes are told, when the server resets meanwhile", async () => {
  await using server = await WireListener.listen();
  await using client = await connect({ port: server.port, poison: true });
  const outcomes = outcomesOf([client.submit("a")]);
  const wire = await within(server.accept(), "the connection");
  await within(wire.readExactly(14), "the request");
  const ended = client.end();
  await turns(1);
  wire.reset();
  assertEquals((await within(ended, "end() resolves")).code, "reset");
  assertEquals(await outcomes, ["unknown"]);
});

test("close() fails what is pending as unknown and what waits as unsent", async () => {
  const events = new Recorder<ClientEvent>();
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 2, onEvent: events.record });
  await using _client = client;
  using _peer = peer;
  const outcomes = outcomesOf(["a", "b", "c", "d"].map((payload) => client.submit(payload)));
  await within(readRequests(peer, 2), "two requests");
  const { code, error } = await within(client.close(), "close() resolves");
  assertEquals([code, error], ["closed", null]);
  assertEquals(await outcomes, ["unknown", "unknown", "unsent", "unsent"]);
  assertEquals(await outcomesOf([client.submit("after")]), ["unsent"]);
  assertEquals(events.items.map(({ type }) => type), ["connected", "disconnected", "closed"]);
  assertEquals(await within(client.end(), "end() resolves too"), await client.closed);
});

test("the client ends, and leaves nothing behind, when its block is left", async () => {
  let outcome;
  await using server = serve(base, () => {});
  {
    await using client = await connect({ port: server.addr.port, poison: true });
    outcome = outcomeOf(client.submit("x"));
  }
  assertEquals(await within(outcome, "an answer"), "accepted");
  await until(() => server.stats().connectionsOpen === 0, "the server's side is closed");
});

test("closed resolves when the server ends an idle connection", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  await peer.closeWrite();
  const { code, error, bytesRead, bytesWritten } = await within(client.closed, "closed resolves");
  assertEquals([code, error, bytesRead, bytesWritten], ["ended", null, 0, 0]);
  assertEquals(await outcomesOf([client.submit("after")]), ["unsent"]);
});

test("submit() rejects with a FrameError, and the connection lives, when the payload is too long", async () => {
  await using server = serve({ ...base, maxFrameLength: 100 }, ({ payload }) => payload.length);
  await using client = await connect({ port: server.addr.port, poison: true, maxFrameLength: 100 });
  const error = await within(
    assertRejects(() => client.submit(new Uint8Array(88)), FrameError),
    "a rejection",
  );
  assertEquals([error.code, error.length, error.limit], ["too-long", 101, 100]);
  const answer = await within(client.submit(new Uint8Array(87)), "an answer to the longest one");
  assertEquals(answer, { id: idOf(1), outcome: "refused", result: 87 });
});

test("submit() sends strings as UTF-8", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const submitted = client.submit("größe 😀");
  assertEquals(text((await within(readRequest(peer), "the request")).payload), "größe 😀");
  await peer.write(ackFrame(1));
  await within(submitted, "the answer");
});

/** All that a bulk stream gives for these arrays. */
async function throughBulk(client: Client, arrays: Uint8Array[][]): Promise<Answer[]> {
  const stream = ReadableStream.from(arrays).pipeThrough(client.bulk());
  return (await within(Array.fromAsync(stream), "all outcomes")).flat();
}

test("bulk() gives one outcome for each payload, and leaves the client open", async () => {
  await using server = serve(base, ({ payload }) => payload[0]);
  await using client = await connect({ port: server.addr.port, poison: true, window: 8 });
  const arrays = Array.from(
    { length: 50 },
    (_, i) => Array.from({ length: i % 20 }, (_, j) => new Uint8Array([j % 4])),
  );
  const payloads = arrays.flat();
  const answers = await throughBulk(client, arrays);
  answers.sort((a, b) => a.id < b.id ? -1 : 1);
  assertEquals(answers.map(({ id }) => id), idsOf(1, payloads.length));
  assertEquals(answers.map(({ result }) => result), payloads.map(([result]) => result!));
  assertEquals((await within(client.submit(""), "an answer")).id, idOf(payloads.length + 1));
});

test("bulk() gives outcomes in the order of the answers", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const answers = throughBulk(client, [[1, 2, 3].map((mark) => marked(mark, 9))]);
  await within(readRequests(peer, 3), "the requests");
  await peer.write(ackFrame(3, 0), ackFrame(1, 9), ackFrame(2, 4));
  assertEquals((await answers).map(({ id, outcome, result }) => [id, outcome, result]), [
    [idOf(3), "accepted", 0],
    [idOf(1), "refused", 9],
    [idOf(2), "unsent", 4],
  ]);
});

test("bulk() gives an unsent in band, and goes on, when one payload is too long", async () => {
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true, maxFrameLength: 100 });
  const answers = await throughBulk(client, [[new Uint8Array(1), new Uint8Array(88), new Uint8Array(87)]]);
  const failed = answers.filter(({ outcome }) => outcome === "unsent");
  assertEquals([answers.length, failed.length, failed[0]!.id, failed[0]!.result], [3, 1, "", null]);
  assertInstanceOf(failed[0]!.error!.cause, FrameError);
});

test("bulk() gives unsent in band when the client has ended", async () => {
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true });
  await within(client.end(), "end() resolves");
  const answers = await throughBulk(client, [[new Uint8Array(1), new Uint8Array(2)], [new Uint8Array(3)]]);
  assertEquals(answers.map(({ outcome }) => outcome), ["unsent", "unsent", "unsent"]);
});

for (const arrays of [[], [[]], [[], [], []], [[], [new Uint8Array(1)], []]]) {
  test(`bulk() ends when it is given ${arrays.length} arrays with ${arrays.flat().length} payloads`, async () => {
    await using server = serve(base, () => {});
    await using client = await connect({ port: server.addr.port, poison: true });
    assertEquals((await throughBulk(client, arrays)).length, arrays.flat().length);
  });
}

test("bulk() closes its writable side only when all answers have come", async () => {
  using server = new RawServer();
  const [client, peer] = await linked(server);
  await using _client = client;
  using _peer = peer;
  const { readable, writable } = client.bulk(), writer = writable.getWriter();
  const answers = Array.fromAsync(readable);
  await within(writer.write([new Uint8Array(1), new Uint8Array(2)]), "both are taken");
  let closed = false;
  const closing = writer.close().then(() => closed = true);
  await within(readRequests(peer, 2), "the requests");
  await peer.write(ackFrame(2));
  await turns();
  assert(!closed);
  await peer.write(ackFrame(1));
  await within(closing, "the writable side is closed");
  assertEquals((await answers).flat().map(({ id }) => id), [idOf(2), idOf(1)]);
});

test("bulk() takes no more input when its output is not read", async () => {
  const window = 8, total = 2000;
  await using server = serve(base, () => {});
  await using client = await connect({ port: server.addr.port, poison: true, window });
  let pulled = 0;
  const source = new ReadableStream<Uint8Array[]>({
    pull: (controller) => {
      if (pulled === total) return controller.close();
      pulled++;
      controller.enqueue([new Uint8Array(10)]);
    },
  }, { highWaterMark: 0 });
  const reader = source.pipeThrough(client.bulk()).getReader();
  const first = await within(reader.read(), "some outcomes");
  await settled(() => server.stats().handled, 60);
  // What was under way when the reader stopped, and what lies in the queues of the streams.
  assert(server.stats().handled <= 2 * window, `${server.stats().handled} were sent`);
  assert(pulled <= 2 * window + 4, `${pulled} were taken`);
  let count = first.value!.length;
  for (let next; !(next = await within(reader.read(), "more outcomes")).done;) count += next.value.length;
  assertEquals([count, pulled], [total, total]);
});

test("bulk() leaves the client well when its readable side is cancelled", async () => {
  using unhandled = new UnhandledRejections();
  using server = new RawServer();
  const [client, peer] = await linked(server, { window: 4 });
  await using _client = client;
  using _peer = peer;
  const { readable, writable } = client.bulk(), writer = writable.getWriter();
  const reader = readable.getReader(), read = reader.read();
  const written = writer.write(Array.from({ length: 10 }, () => new Uint8Array(1))).catch(() => {});
  writer.closed.catch(() => {});
  await within(readRequests(peer, 4), "a window of requests");
  await within(reader.cancel(new Error("enough")), "the readable side is cancelled");
  assertEquals((await read).done, true);
  await assertRejects(() => writer.write([new Uint8Array(1)]));
  const submitted = client.submit("single");
  // Whatever of the array is still sent is answered too.
  const played = (async () => {
    for (let serial = 1; serial <= 4; serial++) await peer.write(ackFrame(serial));
    for (;;) await peer.write(ackFrame(Number((await readRequest(peer)).id)));
  })().catch(() => {});
  assertEquals((await within(submitted, "the single answer")).outcome, "accepted");
  await within(written, "the write has ended");
  await until(() => client.stats().pending === 0, "nothing is pending");
  peer[Symbol.dispose]();
  await played;
  assertEquals([unhandled.reasons, client.stats().pending, client.stats().waiting], [[], 0, 0]);
});

for (const loss of ["ends", "resets"]) {
  test(`bulk() gives every payload one outcome when the server ${loss} in the middle`, async () => {
    const total = 500, served = 120;
    using unhandled = new UnhandledRejections();
    await using server = await WireListener.listen();
    await using client = await connect({ port: server.port, poison: true, window: 50 });
    const arrays = Array.from(
      { length: total / 10 },
      () => Array.from({ length: 10 }, () => new Uint8Array(5)),
    );
    const answers = throughBulk(client, arrays);
    const wire = await within(server.accept(), "the connection");
    for (let serial = 1; serial <= served; serial++) {
      await within(wire.readExactly(18), "a request");
      await wire.send(ackFrame(serial));
    }
    await until(() => client.stats().accepted === served, "the answers are taken");
    if (loss === "ends") wire.fin();
    else wire.reset();
    const outcomes = await answers;
    assertEquals(outcomes.length, total);
    const ids = outcomes.map(({ id }) => id).filter((id) => id !== "");
    assertEquals(new Set(ids).size, ids.length, "an id came twice");
    assertEquals(outcomes.filter(({ outcome }) => outcome === "accepted").length, served);
    const unknown = outcomes.filter(({ outcome }) => outcome === "unknown").length;
    assert(unknown > 0 && unknown <= 50, `${unknown} are unknown`);
    assertEquals(outcomes.filter(({ outcome }) => outcome === "unsent").length, total - served - unknown);
    assertEquals(unhandled.reasons, []);
  });
}

test("bulk() and submit() keep to their own answers when two streams and single requests go at once", async () => {
  await using server = serve(
    base,
    ({ payload: [result] }) => result! & 1 ? result : new Promise((go) => setTimeout(() => go(result), 1)),
  );
  await using client = await connect({ port: server.addr.port, poison: true, window: 16 });
  const arrays = (result: number) =>
    Array.from({ length: 40 }, () => Array.from({ length: 10 }, () => new Uint8Array([result])));
  const [first, second, singles] = await Promise.all([
    throughBulk(client, arrays(10)),
    throughBulk(client, arrays(11)),
    within(Promise.all(Array.from({ length: 200 }, () => client.submit(new Uint8Array([12])))), "answers"),
  ]);
  assertEquals([first.length, second.length, singles.length], [400, 400, 200]);
  assertEquals(new Set(first.map(({ result }) => result)), new Set([10]));
  assertEquals(new Set(second.map(({ result }) => result)), new Set([11]));
  assertEquals(new Set(singles.map(({ result }) => result)), new Set([12]));
  assertEquals(new Set([...first, ...second, ...singles].map(({ id }) => id)).size, 1000);
  assertEquals(client.stats().refused, 1000);
});

test("connectFrames() sends and receives frames, and half-closes with end()", async () => {
  using server = new RawServer();
  await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
  using peer = await within(server.accept(), "the connection");
  for (const length of [0, 1, 100, 20_000]) await connection.send(marked(length, length));
  await within(connection.end(), "end() resolves");
  const sent = plainFramesIn(await within(peer.readToEnd(), "frames and FIN"));
  assertEquals(
    sent.map((frame) => sameBytes(frame, marked(frame.length, frame.length))),
    new Array(4).fill(true),
  );
  assertEquals(sent.map(({ length }) => length), [0, 1, 100, 20_000]);
  await peer.write(plainFrame("still"), plainFrame("open"));
  await peer.closeWrite();
  assertEquals((await within(Array.fromAsync(connection.frames), "all frames")).map(text), ["still", "open"]);
  await assertRejects(() => connection.send(new Uint8Array(1)), Deno.errors.BrokenPipe);
});

test("connection.frames gives bytes that stay when much else is read behind them", async () => {
  await using server = serveConnections({ ...base, format: plain }, async (connection) => {
    for (let i = 0; i < 200; i++) await connection.send(marked(i, i * 37));
  });
  await using connection = await connectFrames({ port: server.addr.port, poison: true, format: plain });
  const frames = await within(Array.fromAsync(connection.frames), "all frames");
  assertEquals(frames.length, 200);
  assertEquals(frames.findIndex((frame, i) => !sameBytes(frame, marked(i, i * 37))), -1, "a wrong frame");
});

test("connection.frames goes on while much is being sent that the server only takes as it is read", async () => {
  const length = 1_000_000, count = 48;
  await using server = serveFrames({ ...base, format: plain }, (frame) => frame);
  await using connection = await connectFrames({ port: server.addr.port, poison: true, format: plain });
  const payload = marked(5, length);
  // None is waited for, so all of it waits to be written while the answers come back.
  const sent = Promise.all(Array.from({ length: count }, () => connection.send(payload)));
  let received = 0;
  const read = (async () => {
    for await (const frame of connection.frames) {
      assertEquals(frame.length, length);
      if (++received === count) break;
    }
  })();
  try {
    await within(Promise.all([sent, read]), "all is echoed", 5000);
  } catch (error) {
    connection.abort();
    await Promise.allSettled([sent, read]);
    throw new Error(`stuck after ${received} of ${count} echoes`, { cause: error });
  }
});

for (const part of [0, 7]) {
  test(`connection.frames fails after the last good frame when the server resets with ${part} bytes of the next`, async () => {
    await using server = await WireListener.listen();
    await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
    const wire = await within(server.accept(), "the connection");
    await wire.send(
      joined(
        plainFrame("one"),
        plainFrame("two"),
        plainFrame("three"),
        plainFrame("cut off").subarray(0, part),
      ),
    );
    const reader = connection.frames.getReader(), seen: string[] = [];
    seen.push(text((await within(reader.read(), "the first frame")).value!));
    wire.reset();
    const failure = await within(
      (async () => {
        for (let next; !(next = await reader.read()).done;) seen.push(text(next.value));
      })().then(() => null, (error: unknown) => error),
      "the frames end",
    );
    assertEquals(seen, ["one", "two", "three"]);
    assertInstanceOf(failure, Deno.errors.ConnectionReset);
    assertEquals((await within(connection.closed, "closed resolves", 2000)).code, "reset");
  });
}

for (
  const { name, bytes, code } of [
    { name: "ends in mid-frame", bytes: plainFrame("cut off").subarray(0, 6), code: "truncated" },
    { name: "sends a frame over the limit", bytes: new Uint8Array([1, 0, 0, 0]), code: "too-long" },
  ]
) {
  test(`connection.frames fails after the last good frame when the server ${name}`, async () => {
    using server = new RawServer();
    await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
    using peer = await within(server.accept(), "the connection");
    await peer.write(joined(plainFrame("one"), plainFrame("two"), bytes));
    await peer.closeWrite();
    const seen: string[] = [];
    const failure = await within(
      (async () => {
        for await (const frame of connection.frames) seen.push(text(frame));
      })().then(() => null, (error: unknown) => error),
      "the frames end",
    );
    assertEquals(seen, ["one", "two"]);
    assertInstanceOf(failure, FrameError);
    assertEquals(failure.code, code);
  });
}

test("connection.send() rejects, and sends nothing of it, when a frame is over the limit", async () => {
  using server = new RawServer();
  const format = { ...plain, maxFrameLength: 100 };
  await using connection = await connectFrames({ port: server.port, poison: true, format });
  using peer = await within(server.accept(), "the connection");
  await assertRejects(() => connection.send(new Uint8Array(97)), FrameError);
  await assertRejects(() => connection.send(new Uint8Array(97_000)), FrameError);
  await connection.send(new Uint8Array(96));
  await connection.end();
  const frames = plainFramesIn(await within(peer.readToEnd(), "one frame and FIN"));
  assertEquals(frames.map(({ length }) => length), [96]);
});

test("connection.close() still sends what was put in", async () => {
  using server = new RawServer();
  await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
  using peer = await within(server.accept(), "the connection");
  const sent = Promise.all([1, 2, 3, 4, 5].map((mark) => connection.send(marked(mark, 900_000))));
  const closed = connection.close();
  const frames = plainFramesIn(await within(peer.readToEnd(), "frames and FIN"));
  assertEquals(frames.map((frame, i) => sameBytes(frame, marked(i + 1, 900_000))), new Array(5).fill(true));
  peer[Symbol.dispose]();
  await within(sent, "all sends resolve");
  const { code, error } = await within(closed, "close() resolves");
  assertEquals([code, error], ["closed", null]);
});

test("connection.close() ends frames that are being waited for", async () => {
  using server = new RawServer();
  await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
  using peer = await within(server.accept(), "the connection");
  const frames = Array.fromAsync(connection.frames);
  await turns(1);
  const closed = connection.close();
  assertEquals(await within(frames, "the frames end", 900), []);
  peer[Symbol.dispose]();
  await within(closed, "close() resolves");
});

test("connection.abort() cuts at once: sends reject with its reason, closed resolves with it", async () => {
  using server = new RawServer();
  const format = { ...plain, maxFrameLength: 64_000_000 };
  await using connection = await connectFrames({ port: server.port, poison: true, format });
  using _peer = await within(server.accept(), "the connection");
  const why = new Error("cut"), { signal } = connection;
  const sent = assertRejects(() => connection.send(new Uint8Array(32_000_000)));
  await turns();
  connection.abort(why);
  assertEquals(await within(sent, "the send rejects"), why);
  const { code, error } = await within(connection.closed, "closed resolves");
  assertEquals([code, error, signal.aborted, signal.reason], ["aborted", why, true, why]);
  assertEquals(await assertRejects(() => connection.send(new Uint8Array(1))), why);
});

test("connection.frames ends or fails when the connection is aborted while a frame is waited for", async () => {
  using server = new RawServer();
  await using connection = await connectFrames({ port: server.port, poison: true, format: plain });
  using _peer = await within(server.accept(), "the connection");
  const why = new Error("cut"), read = connection.frames.getReader().read();
  const failure = read.then(({ done }) => done, (error: unknown) => error);
  await turns(1);
  connection.abort(why);
  const seen = await within(failure, "the read settles", 2000);
  assert(seen === true || seen === why, `${seen}`);
});

test("connection.send() rejects, with no rejection unhandled, when the server resets", async () => {
  using unhandled = new UnhandledRejections();
  await using server = await WireListener.listen();
  const format = { ...plain, maxFrameLength: 64_000_000 };
  await using connection = await connectFrames({ port: server.port, poison: true, format });
  const wire = await within(server.accept(), "the connection");
  wire.pause();
  const sends = [1, 2, 3].map(() => assertRejects(() => connection.send(new Uint8Array(16_000_000))));
  await turns();
  wire.reset();
  await within(Promise.all(sends), "all sends reject");
  assertEquals((await within(connection.closed, "closed resolves")).code, "reset");
  await turns(1);
  assertEquals(unhandled.reasons, []);
});
