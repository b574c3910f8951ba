// TLS: the same promises as without it, half-close among them, and what is special: handshakes, and not
// knowing what left.

import { assertEquals, assertInstanceOf, assertMatch, assertRejects, assertThrows } from "@std/assert";
import {
  connect,
  ConnectError,
  connectFrames,
  LimitError,
  type ServeOptions,
  SubmitError,
  type SubmitHandler,
} from "../mod.ts";
import { ServerEvents } from "./support/events.ts";
import { serve } from "./support/doors.ts";
import { RawPeer, submitFrame } from "./support/peer.ts";
import { Program } from "./support/program.ts";
import { turn } from "./support/turn.ts";
import { settled, until, within } from "./support/wait.ts";

const data = new URL("./data/", import.meta.url);
const [cert, key, ca] = await Promise.all(
  ["localhost.pem", "localhost.key", "ca.pem"].map((name) => Deno.readTextFile(new URL(name, data))),
) as [string, string, string];

function secure(handler: SubmitHandler = () => {}, options: ServeOptions = {}) {
  const events = new ServerEvents();
  const server = serve({ port: 0, poison: true, cert, key, onEvent: events.record, ...options }, handler);
  const { port } = server.addr;
  const to = { hostname: "localhost", port, caCerts: [ca], reconnect: false as const, poison: true };
  return { server, events, port, to };
}

for (const hostname of ["localhost", "127.0.0.1"]) {
  Deno.test(`connect() submits over TLS to ${hostname}`, async () => {
    const { server, to } = secure(({ payload }) => payload.length);
    await using _ = server;
    const client = await connect({ ...to, hostname });
    assertEquals(await within(client.submit("hello"), "the answer"), {
      id: "00000001",
      outcome: "refused",
      result: 5,
    });
    assertEquals((await within(client.end(), "the end")).code, "ended");
  });
}

Deno.test("connect() carries payloads of any length over TLS, byte for byte", async () => {
  const sums: number[] = [],
    sum = (bytes: Uint8Array) => bytes.reduce((sum, byte) => (sum * 31 + byte) | 0, 7);
  const { server, to } = secure(({ payload }) => void sums.push(payload.length, sum(payload)));
  await using _ = server;
  await using client = await connect(to);
  const payloads = [0, 1, 16_383, 16_384, 16_385, 65_536, 1_000_000].map((length) =>
    new Uint8Array(length).map((_, i) => i * 7 + (i >> 8))
  );
  for (const payload of payloads) await within(client.submit(payload), "the answer");
  assertEquals(sums, payloads.flatMap((payload) => [payload.length, sum(payload)]));
});

Deno.test("connectFrames() and serve({ alpnProtocols }) agree on a protocol", async () => {
  await using server = serve(
    { port: 0, poison: true, cert, key, alpnProtocols: ["submit/2", "submit/1"] },
    () => {},
  );
  const raw = await Deno.connectTls({
    hostname: "localhost",
    port: server.addr.port,
    caCerts: [ca],
    alpnProtocols: ["submit/1"],
  });
  using _raw = raw;
  assertEquals((await within(raw.handshake(), "the handshake")).alpnProtocol, "submit/1");
  const client = await connect({
    hostname: "localhost",
    port: server.addr.port,
    caCerts: [ca],
    alpnProtocols: ["submit/1"],
    reconnect: false,
  });
  assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  await within(client.end(), "the end");
});

Deno.test("connect() fails when the server speaks none of its alpnProtocols", async () => {
  const { server, events, to } = secure(() => {}, { alpnProtocols: ["submit/1"] });
  await using _ = server;
  const error = await assertRejects(() => connect({ ...to, alpnProtocols: ["other"] }), ConnectError);
  assertEquals(error.code, "failed");
  await events.next("refused");
});

Deno.test("Client.end() loses none of 1000 answers over TLS that are slower than it", async () => {
  const { server, to } = secure(() => turn(50));
  await using _ = server;
  const client = await connect({ ...to, window: 1000 });
  const answers = Array.from({ length: 1000 }, (_, i) => client.submit(`${i}`));
  const ended = client.end();
  const all = await within(Promise.all(answers), "the answers");
  assertEquals(all.filter(({ outcome }) => outcome === "accepted").length, 1000);
  assertEquals((await within(ended, "the end")).code, "ended");
});

Deno.test("serve() answers a raw peer over TLS all that is due after its half-close", async () => {
  const { server, port } = secure(() => turn(30));
  await using _ = server;
  const socket = await Deno.connectTls({ hostname: "localhost", port, caCerts: [ca] });
  using peer = new RawPeer(socket as unknown as Deno.TcpConn);
  for (let i = 1; i <= 100; i++) await peer.write(submitFrame(i, "x".repeat(i)));
  await peer.closeWrite();
  assertEquals((await peer.readAcksToEnd()).length, 100);
});

Deno.test("Server.shutdown() answers what is due over TLS, then half-closes", async () => {
  const gate = Promise.withResolvers<void>();
  const { server, events, to } = secure(() => gate.promise);
  const client = await connect(to);
  const answer = client.submit("slow");
  await until(() => server.stats().inFlight === 1, "the handler runs");
  const stopped = server.shutdown();
  await events.next("draining");
  gate.resolve();
  assertEquals((await within(answer, "the answer")).outcome, "accepted");
  assertEquals(await within(stopped, "the end"), { answered: 1, cut: 0 });
  await within(client.closed, "the client's end");
});

for (
  const [what, options] of Object.entries<{ hostname?: string; caCerts?: string[]; tls?: boolean }>({
    "a certificate that nobody vouches for": { caCerts: [], tls: true },
    "a certificate for another name": { hostname: "127.0.0.2" },
  })
) {
  Deno.test(`connect() throws ConnectError "failed" for ${what}`, async () => {
    const { server, events, to } = secure(() => {}, { hostname: "0.0.0.0" });
    await using _ = server;
    const error = await assertRejects(() => connect({ ...to, ...options }), ConnectError);
    assertEquals(error.code, "failed");
    assertMatch(String((error.cause as Error).message), /certificate/);
    await events.next("refused");
    await using client = await connect(to);
    assertEquals((await client.submit("")).outcome, "accepted");
  });
}

Deno.test("connect() throws ConnectError when it speaks TLS to a server that does not", async () => {
  await using server = serve({ port: 0, poison: true }, () => {});
  const error = await assertRejects(
    () => connect({ port: server.addr.port, tls: true, connectTimeoutMs: 3000, reconnect: false }),
    ConnectError,
  );
  assertEquals(error.code, "failed");
});

Deno.test('connect() throws ConnectError "timeout" when the server never answers the handshake', async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const error = await assertRejects(
    () => connect({ port: listener.addr.port, tls: true, connectTimeoutMs: 100, reconnect: false }),
    ConnectError,
  );
  assertEquals(error.code, "timeout");
  (await listener.accept()).close();
});

Deno.test("connect() rejects with the signal's reason when it is aborted in a handshake", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const control = new AbortController();
  const connecting = connect({
    port: listener.addr.port,
    tls: true,
    signal: control.signal,
    reconnect: false,
  });
  using socket = await listener.accept();
  await socket.read(new Uint8Array(1)); // its greeting: it is under way
  control.abort(new Error("changed my mind"));
  await assertRejects(() => within(connecting, "the rejection"), Error, "changed my mind");
});

for (
  const [what, junk] of Object.entries({
    "frames in the clear": submitFrame(1, "in the clear"),
    "zeros": new Uint8Array(4096),
    "one byte and the end": new Uint8Array([0x16]),
  })
) {
  Deno.test(`serve({ cert }) refuses ${what} once, and serves others`, async () => {
    const { server, events, to, port } = secure();
    await using _ = server;
    using peer = await RawPeer.connect(port);
    await peer.write(junk);
    await peer.closeWrite();
    await peer.readToEnd().catch(() => {});
    await events.next("refused");
    const client = await connect(to);
    assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
    await within(client.end(), "the end");
    await until(() => server.stats().connectionsOpen === 0, "both are gone");
    const { connectionsAccepted, connectionsRefused, acceptErrors, protocolErrors } = server.stats();
    assertEquals({ connectionsAccepted, connectionsRefused, acceptErrors, protocolErrors }, {
      connectionsAccepted: 2,
      connectionsRefused: 1,
      acceptErrors: 0,
      protocolErrors: 0,
    });
    assertEquals(events.items.filter(({ type }) => type === "opened").length, 1);
  });
}

Deno.test("serve({ cert }) refuses who never speaks at handshakeTimeoutMs, and serves others", async () => {
  const { server, events, to, port } = secure(() => {}, { handshakeTimeoutMs: 200 });
  await using _ = server;
  using _silent = await RawPeer.connect(port);
  await until(() => server.stats().connectionsAccepted === 1, "it is accepted");
  const client = await connect(to);
  assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  const { error } = await events.next("refused");
  assertInstanceOf(error, LimitError);
  assertEquals([error.limit, error.value], ["handshakeTimeoutMs", 200]);
  assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  await within(client.end(), "the end");
});

Deno.test("Deno keeps a TLS socket whose handshake was cut, so that its peer hears nothing", async () => {
  // The place is given back, the descriptor is not, until the peer goes: what docs/reliability.md says of TLS. When
  // this fails, Deno closes such sockets: say so there, and expect the peer to be cut.
  const { server, port, events } = secure(() => {}, { handshakeTimeoutMs: 50 });
  await using _ = server;
  using silent = await RawPeer.connect(port);
  await events.next("refused");
  const heard = silent.readToEnd().then(() => "the end", () => "the end of its own");
  assertEquals(
    await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 300, "nothing"))]),
    "nothing",
  );
  silent[Symbol.dispose]();
  await heard;
});

Deno.test("Server.shutdown() ends while a handshake is under way", async () => {
  const { server, port } = secure();
  using _silent = await RawPeer.connect(port);
  await until(() => server.stats().connectionsAccepted === 1, "it is accepted");
  await within(server.shutdown(), "the end of the server", 3000);
});

Deno.test("serve({ cert, maxConnections }) gives back the place of a handshake that failed", async () => {
  const { server, events, to, port } = secure(() => {}, { maxConnections: 1 });
  await using _ = server;
  for (let i = 0; i < 3; i++) {
    using peer = await RawPeer.connect(port);
    await peer.write(new Uint8Array(100));
    await peer.closeWrite();
    await peer.readToEnd().catch(() => {});
    await until(
      () => events.items.filter(({ type }) => type === "refused").length === i + 1,
      "it is refused",
    );
  }
  await using client = await connect(to);
  assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  assertEquals(server.stats().limits.maxConnections, 0);
});

Deno.test("serve() throws TypeError when cert or key is given alone", () => {
  assertThrows(() => serve({ port: 0, cert }, () => {}), TypeError, "key");
  assertThrows(() => serve({ port: 0, key }, () => {}), TypeError, "cert");
});

Deno.test("serve() throws when cert and key are no PEM, and leaves the port free", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
  listener.close();
  assertThrows(() => serve({ port, cert: "junk", key: "junk" }, () => {}));
  await using _ = serve({ port }, () => {});
});

Deno.test("Client.submit() over TLS says unknown of what a lost connection was given", async () => {
  // A server that shakes hands and reads nothing more.
  const listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key });
  using _listener = listener;
  const accepted = listener.accept();
  const connecting = connect({
    hostname: "localhost",
    port: (listener.addr as Deno.NetAddr).port,
    caCerts: [ca],
    reconnect: false,
    maxFrameLength: 64_000_000,
    window: 10,
  });
  const socket = await accepted;
  await within(socket.handshake(), "the handshake");
  const client = await connecting;
  // More than the kernels' buffers hold: it was given to the socket, and not all of it was accepted.
  const outcomes = Promise.allSettled([
    client.submit(new Uint8Array(50_000_000)),
    client.submit("behind it"),
  ]);
  await turn(100);
  socket.close();
  await within(client.closed, "the client's end");
  const [first, second] = await within(outcomes, "the outcomes");
  const outcomeOf = (settled: PromiseSettledResult<unknown>) =>
    settled.status === "rejected" && settled.reason instanceof SubmitError ? settled.reason.outcome : settled;
  assertEquals(outcomeOf(first), "unknown");
  // Nothing of what lies behind the write under way was ever given to the socket.
  assertEquals(outcomeOf(second), "unsent");
});

Deno.test("Client.close() over TLS says unknown of a request that was given to the socket", async () => {
  const { server, to } = secure(() => new Promise<void>(() => {}), { drainTimeoutMs: 100 });
  await using _ = server;
  const client = await connect(to);
  const answer = client.submit("no answer");
  const rejected = assertRejects(() => answer, SubmitError);
  await until(() => server.stats().inFlight === 1, "the handler runs");
  await within(client.close(), "the end");
  assertEquals((await rejected).outcome, "unknown");
});

Deno.test("Server.shutdown() ends while a handshake is under way", async () => {
  const { server, events, port } = secure();
  using _silent = await RawPeer.connect(port);
  await until(() => server.stats().connectionsAccepted === 1, "it is accepted");
  await within(server.shutdown(), "the end of the server", 3000);
  await within(server.finished, "finished");
  assertEquals(events.types.includes("opened"), false);
});

Deno.test("serve({ signal }) ends at once while a handshake is under way when it is aborted", async () => {
  const control = new AbortController();
  const { server, port } = secure(() => {}, { signal: control.signal });
  using _silent = await RawPeer.connect(port);
  await until(() => server.stats().connectionsAccepted === 1, "it is accepted");
  control.abort();
  await within(server.finished, "the end of the server", 3000);
});

Deno.test("serve({ cert }) stops reading over TLS while a handler holds it back", async () => {
  const gate = Promise.withResolvers<void>();
  const { server, to } = secure(() => gate.promise, { maxInFlight: 2 });
  await using _ = server;
  const client = await connect({ ...to, window: 200, writeTimeoutMs: 20_000 });
  const answers = Promise.all(Array.from({ length: 100 }, () => client.submit(new Uint8Array(500_000))));
  const read = await settled(() => server.stats().bytesRead);
  assertEquals(read < 25_000_000, true, `${read} bytes were read`);
  assertEquals(server.stats().handled, 2);
  gate.resolve();
  assertEquals((await within(answers, "the answers", 20_000)).length, 100);
  await within(client.end(), "the end");
});

Deno.test("connectFrames() reads to the end over TLS when the server half-closes first", async () => {
  const listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key });
  using _listener = listener;
  const accepted = listener.accept();
  const connecting = connectFrames({
    hostname: "localhost",
    port: (listener.addr as Deno.NetAddr).port,
    caCerts: [ca],
  });
  using socket = await accepted;
  await within(socket.handshake(), "the handshake");
  await using connection = await connecting;
  await socket.write(new Uint8Array([0, 0, 0, 1, 42]));
  await socket.closeWrite();
  assertEquals(await within(Array.fromAsync(connection.frames), "the frames"), [
    new Uint8Array([0, 0, 0, 1, 42]),
  ]);
  await connection.send(new Uint8Array([43]));
  await connection.end();
  const buffer = new Uint8Array(5);
  for (let at = 0; at < 5;) at += (await within(socket.read(buffer.subarray(at)), "the frame"))!;
  assertEquals(buffer, new Uint8Array([0, 0, 0, 1, 43]));
});

// The programs.

const path = (name: string) => new URL(name, data).pathname;

Deno.test("server.ts --cert --key and client.ts --ca speak TLS with each other", async () => {
  await using server = new Program(
    "server.ts",
    ["--port", "0", "--cert", path("localhost.pem"), "--key", path("localhost.key")],
    ["-N", "-R"],
  );
  await server.says("\n");
  const port = server.stdoutLines[0]!.match(/:(\d+)$/)![1]!;
  const to = ["--hostname", "localhost", "--port", port];
  await using client = new Program("client.ts", [...to, "--ca", path("ca.pem"), "one", "two"], ["-N", "-R"]);
  assertEquals([await client.exit(), client.stdout], [0, "00000001 0\n00000002 0\n"]);
  await using distrustful = new Program("client.ts", [...to, "--tls", "one"]);
  assertEquals([await distrustful.exit(), distrustful.stdout], [2, ""]);
  assertMatch(distrustful.stderr, /^client: cannot connect to localhost:\d+: .*certificate.*\n$/);
  await using plain = new Program("client.ts", [...to, "one"]);
  assertEquals(await plain.exit(), 1);
  await server.logs("refused");
  server.signal("SIGTERM");
  assertEquals(await server.exit(), 0);
});

for (
  const [what, args, permissions, status, says] of [
    [
      "--cert is given without --key",
      ["--cert", path("localhost.pem")],
      ["-N", "-R"],
      2,
      /--cert and its key/,
    ],
    [
      "--cert names no file",
      ["--cert", "/nowhere.pem", "--key", path("localhost.key")],
      ["-N", "-R"],
      2,
      /--cert/,
    ],
    [
      "it may not read --cert",
      ["--cert", path("localhost.pem"), "--key", path("localhost.key")],
      ["-N"],
      1,
      /--cert .*-R/,
    ],
    [
      "--cert holds no certificate",
      ["--cert", path("README.md"), "--key", path("localhost.key")],
      ["-N", "-R"],
      1,
      /ertificate/,
    ],
    [
      "--cert and --proxy-from are given",
      ["--cert", path("localhost.pem"), "--key", path("localhost.key"), "--proxy-from", "::1"],
      ["-N", "-R"],
      2,
      /--proxy-from/,
    ],
  ] as const
) {
  Deno.test(`server.ts says so in one line with status ${status} when ${what}`, async () => {
    await using server = new Program("server.ts", ["--port", "0", ...args], permissions);
    const code = await server.exit();
    assertMatch(server.stderr, /^server: [^\n]*\n$/);
    assertMatch(server.stderr, says);
    assertEquals([code, server.stdout], [status, ""]);
  });
}
