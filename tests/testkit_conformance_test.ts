// Is the conformance suite right, and does its program say what it found? That it bites is testkit_mutants_test.ts's.

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { clientCases } from "../testkit/conformance/client_cases.ts";
import { runClientConformance } from "../testkit/conformance/client_runner.ts";
import { htmlReport } from "../testkit/conformance/report_html.ts";
import { endLines, jsonReport, junitReport, type RunReport } from "../testkit/conformance/report.ts";
import { type CaseResult, isBad } from "../testkit/conformance/result.ts";
import { runConformance } from "../testkit/conformance/runner.ts";
import { selected, serverCases } from "../testkit/conformance/suite.ts";
import { wordsOf } from "../testkit/conformance/target.ts";
import { startSoundServer } from "../testkit/mutants.ts";
import { launchOurs, launchSound } from "./support/conformance.ts";
import { serve } from "./support/doors.ts";
import { Program } from "./support/program.ts";
import { within } from "./support/wait.ts";

const root = new URL("../", import.meta.url);

/** What went wrong, shortly. */
function bad(results: readonly CaseResult[]): string[] {
  return results.filter(isBad).map(({ id, behaviour, closed, reason }) =>
    `${id}: ${reason ?? behaviour?.came} ${closed?.came}`
  );
}

/** The cases that could not be judged. */
function skipped(results: readonly CaseResult[]): string[] {
  return results.filter(({ status }) => status === "skipped").map(({ id }) => id);
}

/** Runs the program and returns what came of it. */
async function conformance(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  await using program = new Program("testkit/conformance.ts", args, ["-A"]);
  const code = await program.exit(60_000);
  return { code, stdout: program.stdout, stderr: program.stderr };
}

Deno.test("every conformance case proves a sentence of docs/protocol.md in the section that its id names", async () => {
  const doc = (await Deno.readTextFile(new URL("docs/protocol.md", root))).replaceAll(/\s+/g, " ");
  for (const cases of [serverCases, clientCases]) {
    const ids = cases.map(({ id }) => id);
    assertEquals(new Set(ids).size, ids.length, "an id stands twice");
    for (const { id, requirement, accepted, closing } of cases) {
      assertMatch(id, /^\d\.\d\/\d+$/);
      assertStringIncludes(doc, `${id.split("/")[0]}. `);
      assertStringIncludes(doc, requirement);
      assert(accepted.length > 0 && closing.length > 0);
    }
  }
  assert(serverCases.length >= 60);
  assert(clientCases.length >= 12);
});

Deno.test("no MUST of the conformance suite demands that an idle connection is kept", () => {
  const idle = serverCases.find(({ id }) => id === "4.3/8")!;
  assert(idle.closing.includes("fin"));
  for (const { id, level, group, closing } of serverCases) {
    // Where the target is to go on, it may also end in order; only what it owes answers on, it may not.
    if (level === "MUST" && closing.includes("open") && group !== "backpressure") {
      assert(closing.includes("fin"), id);
    }
  }
});

// One suite at a time: each has servers, clients and megabytes under way in this one process, and its time limits are
// those of a target that has a machine to itself.
for (const dialect of ["spec", "legacy"] as const) {
  Deno.test(`serve() passes the whole suite, SHOULD included, in dialect ${dialect}`, async () => {
    await using server = serve({ port: 0, dialect }, () => {});
    const options = { port: server.addr.port, dialect, strict: true, jobs: 24 };
    const results = await runConformance({ ...options, launch: launchOurs({ dialect }) });
    // Memory is seen from outside a process: the examples of --help run the suite on such a one.
    assertEquals([bad(results), skipped(results)], [[], ["2.4/1", "9.5/1"]]);
  });

  Deno.test(`a sound server passes the whole suite, SHOULD included, in dialect ${dialect}`, async () => {
    await using server = startSoundServer({ dialect });
    const options = { port: server.port, dialect, strict: true, jobs: 24, memory: () => server.heldBytes };
    const results = await runConformance({ ...options, launch: launchSound({ dialect }) });
    assertEquals([bad(results), skipped(results)], [[], ["9.5/1"]]);
  });
}

Deno.test("serve() passes the suite when it demands a session", async () => {
  const token = new TextEncoder().encode("open");
  await using server = serve({
    port: 0,
    authenticate: ({ payload }) => payload.length === token.length ? payload : 7,
  }, () => {});
  const results = await runConformance({
    port: server.addr.port,
    select: "packets,malformed,pipelining,concurrency",
    strict: true,
    conn: "open",
    refusedConn: "refused",
  });
  assertEquals([bad(results), skipped(results)], [[], []]);
});

for (
  const [does, accept] of [
    ["accepts and then hangs", (_: Deno.Conn) => {}],
    ["closes each connection at once", (socket: Deno.Conn) => socket.close()],
  ] as const
) {
  Deno.test(`runConformance() judges all cases within its limits when the target ${does}`, async () => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const sockets: Deno.Conn[] = [];
    let over = false;
    const accepting = (async () => {
      while (!over) {
        const socket = await listener.accept().catch(() => null);
        if (socket === null) continue;
        sockets.push(socket);
        accept(socket);
      }
    })();
    const results = await within(
      runConformance({ port: listener.addr.port, strict: true, timeoutMs: 40, jobs: 32 }),
      "the end of the run",
      30_000,
    );
    assertEquals(results.length, serverCases.length);
    assert(bad(results).length > 100, `only ${bad(results).length} cases failed`);
    over = true;
    listener.close();
    await accepting;
    for (const socket of sockets) socket[Symbol.dispose]();
  });
}

Deno.test("selected() takes ids, sections and groups, with wildcards, and SHOULDs only where it is strict", () => {
  const ids = (select: string, strict = false) =>
    selected(serverCases, { select, strict }).map(({ id }) => id);
  assertEquals(ids("2.2/3"), ["2.2/3"]);
  assertEquals(ids("2.2"), ["2.2/1", "2.2/2", "2.2/3", "2.2/4"]);
  assertEquals(ids("1.1/1").length, 1);
  assertEquals(new Set(ids("3.*").map((id) => id[0])), new Set(["3"]));
  assertEquals(ids("half-*,9.4/1").at(-1), "9.4/1");
  assertEquals(ids("9.2"), ["9.2/1"]);
  assertEquals(ids("9.2", true), ["9.2/1", "9.2/2"]);
  assertThrows(() => ids("2.4"), RangeError, "which are all SHOULD: add --strict");
  assertThrows(() => ids("nothing"), RangeError, "of which there are none");
});

Deno.test("runConformance() says which option is out of range", async () => {
  const range = { maxFrameLength: 100, timeoutMs: 0, jobs: 0 };
  for (const [name, value] of Object.entries(range)) {
    await assertRejects(
      () => runConformance({ port: 1, [name]: value }),
      RangeError,
      `${name} must be an integer from`,
    );
  }
});

Deno.test("wordsOf() splits a command as a shell does when there are quotes", () => {
  assertEquals(wordsOf(`run 'a b' --x="c d" e`), ["run", "a b", "--x=c d", "e"]);
  assertThrows(() => wordsOf("run 'a"), RangeError, "not closed");
  assertThrows(() => wordsOf(" "), RangeError, "is empty");
});

/** A run against a mutant and the sound server, in which one case fails, and one is skipped. */
async function runWithFailure(): Promise<RunReport> {
  await using mutant = startSoundServer({ mutation: "handled-after-error" });
  await using sound = startSoundServer();
  const targets = await Promise.all([mutant, sound].map(async ({ port }, index) => ({
    target: index === 0 ? "a <mutant>" : "sound",
    results: await runConformance({ port, select: "8.4/1,9.4/1,9.5/1", timeoutMs: 300 }),
  })));
  return {
    side: "server",
    dialect: "spec",
    maxFrameLength: 1_048_576,
    strict: false,
    startedAt: "2026-01-02T03:04:05.000Z",
    durationMs: 300,
    targets,
  };
}

Deno.test("the reports show the requirement, what was accepted, what came and the wire when a case failed", async () => {
  const report = await runWithFailure(), failing = report.targets[0]!.results[0]!;
  assertEquals([failing.id, failing.status, failing.behaviour?.ok, failing.closed?.ok], [
    "8.4/1",
    "failed",
    false,
    false,
  ]);

  const text = endLines(report).join("\n");
  for (
    const part of [
      "requirement  A server MUST handle and answer the requests that came before it",
      "accepted     nothing is answered",
      "came         14 bytes more came: 0000000e823030303030303032",
      "closing      left open; accepted: ended with a FIN",
      "00000000 |00 00 00 0d 55 30 30 30 30 30 30 30 31|00 00 00  ....U00000001...  2 × 13 B",
      "skipped 9.5/1: ",
    ]
  ) assertStringIncludes(text, part);
  assertMatch(text, /\+\d+\.\d ms {2}target → 14 B/);
  assertStringIncludes(text, "3 cases: 1 passed, 1 failed, 1 skipped");
  assertEquals(text.split("\n").at(-1), "3 cases: 2 passed, 0 failed, 1 skipped");

  const json = JSON.parse(jsonReport(report));
  assertEquals(json.targets[0].counts, { passed: 1, failed: 1, errors: 0, skipped: 1 });
  assertEquals(json.targets[0].results[0].wires[0][0].by, "us");
  assertEquals(json.targets[0].results[0].wires[0][0].hex.slice(0, 10), "0000000d55");

  const junit = junitReport(report);
  assertStringIncludes(
    junit,
    '<testsuite name="a &#60;mutant&#62;" tests="3" failures="1" errors="0" skipped="1"',
  );
  assertMatch(
    junit,
    /<testcase name="8\.4\/1 [^"]+" classname="conformance\.server\.malformed" time="\d+\.\d{3}"><failure type="MUST" message="14 bytes/,
  );
  assertMatch(junit, /<testcase name="9\.5\/1 [^"]+" [^>]+><skipped message="which CONN/);

  const html = htmlReport(report);
  for (
    const part of ["a &#60;mutant&#62;", 'href="#t1-8-4-1"', 'id="t1-8-4-1"', "left open", "|00 00 00 0d 55"]
  ) {
    assertStringIncludes(html, part);
  }
  assertEquals(html.match(/<(?:script|link|img)/), null, "something is to be loaded");
});

Deno.test("a case is an error, in all reports, when the target accepts no connection any more", async () => {
  const server = startSoundServer(), { port } = server;
  await server[Symbol.asyncDispose]();
  const results = await runConformance({ port, select: "3.2/5" });
  assertEquals(results.map(({ status }) => status), ["error"]);
  const report: RunReport = {
    side: "server",
    dialect: "spec",
    maxFrameLength: 1_048_576,
    strict: false,
    startedAt: "2026-01-02T03:04:05.000Z",
    durationMs: 1,
    targets: [{ target: "gone", results }],
  };
  assertMatch(junitReport(report), /<error type="MUST" message="connect ECONNREFUSED/);
  assertEquals(endLines(report).at(-1), "1 cases: 0 passed, 1 failed, 0 skipped");
});

Deno.test("conformance.ts ends with status 1, and writes a report, when a case failed", async () => {
  await using server = startSoundServer({ mutation: "second-conn-accepted" });
  const report = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const { code, stdout } = await conformance(
      "--target",
      `127.0.0.1:${server.port}`,
      "--select",
      "9.4",
      "--report",
      report,
    );
    assertEquals(code, 1);
    assertEquals(stdout.trimEnd().split("\n").at(-1), "2 cases: 0 passed, 2 failed, 0 skipped");
    assertEquals(JSON.parse(await Deno.readTextFile(report)).targets[0].counts.failed, 2);
  } finally {
    await Deno.remove(report);
  }
});

for (
  const [args, says] of [
    [["--target", "127.0.0.1:1"], "cannot connect to 127.0.0.1:1: "],
    [["--target", "nowhere"], "--target needs HOST:PORT, and got nowhere"],
    [["--target", "1", "--server", "x {port}"], "--target and --server exclude each other"],
    [["--server", "deno"], "--server needs {port}"],
    [["--server", "no-such-program {port}"], "no-such-program"],
    [["--server", "false {port}"], "the server ended with 1"],
    [[], "give a --target, a --server or a --client"],
    [["--list", "--select", "0.*"], "--select names cases 0.*, of which there are none"],
    [["--target", "1", "--report", "x.pdf"], "--report needs a name that ends in .html, .json or .xml"],
  ] as const
) {
  Deno.test(`conformance.ts ${args.join(" ")} ends with status 2 and one line`, async () => {
    const { code, stderr } = await conformance(...args);
    assertEquals(code, 2);
    assertMatch(stderr, /^conformance: [^\n]+\n$/);
    assertStringIncludes(stderr, says);
  });
}

Deno.test("client.ts passes the cases for clients, with a session and without, in both dialects", async () => {
  const command = `'${Deno.execPath()}' run -N ${
    new URL("client.ts", root).pathname
  } --hostname {host} --port {port}`;
  const [plain, named] = await Promise.all([
    runClientConformance({ command, timeoutMs: 20_000, jobs: 2 }),
    runClientConformance({
      command: `${command} --name kit --dialect legacy`,
      dialect: "legacy",
      timeoutMs: 20_000,
      jobs: 2,
    }),
  ]);
  assertEquals([bad(plain), skipped(plain)], [[], ["9.2/1", "9.5/1"]]);
  assertEquals([bad(named), skipped(named)], [[], []]);
});

Deno.test("the cases for clients fail a client that counts from 0 and takes the order and the length for granted", async () => {
  const program = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(
    program,
    `const socket = await Deno.connect({ hostname: Deno.args[0], port: Number(Deno.args[1]) });
    const submit = (id: number) => [0, 0, 0, 13, 2, 48, 48, 48, 48, 48, 48, 48, 48 + id];
    await socket.write(new Uint8Array([0, 1, 2].flatMap(submit)));
    const buffer = new Uint8Array(42);
    let length = 0;
    for (let id = 0; id < 3; id++) {
      while (length < 14 * (id + 1)) length += await socket.read(buffer.subarray(length)) ?? Deno.exit(1);
      if (buffer[14 * id + 12] !== 48 + id) break;
    }
    socket.close();`,
  );
  try {
    const command = `'${Deno.execPath()}' run -N ${program} {host} {port}`;
    const run = (select: string, timeoutMs: number) => runClientConformance({ command, select, timeoutMs });
    assertEquals(bad(await run("1.1,2.1/1,3.1/1", 20_000)), []);
    assertEquals(bad(await run("2.2/1,3.3/1,4.4/1", 1500)).map((text) => text.split(":")[0]), [
      "2.2/1",
      "3.3/1",
      "4.4/1",
    ]);
  } finally {
    await Deno.remove(program);
  }
});

Deno.test("conformance.ts --help ends with three examples that judge a server, a running one and a client", async () => {
  const { stdout } = await conformance("--help");
  const lines = stdout.split("Examples:\n")[1]!.split("\n").map((line) => line.trim())
    .filter((line) => line.startsWith("deno run "));
  assertEquals(lines.length, 3);
  const folder = await Deno.makeTempDir();
  try {
    await using server = serve({ port: 0 }, () => {});
    await Promise.all(lines.map(async (line) => {
      const command = line
        .replaceAll(/\bdeno run/g, `${Deno.execPath()} run`)
        .replace(":8888", `:${server.addr.port}`)
        .replace("conformance.html", `${folder}/conformance.html`);
      const { code, stdout, stderr } = await new Deno.Command("bash", {
        args: ["-c", `exec ${command}`],
        cwd: root,
        env: { NO_COLOR: "1" },
      }).output();
      const text = new TextDecoder().decode(stdout);
      assertEquals([code, new TextDecoder().decode(stderr)], [0, ""], text);
      assertMatch(text, /\n\d+ cases: \d+ passed, 0 failed, \d+ skipped\n$/);
    }));
    assertStringIncludes(await Deno.readTextFile(`${folder}/conformance.html`), "</html>");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
