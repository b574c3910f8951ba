// Sessions: who must open one, who decides, what waits meanwhile, and what ends it.

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Authenticate, ServeOptions, SubmitHandler } from "../mod.ts";
import { Wire } from "../testkit/mod.ts";
import { serve } from "./support/doors.ts";
import { ServerEvents } from "./support/events.ts";
import { idOf, joined, RawPeer, type ReadAck, request, submitFrame } from "./support/peer.ts";
import { clientProgram, Program } from "./support/program.ts";
import { until, within } from "./support/wait.ts";

const accepts: SubmitHandler<unknown> = () => {};

/** A server with `authenticate`, and what it says. */
function started(
  authenticate: Authenticate<unknown>,
  handler = accepts,
  more: Partial<ServeOptions<unknown>> = {},
) {
  const events = new ServerEvents();
  const options = { port: 0, poison: true, onEvent: events.record, authenticate, ...more };
  return { server: serve<unknown>(options, handler), events };
}

function connFrame(serial: number, payload: Uint8Array | string = ""): Uint8Array<ArrayBuffer> {
  return request(0x01, idOf(serial), payload);
}

function connAck(serial: number, result = 0): ReadAck {
  return { command: 0x81, id: idOf(serial), result };
}

function submitAck(serial: number, result = 0): ReadAck {
  return { command: 0x82, id: idOf(serial), result };
}

/** A handler that takes note of the sessions and the payloads that it sees. */
function noting() {
  const seen: unknown[] = [];
  const handler: SubmitHandler<unknown> = ({ payload }, { session }) => {
    seen.push([session, new TextDecoder().decode(payload)]);
  };
  return { seen, handler };
}

for (const how of ["at once", "by a promise"]) {
  Deno.test(`authenticate gives the handler its session when it returns one ${how}`, async () => {
    const { seen, handler } = noting();
    const { server, events } = started(({ id, payload }, { number }) => {
      const session = { id, name: new TextDecoder().decode(payload), number };
      return how === "at once" ? session : Promise.resolve(session);
    }, handler);
    await using _ = server;
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(connFrame(1, "gauge 7"), submitFrame(2, "a"));
    assertEquals(await peer.readAcks(2), [connAck(1), submitAck(2)]);
    assertEquals(seen, [[{ id: idOf(1), name: "gauge 7", number: 1 }, "a"]]);
    assertEquals(await events.next("authenticated"), { type: "authenticated", connection: 1, result: 0 });
  });
}

Deno.test("peer.session is the CONN's payload when nobody demands a session, null without CONN", async () => {
  const sessions: unknown[] = [];
  await using server = serve({ port: 0, poison: true }, (_, { session }) => void sessions.push(session));
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1), connFrame(2, "hi"), submitFrame(3));
  assertEquals(await peer.readAcks(3), [submitAck(1), connAck(2), submitAck(3)]);
  assertEquals(sessions, [null, new TextEncoder().encode("hi")]);
});

Deno.test("peer.session belongs to one connection when several have one", async () => {
  const { seen, handler } = noting();
  const { server } = started(({ payload }) => new TextDecoder().decode(payload), handler);
  await using _ = server;
  using a = await RawPeer.connect(server.addr.port);
  using b = await RawPeer.connect(server.addr.port);
  await a.write(connFrame(1, "a"));
  await a.readAcks(1);
  await b.write(connFrame(1, "b"));
  await b.readAcks(1);
  for (const peer of [a, b]) {
    await peer.write(submitFrame(2, "x"));
    await peer.readAcks(1);
  }
  assertEquals(seen, [["a", "x"], ["b", "x"]]);
});

for (
  const [what, authenticate, result] of [
    ["refuses with 1", () => 1, 1],
    ["refuses with 255 by a promise", () => Promise.resolve(255), 255],
    ["throws", () => {
      throw new Error("no database");
    }, 5],
    ["rejects", () => Promise.reject(new Error("no database")), 5],
    ["returns 0", () => 0, 5],
    ["returns 256", () => 256, 5],
    ["returns -1", () => -1, 5],
    ["returns 1.5", () => 1.5, 5],
    ["returns NaN by a promise", () => Promise.resolve(NaN), 5],
  ] satisfies [string, Authenticate<unknown>, number][]
) {
  Deno.test(`serve answers CONN ${result} and closes when authenticate ${what}`, async () => {
    const { seen, handler } = noting();
    const { server, events } = started(authenticate, handler);
    await using _ = server;
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(connFrame(1), submitFrame(2, "never handled")));
    assertEquals(await peer.readAcksToEnd(), [connAck(1, result)]);
    await peer.closeWrite();
    const { code, limit } = await events.closed();
    assertEquals([code, limit, seen], ["refused", null, []]);
    assertEquals(await events.next("authenticated"), { type: "authenticated", connection: 1, result });
    const failed = result === 5 ? 1 : 0;
    assertEquals(server.stats().handlerErrors, failed);
    assertEquals(events.types.filter((type) => type === "handler-error").length, failed);
  });
}

Deno.test("serve answers 2 and goes on when a SUBMIT comes before the CONN that it demands", async () => {
  const { seen, handler } = noting();
  const { server } = started(() => "late", handler);
  await using _ = server;
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "early"));
  assertEquals(await peer.readAcks(1), [submitAck(1, 2)]);
  await peer.write(connFrame(2), submitFrame(3, "on time"));
  assertEquals(await peer.readAcks(2), [connAck(2), submitAck(3)]);
  assertEquals(seen, [["late", "on time"]]);
});

for (const where of ["in the same chunk", "in chunks of their own", "byte by byte"]) {
  Deno.test(`serve lets frames wait behind a CONN that is being decided, ${where}`, async () => {
    const { seen, handler } = noting(), gate = Promise.withResolvers<unknown>(), asked: string[] = [];
    const { server } = started(({ id }) => {
      asked.push(id);
      return gate.promise;
    }, handler);
    await using _ = server;
    try {
      using peer = await RawPeer.connect(server.addr.port);
      const behind = [2, 3, 4].map((serial) => submitFrame(serial, `${serial}`));
      if (where === "in the same chunk") await peer.write(joined(connFrame(1), ...behind));
      else await peer.write(connFrame(1));
      await until(() => asked.length === 1, "the CONN is being decided");
      if (where === "in chunks of their own") await peer.write(...behind);
      else if (where === "byte by byte") {
        for (const byte of joined(...behind)) await peer.write(new Uint8Array([byte]));
      }
      assertEquals([seen, server.stats().handled], [[], 0]);
      gate.resolve("in");
      assertEquals(await peer.readAcks(4), [connAck(1), submitAck(2), submitAck(3), submitAck(4)]);
      assertEquals([seen, asked], [[["in", "2"], ["in", "3"], ["in", "4"]], [idOf(1)]]);
    } finally {
      gate.resolve("in");
    }
  });
}

for (const demanded of [true, false]) {
  const when = demanded ? "a session is demanded" : "none is demanded";
  Deno.test(`serve answers a second CONN 1 and goes on when ${when}`, async () => {
    const { seen, handler } = noting(), events = new ServerEvents();
    const options = { port: 0, poison: true, onEvent: events.record };
    const authenticate: Authenticate<unknown> = ({ payload }) => payload;
    await using server = serve<unknown>(demanded ? { ...options, authenticate } : options, handler);
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(connFrame(1, "first"), connFrame(2, "second"), submitFrame(3, "x")));
    assertEquals(await peer.readAcks(3), [connAck(1), connAck(2, 1), submitAck(3)]);
    assertEquals(seen, [[new TextEncoder().encode("first"), "x"]]);
    assertEquals(events.types.filter((type) => type === "authenticated").length, 1);
  });
}

Deno.test("authenticate gets a signal that is aborted at once when the connection is lost", async () => {
  const asked = Promise.withResolvers<void>(), gate = Promise.withResolvers<string>();
  const aborted = Promise.withResolvers<void>();
  const { server } = started(({ signal }) => {
    signal.addEventListener("abort", () => aborted.resolve());
    asked.resolve();
    return gate.promise;
  });
  await using _ = server;
  try {
    await using wire = await Wire.connect({ port: server.addr.port });
    await wire.send(connFrame(1));
    await within(asked.promise, "the CONN is being decided");
    wire.reset();
    await within(aborted.promise, "the signal is aborted", 3000);
  } finally {
    gate.resolve("too late");
  }
});

Deno.test("serve handles nothing behind a CONN when the connection was lost meanwhile", async () => {
  const asked = Promise.withResolvers<void>(), gate = Promise.withResolvers<string>();
  const { server, events } = started(() => {
    asked.resolve();
    return gate.promise;
  });
  await using _ = server;
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(connFrame(1));
  await within(asked.promise, "the CONN is being decided");
  wire.reset();
  gate.resolve("too late");
  assertEquals((await events.closed()).code, "reset");
  using other = await RawPeer.connect(server.addr.port);
  await other.write(submitFrame(1));
  assertEquals(await other.readAcks(1), [submitAck(1, 2)]);
  assertEquals([server.stats().handled, server.stats().handlerErrors], [0, 0]);
});

Deno.test("serve answers a CONN and what is behind it when the peer ends meanwhile", async () => {
  const { seen, handler } = noting(), gate = Promise.withResolvers<string>();
  const asked = Promise.withResolvers<void>();
  const { server, events } = started(() => {
    asked.resolve();
    return gate.promise;
  }, handler);
  await using _ = server;
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(connFrame(1), submitFrame(2, "x")));
  await peer.closeWrite();
  await within(asked.promise, "the CONN is being decided");
  gate.resolve("in");
  assertEquals(await peer.readAcksToEnd(), [connAck(1), submitAck(2)]);
  assertEquals([seen, (await events.closed()).code], [[["in", "x"]], "ended"]);
});

Deno.test("Server.shutdown waits for a CONN that is being decided, and what is behind it", async () => {
  const { seen, handler } = noting(), gate = Promise.withResolvers<string>();
  const asked = Promise.withResolvers<void>();
  const { server, events } = started(() => {
    asked.resolve();
    return gate.promise;
  }, handler);
  await using _ = server;
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(connFrame(1), submitFrame(2, "x")));
  await within(asked.promise, "the CONN is being decided");
  const stopped = server.shutdown();
  await events.next("draining");
  gate.resolve("in");
  assertEquals(await peer.readAcksToEnd(), [connAck(1), submitAck(2)]);
  await peer.closeWrite();
  assertEquals(await within(stopped, "the server has stopped"), { answered: 1, cut: 0 });
  assertEquals(seen, [["in", "x"]]);
});

Deno.test("serve answers a CONN 4 when it comes while the server stops", async () => {
  const gate = Promise.withResolvers<void>(), events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => gate.promise);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  await until(() => server.stats().inFlight === 1, "the handler runs");
  const stopped = server.shutdown();
  await events.next("draining");
  await peer.write(connFrame(2));
  assertEquals(await peer.readAcks(1), [connAck(2, 4)]);
  gate.resolve();
  assertEquals(await peer.readAcksToEnd(), [submitAck(1)]);
  await peer.closeWrite();
  await within(stopped, "the server has stopped");
});

Deno.test("connTimeoutMs cuts a connection when authenticate never settles", async () => {
  const aborted = Promise.withResolvers<void>();
  const { server, events } = started(
    ({ signal }) => {
      signal.addEventListener("abort", () => aborted.resolve());
      return new Promise(() => {});
    },
    accepts,
    { connTimeoutMs: 100 },
  );
  await using _ = server;
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(connFrame(1), submitFrame(2)));
  const { code, limit } = await events.closed();
  assertEquals([code, limit], ["limit", "connTimeoutMs"]);
  await within(aborted.promise, "the signal is aborted");
  assertEquals(await peer.readToEnd(), new Uint8Array(0));
  assertEquals(server.stats().handled, 0);
});

Deno.test("serve tells of no authentication when the connection has gone before it", async () => {
  const gate = Promise.withResolvers<string>();
  const { server, events } = started(() => gate.promise, accepts, { connTimeoutMs: 50 });
  {
    await using _ = server;
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(connFrame(1));
    assertEquals((await events.closed()).limit, "connTimeoutMs");
    gate.resolve("too late");
  }
  assertEquals(events.types.includes("authenticated"), false);
});

Deno.test("a session's payload stays as it is when the server reads on", async () => {
  const { server } = started(({ payload }) => payload, (_, { session }) => {
    return (session as Uint8Array).every((byte) => byte === 7) ? 0 : 1;
  });
  await using _ = server;
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(connFrame(1, new Uint8Array(1000).fill(7)));
  await peer.readAcks(1);
  for (let serial = 2; serial < 20; serial++) {
    await peer.write(submitFrame(serial, new Uint8Array(1000).fill(serial)));
    assertEquals(await peer.readAcks(1), [submitAck(serial)]);
  }
});

// --token-file

/** A file that holds a token, and goes. */
class TokenFile implements Disposable {
  readonly path = Deno.makeTempFileSync({ suffix: ".token" });

  constructor(token: string) {
    Deno.writeTextFileSync(this.path, token);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path);
  }
}

/** The server program with a token. */
async function tokenServer(path: string): Promise<{ program: Program; port: number }> {
  const program = new Program("server.ts", ["--port", "0", "--print", "--token-file", path], ["-N", "-R"]);
  await program.says("\n");
  return { program, port: Number(program.stdoutLines[0]!.match(/:(\d+)$/)![1]) };
}

Deno.test("client.ts --token-file is served when server.ts has the same token", async () => {
  using ours = new TokenFile("s3cret\n");
  using theirs = new TokenFile("  s3cret");
  const { program, port } = await tokenServer(ours.path);
  await using server = program;
  const args = ["--port", `${port}`, "--token-file", theirs.path, "hello"];
  await using client = new Program("client.ts", args, ["-N", "-R"]);
  assertEquals([await client.exit(), client.stdout], [0, "00000002 0\n"]);
  await server.says('"payload":"hello"');
});

Deno.test("server.ts --token-file refuses another token, whatever its length", async () => {
  using file = new TokenFile("s3cret");
  const { program, port } = await tokenServer(file.path);
  await using server = program;
  for (const token of ["", "s", "s3creT", "s3cret ", "s3cret\0", "x".repeat(100_000)]) {
    using peer = await RawPeer.connect(port);
    await peer.write(joined(connFrame(1, token), submitFrame(2, "x")));
    assertEquals(await peer.readAcksToEnd(), [connAck(1, 1)], `${token.length} bytes`);
  }
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1, "x"), connFrame(2, "s3cret"), submitFrame(3, "y"));
  assertEquals((await peer.readAcks(3)).map(({ result }) => result).toSorted(), [0, 0, 2]);
  await server.says('"payload":"y"');
  assert(!server.stdout.includes('"payload":"x"'), server.stdout);
});

Deno.test("client.ts says that the session was refused, with status 2, when its token is wrong", async () => {
  using ours = new TokenFile("s3cret");
  using theirs = new TokenFile("guess");
  const { program, port } = await tokenServer(ours.path);
  await using _ = program;
  const args = ["--port", `${port}`, "--token-file", theirs.path, "hello"];
  await using client = new Program("client.ts", args, ["-N", "-R"]);
  assertEquals([await client.exit(), client.stdout], [2, ""]);
  assertMatch(client.stderr, /^client: cannot connect to .* refused the session with result 1; .*\n$/);
});

Deno.test("client.ts ends with status 1 when server.ts demands a token and it has none", async () => {
  using file = new TokenFile("s3cret");
  const { program, port } = await tokenServer(file.path);
  await using _ = program;
  await using client = clientProgram(port, "hello");
  assertEquals([await client.exit(), client.stdout], [1, "00000001 2\n"]);
});

for (const file of ["server.ts", "client.ts"] as const) {
  Deno.test(`${file} --token-file says in one line that it needs -R when that is missing`, async () => {
    using token = new TokenFile("s3cret");
    await using program = new Program(file, ["--port", "0", "--token-file", token.path]);
    assertEquals(await program.exit(), 1);
    assertMatch(program.stderr, /^\w+: cannot read --token-file .*-N -R\n$/);
  });

  Deno.test(`${file} --token-file is refused in one line when the file is empty or missing`, async () => {
    using token = new TokenFile(" \n");
    for (const path of [token.path, `${token.path}.none`]) {
      await using program = new Program(file, ["--port", "0", "--token-file", path], ["-N", "-R"]);
      assertEquals(await program.exit(), 2);
      assertStringIncludes(program.stderr, "--token-file names");
      assertEquals(program.stderr.split("\n").length, 2);
    }
  });
}
