// Unix sockets, and several listeners on one server.

import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { connect, ConnectError, connectFrames, serveFrames } from "../mod.ts";
import { ServerEvents } from "./support/events.ts";
import { serve } from "./support/doors.ts";
import { idOf, RawPeer, submitFrame } from "./support/peer.ts";
import { Program } from "./support/program.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

const data = new URL("./data/", import.meta.url);
const [cert, key, ca] = await Promise.all(
  ["localhost.pem", "localhost.key", "ca.pem"].map((name) => Deno.readTextFile(new URL(name, data))),
) as [string, string, string];
const ignore = Deno.build.os === "windows";

/** A directory for sockets that is gone with its scope. */
async function directory(): Promise<AsyncDisposable & { readonly socket: string; readonly path: string }> {
  const path = await Deno.makeTempDir();
  return {
    path,
    socket: `${path}/framewire.sock`,
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** A port that nothing listened on a moment ago. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test({ name: "connect() submits over a Unix socket", ignore }, async () => {
  await using dir = await directory();
  const events = new ServerEvents();
  await using server = serve({ path: dir.socket, poison: true, onEvent: events.record }, ({ payload }) => {
    return payload.length;
  });
  const client = await connect({ path: dir.socket, poison: true, reconnect: false });
  assertEquals((await within(client.submit("hello"), "the answer")).result, 5);
  assertEquals((await within(client.end(), "the end")).code, "ended");
  assertEquals((await events.next("opened")).remoteAddr.transport, "unix");
  assertEquals(server.addrs, [{ transport: "unix", path: dir.socket }]);
  assertThrows(() => server.addr, TypeError, "addrs");
});

Deno.test(
  { name: "Client.end() loses no answer over a Unix socket that is slower than it", ignore },
  async () => {
    await using dir = await directory();
    await using _ = serve({ path: dir.socket, poison: true }, () => turn(50));
    const client = await connect({ path: dir.socket, poison: true, reconnect: false, window: 1000 });
    const answers = Array.from({ length: 1000 }, (_, i) => client.submit(`${i}`));
    const ended = client.end();
    const all = await within(Promise.all(answers), "the answers");
    assertEquals(all.filter(({ outcome }) => outcome === "accepted").length, 1000);
    assertEquals((await within(ended, "the end")).code, "ended");
  },
);

Deno.test(
  { name: "serve({ path }) answers a raw peer all that is due after its half-close", ignore },
  async () => {
    await using dir = await directory();
    await using _ = serve({ path: dir.socket, poison: true }, () => turn(30));
    const socket = await Deno.connect({ transport: "unix", path: dir.socket });
    using peer = new RawPeer(socket as unknown as Deno.TcpConn);
    for (let i = 1; i <= 100; i++) await peer.write(submitFrame(i, "x".repeat(i)));
    await peer.closeWrite();
    const ids = (await peer.readAcksToEnd()).map(({ id }) => id).sort();
    assertEquals(ids, Array.from({ length: 100 }, (_, i) => idOf(i + 1)));
  },
);

Deno.test(
  { name: "connectFrames() and serveFrames() carry long frames over a Unix socket", ignore },
  async () => {
    await using dir = await directory();
    await using server = serveFrames(
      { path: dir.socket, poison: true, format: { initialBytesToStrip: 4 } },
      (frame) => frame,
    );
    await using connection = await connectFrames({ path: dir.socket, format: { initialBytesToStrip: 4 } });
    const bytes = new Uint8Array(900_000).map((_, i) => i * 7 + (i >> 8));
    const frames = Array.fromAsync(connection.frames);
    await within(connection.send(bytes), "the sending");
    await connection.end();
    const echoed = await within(frames, "the frames");
    assertEquals(echoed.map(({ length }) => length), [900_000]);
    assertEquals(echoed[0]!.every((byte, i) => byte === bytes[i]), true);
    assertEquals(server.stats().protocolErrors, 0);
  },
);

Deno.test(
  { name: "Server.shutdown() answers what is due over a Unix socket and removes its file", ignore },
  async () => {
    await using dir = await directory();
    const gate = Promise.withResolvers<void>();
    const server = serve({ path: dir.socket, poison: true }, () => gate.promise);
    assertEquals(exists(dir.socket), true);
    const client = await connect({ path: dir.socket, reconnect: false });
    const answer = client.submit("slow");
    await until(() => server.stats().inFlight === 1, "the handler runs");
    const stopped = server.shutdown();
    gate.resolve();
    assertEquals((await within(answer, "the answer")).outcome, "accepted");
    assertEquals(await within(stopped, "the end"), { answered: 1, cut: 0 });
    assertEquals(exists(dir.socket), false);
    await within(client.closed, "the client's end");
  },
);

Deno.test({ name: "serve({ path }) listens again at once where a server has stopped", ignore }, async () => {
  await using dir = await directory();
  for (let i = 0; i < 3; i++) {
    await using _ = serve({ path: dir.socket, poison: true }, () => {});
    const client = await connect({ path: dir.socket, reconnect: false });
    assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
    await within(client.end(), "the end");
  }
});

Deno.test(
  { name: "serve({ path }) throws AddrInUse when another server listens there, unharmed", ignore },
  async () => {
    await using dir = await directory();
    await using _ = serve({ path: dir.socket, poison: true }, () => {});
    assertThrows(() => serve({ path: dir.socket }, () => {}), Deno.errors.AddrInUse);
    await using client = await connect({ path: dir.socket, reconnect: false });
    assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  },
);

Deno.test(
  { name: 'connect() throws ConnectError "refused" for a path that is missing', ignore },
  async () => {
    await using dir = await directory();
    const error = await assertRejects(() => connect({ path: dir.socket, reconnect: false }), ConnectError);
    assertEquals([error.code, error.hostname, error.port], ["refused", dir.socket, 0]);
    assertMatch(error.message, /^Cannot connect to \/.*framewire\.sock: nobody listens there$/);
  },
);

Deno.test(
  { name: 'connect() throws ConnectError "refused" for a socket that nobody listens on', ignore },
  async () => {
    await using dir = await directory();
    // A server that was killed leaves its file.
    const script = `Deno.listen({ transport: "unix", path: ${
      JSON.stringify(dir.socket)
    } }); console.log("up");
    setTimeout(() => {}, 60_000);`;
    await Deno.writeTextFile(`${dir.path}/killed.ts`, script);
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-config", "-A", `${dir.path}/killed.ts`],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const reader = child.stdout.getReader();
    await within(reader.read(), "it listens");
    child.kill("SIGKILL");
    await child.status;
    await reader.cancel();
    assertEquals(exists(dir.socket), true);
    const error = await assertRejects(() => connect({ path: dir.socket, reconnect: false }), ConnectError);
    assertEquals(error.code, "refused");
  },
);

Deno.test({ name: "connect() comes back over a Unix socket when its server does", ignore }, async () => {
  await using dir = await directory();
  const first = serve({ path: dir.socket, poison: true }, () => {});
  const client = await connect({ path: dir.socket, reconnect: { minDelayMs: 5, maxDelayMs: 20 } });
  assertEquals((await within(client.submit("a"), "the answer")).outcome, "accepted");
  await first.shutdown();
  await using second = serve({ path: dir.socket, poison: true }, () => {});
  assertEquals((await within(client.submit("b"), "the answer")).outcome, "accepted");
  assertEquals(second.stats().handled, 1);
  await within(client.end(), "the end");
});

for (
  const [what, options] of Object.entries({
    cert: { cert, key },
    proxyFrom: { proxyFrom: ["127.0.0.1"] },
    reusePort: { reusePort: true },
  })
) {
  Deno.test(`serve() throws TypeError when path and ${what} are on one listener`, () => {
    assertThrows(() => serve({ path: "/nowhere/framewire.sock", ...options }, () => {}), TypeError, what);
  });
}

Deno.test(
  { name: "serve({ maxConnectionsPerAddress }) does not hold peers of a Unix socket to it", ignore },
  async () => {
    await using dir = await directory();
    await using server = serve({ path: dir.socket, maxConnectionsPerAddress: 1 }, () => {});
    const clients = await Promise.all([1, 2, 3].map(() => connect({ path: dir.socket, reconnect: false })));
    for (const client of clients) {
      assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
    }
    await Promise.all(clients.map((client) => client.end()));
    assertEquals(server.stats().connectionsRefused, 0);
  },
);

// Several listeners.

Deno.test(
  { name: "serve({ listen }) serves everywhere with one stats(), and shutdown() closes all", ignore },
  async () => {
    await using dir = await directory();
    const events = new ServerEvents(), told: Deno.Addr[] = [];
    const server = serve(
      {
        listen: [{ port: 0 }, { path: dir.socket }, { port: 0, cert, key }],
        poison: true,
        onEvent: events.record,
        onListen: (addr) => told.push(addr),
      },
      () => {},
    );
    const [plain, unix, secure] = server.addrs as [Deno.NetAddr, Deno.UnixAddr, Deno.NetAddr];
    assertEquals(server.addrs.map(({ transport }) => transport), ["tcp", "unix", "tcp"]);
    assertEquals([unix.path, server.addr, told], [dir.socket, plain, [plain]]);
    const places = [
      { port: plain.port },
      { path: dir.socket },
      { hostname: "localhost", port: secure.port, caCerts: [ca] },
    ];
    const clients = await Promise.all(places.map((place) => connect({ ...place, reconnect: false })));
    for (const client of clients) {
      assertEquals((await within(client.submit("hello"), "the answer")).outcome, "accepted");
    }
    const { connectionsOpen, connectionsAccepted, handled, answered, bytesRead } = server.stats();
    assertEquals({ connectionsOpen, connectionsAccepted, handled, answered, bytesRead }, {
      connectionsOpen: 3,
      connectionsAccepted: 3,
      handled: 3,
      answered: 3,
      bytesRead: 3 * 18,
    });
    const numbers = events.items.flatMap((event) => event.type === "opened" ? [event.connection] : []);
    assertEquals(numbers.sort(), [1, 2, 3]);
    await within(server.shutdown(), "the end");
    assertEquals((await Promise.all(clients.map(({ closed }) => closed))).map(({ code }) => code), [
      "ended",
      "ended",
      "ended",
    ]);
    for (const place of places) {
      const error = await assertRejects(() => connect({ ...place, reconnect: false }), ConnectError);
      assertEquals(error.code, "refused");
    }
  },
);

Deno.test("serve({ listen }) holds all its listeners to one maxConnections", async () => {
  await using server = serve({ listen: [{ port: 0 }, { port: 0 }], maxConnections: 1 }, () => {});
  const [first, second] = server.addrs as [Deno.NetAddr, Deno.NetAddr];
  using peer = await RawPeer.connect(first.port);
  await peer.write(submitFrame(1));
  await peer.readAcks(1);
  using refused = await RawPeer.connect(second.port);
  assertEquals(await refused.readToEnd(), new Uint8Array(0));
  assertEquals(server.stats().limits.maxConnections, 1);
});

Deno.test(
  { name: "serve({ listen }) closes the others and throws when one cannot be opened", ignore },
  async () => {
    await using dir = await directory();
    const port = freePort();
    using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    assertThrows(
      () => serve({ listen: [{ port }, { path: dir.socket }, { port: taken.addr.port }] }, () => {}),
      Deno.errors.AddrInUse,
    );
    assertEquals(exists(dir.socket), false);
    await using server = serve({ listen: [{ port }, { path: dir.socket }] }, () => {});
    assertEquals(server.addr.port, port);
  },
);

Deno.test(
  { name: "serve({ listen }) closes the others and throws when one contradicts itself", ignore },
  async () => {
    await using dir = await directory();
    assertThrows(() => serve({ listen: [{ path: dir.socket }, { port: 0, cert }] }, () => {}), TypeError);
    assertEquals(exists(dir.socket), false);
  },
);

Deno.test("serve({ listen }) throws RangeError when it is empty", () => {
  assertThrows(() => serve({ listen: [] }, () => {}), RangeError, "listen");
});

// The programs.

Deno.test(
  { name: "server.ts and client.ts --unix meet at a path that the first line names", ignore },
  async () => {
    await using dir = await directory();
    await using server = new Program("server.ts", ["--unix", dir.socket, "--print"], ["-A"]);
    await server.says("\n");
    await using client = new Program("client.ts", ["--unix", dir.socket, "one", "two"], ["-A"]);
    assertEquals([await client.exit(), client.stdout], [0, "00000001 0\n00000002 0\n"]);
    await server.says('"two"');
    server.signal("SIGTERM");
    assertEquals(await server.exit(), 0);
    assertEquals(exists(dir.socket), false);
    assertEquals(server.stdoutLines[0], `listening on ${dir.socket}`);
  },
);

Deno.test({ name: "server.ts --unix says so in one line when the path is in use", ignore }, async () => {
  await using dir = await directory();
  using _listener = Deno.listen({ transport: "unix", path: dir.socket });
  await using server = new Program("server.ts", ["--unix", dir.socket], ["-A"]);
  assertEquals([await server.exit(), server.stdout], [1, ""]);
  assertMatch(server.stderr, /^server: cannot listen on \/[^\n]*framewire\.sock: [^\n]*in use[^\n]*\n$/);
  assertEquals(server.stderr.includes("--port"), false, server.stderr);
});

Deno.test({ name: "server.ts --unix names the permissions that it lacks", ignore }, async () => {
  await using dir = await directory();
  await using server = new Program("server.ts", ["--unix", dir.socket], ["-N"]);
  assertEquals([await server.exit(), server.stdout], [1, ""]);
  assertMatch(server.stderr, /^server: [^\n]*-R[^\n]*\n$/);
});

Deno.test(
  { name: "client.ts --unix says so in one line with status 2 when the path is missing", ignore },
  async () => {
    await using dir = await directory();
    await using client = new Program("client.ts", ["--unix", dir.socket, "one"], ["-A"]);
    assertEquals([await client.exit(), client.stdout], [2, ""]);
    assertMatch(
      client.stderr,
      /^client: cannot connect to \/[^\n]*framewire\.sock: nobody listens there[^\n]*\n$/,
    );
  },
);
