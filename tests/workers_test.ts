// `server.ts --workers`: many Workers that look like one server, and what becomes of it when one fails.

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { parseFlags } from "../cli/flags.ts";
import { usage } from "../cli/server.ts";
import { Workers } from "../cli/workers.ts";
import { connect } from "../mod.ts";
import { serve } from "./support/doors.ts";
import { acksIn, RawPeer, submitFrame } from "./support/peer.ts";
import { Program } from "./support/program.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

const server = new URL("../server.ts", import.meta.url).pathname;

/** Starts the server program with two Workers on a free port. */
async function started(...args: string[]): Promise<{ server: Program; port: number }> {
  const server = new Program("server.ts", ["--workers", "2", "--port", "0", ...args], ["-N", "-R"]);
  await server.says("\n");
  const port = Number(server.stdoutLines[0]!.match(/^listening on 127\.0\.0\.1:(\d+)$/)?.[1]);
  return { server, port };
}

/** Submits once on each of `count` connections at the same time. */
async function submitOnEach(port: number, count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, async (_, i) => {
    using peer = await RawPeer.connect(port);
    await peer.write(submitFrame(i + 1, `${i}`));
    await peer.readAcks(1);
    await peer.closeWrite();
    assertEquals((await peer.readToEnd()).length, 0);
  }));
}

interface Printed {
  readonly connection: number;
  readonly payload: string;
}

const printedBy = (server: Program) => server.stdoutLines.slice(1).map((line) => JSON.parse(line) as Printed);

Deno.test("server.ts --workers 2 says first where it listens, and both workers serve", async () => {
  const { server, port } = await started("--print");
  await using _ = server;
  await submitOnEach(port, 100);
  await until(() => server.stdoutLines.length === 101, "all is printed");
  const printed = printedBy(server);
  const payloads = printed.map(({ payload }) => Number(payload)).sort((a, b) => a - b);
  assertEquals(payloads, Array.from({ length: 100 }, (_, i) => i));
  const numbers = printed.map(({ connection }) => connection);
  assertEquals(new Set(numbers).size, 100, "connection numbers are unique");
  assertEquals(new Set(numbers.map((number) => number % 2)).size, 2, "both workers serve");
});

Deno.test("server.ts --workers logs each connection under the number that it prints", async () => {
  const { server, port } = await started("--print");
  await using _ = server;
  await submitOnEach(port, 10);
  await until(() => server.stdoutLines.length === 11, "all is printed");
  const closed = () =>
    [...server.stderr.matchAll(/^connection (\d+) closed, ended/gm)].map((match) => match[1]);
  await until(() => closed().length === 10, "all closes are logged");
  const numbers = printedBy(server).map(({ connection }) => String(connection));
  assertEquals(closed().sort(), numbers.sort());
});

Deno.test("server.ts --workers prints on SIGUSR2 one line of all workers' counts, added up", async () => {
  const { server, port } = await started("--quiet");
  await using _ = server;
  await submitOnEach(port, 60);
  using open = await RawPeer.connect(port);
  await open.write(submitFrame(1), submitFrame(2));
  await open.readAcks(2);
  // A close is counted when its worker comes to it.
  let stats: Record<string, number> & { limits: Record<string, number> } = { limits: {} } as never;
  for (let asked = 1; asked <= 200 && stats["connectionsOpen"] !== 1; asked++) {
    server.signal("SIGUSR2");
    const lines = () => server.stderr.split("\n").slice(0, -1);
    await until(() => lines().length === asked, "a line of counts");
    stats = JSON.parse(lines()[asked - 1]!);
  }
  const { connectionsOpen, connectionsAccepted, handled, answered, bytesRead, bytesWritten } = stats;
  assertEquals({ connectionsOpen, connectionsAccepted, handled, answered, bytesRead, bytesWritten }, {
    connectionsOpen: 1,
    connectionsAccepted: 61,
    handled: 62,
    answered: 62,
    bytesRead: 10 * 14 + 50 * 15 + 26,
    bytesWritten: 62 * 14,
  });
  assertEquals(stats.limits["maxInFlight"], 0);
});

Deno.test("server.ts --workers --quiet drains all workers on SIGTERM and says so in one line", async () => {
  const { server, port } = await started("--quiet");
  await using _ = server;
  const peers = await Promise.all(Array.from({ length: 20 }, () => RawPeer.connect(port)));
  try {
    await Promise.all(peers.map(async (peer) => {
      await peer.write(submitFrame(1));
      await peer.readAcks(1);
    }));
    server.signal("SIGTERM");
    await Promise.all(peers.map((peer) => peer.readToEnd()));
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
  assertEquals(await server.exit(), 0);
  assertEquals(server.stderr, "drained: 0 answered, 0 cut\n");
});

Deno.test("server.ts --workers prints all that it answered before it ends on SIGTERM", async () => {
  const { server, port } = await started("--print", "--quiet");
  await using _ = server;
  const count = 20_000, text = "x".repeat(50);
  const answered = await Promise.all([1, 2, 3, 4].map(async () => {
    using peer = await RawPeer.connect(port);
    const frames = Array.from({ length: count / 4 }, (_, i) => submitFrame(i + 1, text));
    const reading = peer.readToEnd();
    for (let at = 0; at < frames.length; at += 500) await peer.write(...frames.slice(at, at + 500));
    await peer.closeWrite();
    return acksIn(await reading).length;
  }));
  server.signal("SIGTERM");
  assertEquals(await server.exit(), 0);
  assertEquals(answered.reduce((sum, count) => sum + count, 0), count);
  assertEquals(server.stdoutLines.length - 1, count);
});

for (const workers of ["1", "2"]) {
  Deno.test(`server.ts --workers ${workers} prints all that it answered to a slow reader`, async () => {
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--frozen",
        "-N",
        "-R",
        server,
        "--workers",
        workers,
        "--port",
        "0",
        "--print",
        "--quiet",
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const reader = child.stdout.getReader();
    try {
      const first = await within(reader.read(), "its first line");
      let text = new TextDecoder().decode(first.value);
      using peer = await RawPeer.connect(Number(text.match(/:(\d+)\n/)![1]));
      // More than a pipe holds, and less than the program keeps pending before it makes its clients wait.
      const count = 6000, reading = peer.readToEnd();
      for (let i = 1; i <= count; i++) await peer.write(submitFrame(i, "x".repeat(50)));
      await peer.closeWrite();
      assertEquals(acksIn(await reading).length, count);
      child.kill("SIGTERM");
      await turn(200); // it has the time to end too early
      const rest = async () => {
        for (let chunk; !(chunk = await reader.read()).done;) text += new TextDecoder().decode(chunk.value);
      };
      await within(rest(), "the end of its output");
      assertEquals((await within(child.status, "its end")).code, 0);
      assertEquals(text.split("\n").length - 2, count);
    } finally {
      await reader.cancel();
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await child.status;
    }
  });
}

Deno.test("server.ts --workers cuts all workers at a second SIGTERM", async () => {
  const { server, port } = await started("--quiet", "--drain-timeout-ms", "60000");
  await using _ = server;
  const peers = await Promise.all(Array.from({ length: 20 }, () => RawPeer.connect(port)));
  try {
    for (const peer of peers) {
      await peer.write(submitFrame(1));
      await peer.readAcks(1);
    }
    server.signal("SIGTERM");
    await within(peers[0]!.readToEnd(), "the first half-close");
    server.signal("SIGTERM");
    assertEquals(await server.exit(10_000), 0);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});

Deno.test("server.ts --workers speaks the dialect and holds the limits that its flags name", async () => {
  const { server, port } = await started("--dialect", "legacy", "--max-frame-length", "20");
  await using _ = server;
  using peer = await RawPeer.connect(port);
  await peer.write(submitFrame(1, "1234567"));
  assertEquals((await peer.readAcks(1))[0]!.command, 0x81);
  await peer.write(submitFrame(2, "12345678"));
  assertEquals((await peer.readToEnd()).length, 0);
  await server.logs("protocol-error");
});

const refusals: [what: string, args: string[], permissions: string[], status: number, says: RegExp][] = [
  ["--workers is no number", ["--workers", "two"], ["-N", "-R"], 2, /--workers needs a whole number/],
  ["--workers is 0", ["--workers", "0"], ["-N", "-R"], 2, /--workers must be .* from 1 /],
  ["--workers is above what there may be", ["--workers", "257"], ["-N", "-R"], 2, /--workers must be .*256/],
  ["another flag is not known", ["--workers", "2", "--nope"], ["-N", "-R"], 2, /--nope is not known/],
  [
    "a limit is out of range",
    ["--workers", "2", "--idle-timeout-ms", "0"],
    ["-N", "-R"],
    2,
    /--idle-timeout-ms must be/,
  ],
  ["the port is out of range", ["--workers", "2", "--port", "65536"], ["-N", "-R"], 2, /--port must be/],
  ["--unix goes with it", ["--workers", "2", "--unix", "/nowhere/x"], ["-A"], 2, /--unix/],
  ["it may not read its module", ["--workers", "2"], ["-N"], 1, /-R/],
  ["it may not listen", ["--workers", "2"], ["-R"], 1, /-N/],
];

for (const [what, args, permissions, status, says] of refusals) {
  Deno.test(`server.ts says so in one line with status ${status} when ${what}`, async () => {
    await using server = new Program(
      "server.ts",
      ["--port", "0", ...args].slice(args.includes("--port") ? 2 : 0),
      permissions,
    );
    const code = await within(server.exit(), "its end", 5000);
    assertMatch(server.stderr, says);
    assertMatch(server.stderr, /^server: [^\n]*\n$/);
    assertEquals([code, server.stdout], [status, ""]);
  });
}

Deno.test("server.ts --workers says so in one line when the port is in use", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = String(listener.addr.port);
  await using server = new Program("server.ts", ["--workers", "2", "--port", port], ["-N", "-R"]);
  assertEquals([await server.exit(), server.stdout], [1, ""]);
  assertMatch(server.stderr, /^server: cannot listen on [^\n]*in use[^\n]*\n$/);
});

// Workers.start, with a module that can be made to fail.

/** Two Workers of tests/support/crashing_worker.ts, and what is logged meanwhile. */
async function crashing(...args: string[]) {
  const logged: string[] = [], writeSync = Deno.stderr.writeSync;
  // The log goes to stderr and nowhere else.
  Deno.stderr.writeSync = (bytes) => {
    logged.push(new TextDecoder().decode(bytes));
    return bytes.length;
  };
  const unlogged = () => void (Deno.stderr.writeSync = writeSync);
  try {
    const workers = await within(
      Workers.start(
        parseFlags(["--workers", "2", "--port", "0"], usage),
        args,
        () => {},
        () => null,
        new URL("./support/crashing_worker.ts", import.meta.url),
      ),
      "all workers listen",
    );
    const { port } = workers.addrs[0] as Deno.NetAddr;
    return {
      workers,
      port,
      logged,
      async [Symbol.asyncDispose]() {
        try {
          workers.shutdown();
          await within(workers.finished, "the workers' end", 5000);
        } finally {
          unlogged();
        }
      },
    };
  } catch (error) {
    unlogged();
    throw error;
  }
}

/** A connection to the worker with an index: the kernel chooses, so try until it does. */
async function peerOf(port: number, index: number): Promise<RawPeer> {
  for (let tries = 0; tries < 200; tries++) {
    const peer = await RawPeer.connect(port);
    await peer.write(submitFrame(1, "who"));
    if ((await peer.readAcks(1))[0]!.result === 100 + index) return peer;
    peer[Symbol.dispose]();
  }
  throw new Error(`no connection came to worker ${index}`);
}

Deno.test("Workers starts a crashed worker again, says so, and harms no sibling", async () => {
  await using running = await crashing();
  const { port, logged } = running;
  using sibling = await peerOf(port, 0);
  using victim = await peerOf(port, 1);
  await victim.write(submitFrame(2, "crash"));
  await victim.readToEnd().catch(() => {});
  await until(() => logged.includes("worker 2 restarted\n"), "the restart is logged");
  assertMatch(logged[0]!, /^worker 2 crashed: .*told to crash; starting another\n$/);
  assertEquals(logged.length, 2);
  await sibling.write(submitFrame(2, "hello"));
  assertEquals((await sibling.readAcks(1))[0]!.result, 0);
  using again = await peerOf(port, 1);
  await again.write(submitFrame(2, "hello"));
  assertEquals((await again.readAcks(1))[0]!.result, 0);
});

Deno.test("Workers serves new connections on what is left while a worker is down", async () => {
  await using running = await crashing();
  const { port, logged } = running;
  using victim = await peerOf(port, 1);
  await victim.write(submitFrame(2, "crash"));
  await victim.readToEnd().catch(() => {});
  await until(() => logged.length === 1, "the crash is logged");
  for (let i = 0; i < 20; i++) {
    using peer = await peerOf(port, 0);
    await peer.write(submitFrame(2));
    await peer.readAcks(1);
  }
});

Deno.test("Workers.stats() counts each worker once when one crashes meanwhile", async () => {
  await using running = await crashing();
  const { workers, port, logged } = running;
  using sibling = await peerOf(port, 0);
  using victim = await peerOf(port, 1);
  await sibling.write(...Array.from({ length: 10 }, (_, i) => submitFrame(i + 2)));
  await sibling.readAcks(10);
  const { handled } = await within(workers.stats(), "the counts");
  const ofSibling = (await (async () => {
    await victim.write(submitFrame(2, "crash"));
    await until(() => logged.length === 1, "the crash is logged");
    return await within(workers.stats(), "the counts without it");
  })()).handled;
  assertEquals(handled > ofSibling, true);
  await until(() => logged.length === 2, "the restart is logged");
  using next = await peerOf(port, 1);
  const before = (await within(workers.stats(), "the counts")).handled;
  // Asked together with the crash, so that one of the answers never comes.
  await next.write(submitFrame(2, "crash"));
  const asked: number[] = [];
  while (logged.length < 3) asked.push((await within(workers.stats(), "the counts")).handled);
  const most = Math.max(...asked);
  assertEquals(most <= before + 1, true, `${most} handled were counted, and there were ${before + 1}`);
});

Deno.test("Workers.stats() resolves while all workers are down", async () => {
  await using running = await crashing();
  const { workers, port, logged } = running;
  for (const index of [0, 1]) {
    using victim = await peerOf(port, index);
    await victim.write(submitFrame(2, "crash"));
    await until(() => logged.length === index + 1, "the crash is logged");
  }
  assertEquals((await within(workers.stats(), "the counts")).connectionsOpen, 0);
});

Deno.test("Workers.shutdown() ends while a worker is down", async () => {
  const running = await crashing();
  await using _ = running;
  using victim = await peerOf(running.port, 1);
  await victim.write(submitFrame(2, "crash"));
  await until(() => running.logged.length === 1, "the crash is logged");
  running.workers.shutdown();
  await within(running.workers.finished, "the end", 5000);
});

Deno.test("Workers says so, and still ends, when a worker that crashed fails to start again", async () => {
  const directory = await Deno.makeTempDir(), file = `${directory}/no-restart`;
  try {
    await using running = await crashing("--no-restart", file);
    const { port, logged } = running;
    await Deno.writeTextFile(file, "");
    using victim = await peerOf(port, 1);
    await victim.write(submitFrame(2, "crash"));
    await until(
      () => logged.some((line) => line.includes("it fails to start")),
      "the failure is logged",
      3000,
    );
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

// One port, several servers.

Deno.test("serve({ reusePort: true }) shares a port with another server of the same process", async () => {
  await using first = serve({ port: 0, reusePort: true, poison: true }, () => {});
  const { port } = first.addr;
  await using second = serve({ port, reusePort: true, poison: true }, () => {});
  assertEquals(second.addr.port, port);
  for (let tries = 0; tries < 200 && (first.stats().handled === 0 || second.stats().handled === 0); tries++) {
    await using client = await connect({ port, reconnect: false });
    assertEquals((await within(client.submit(""), "the answer")).outcome, "accepted");
  }
  assertEquals([first.stats().handled > 0, second.stats().handled > 0], [true, true]);
  assertThrows(() => serve({ port }, () => {}), Deno.errors.AddrInUse);
});

Deno.test("serve({ reusePort: true }) throws TypeError without unstable net, server.ts says so", async () => {
  const root = new URL("../", import.meta.url), directory = await Deno.makeTempDir();
  try {
    // The package as it is, but for the one setting.
    const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
    delete config.unstable;
    config.imports["@framewire/framewire"] = new URL("mod.ts", root).href;
    config.links = config.links.map((link: string) => new URL(link, root).pathname);
    await Deno.writeTextFile(`${directory}/deno.json`, JSON.stringify(config));
    await Deno.writeTextFile(
      `${directory}/script.ts`,
      `import { serve } from "@framewire/framewire";
      try {
        serve({ port: 0, reusePort: true }, () => {});
      } catch (error) {
        console.log(error.name, error.message);
      }`,
    );
    const run = async (...args: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-prompt", "--no-lock", "--config", `${directory}/deno.json`, ...args],
        env: { NO_COLOR: "1" },
        stdin: "null",
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      return { code, stdout: text(stdout), stderr: text(stderr) };
    };
    const script = await within(run("-N", `${directory}/script.ts`), "the script's end");
    assertMatch(script.stdout, /^TypeError reusePort needs --unstable-net/, script.stderr);
    assertEquals(script.code, 0);
    const server = new URL("server.ts", root).pathname;
    const program = await within(
      run("-N", "-R", server, "--workers", "2", "--port", "0"),
      "the program's end",
    );
    assertEquals([program.code, program.stdout], [1, ""]);
    // Deno itself has a word to say about "links" before.
    assertMatch(program.stderr, /^server: --workers needs --unstable-net[^\n]*\n$/m);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
