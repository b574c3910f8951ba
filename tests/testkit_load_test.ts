// The load generator: does it account for every request, of good servers and of bad ones?

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { serve } from "../mod.ts";
import { load, type LoadOptions, type LoadResult, startSoundServer, TargetError } from "../testkit/mod.ts";
import { compared, parseThresholds, thresholdsMet } from "../testkit/load/judge.ts";
import { htmlReport, jsonReport, textReport } from "../testkit/load/report.ts";
import { runExamples } from "./support/examples.ts";
import { Program, serverProgram } from "./support/program.ts";
import { until } from "./support/wait.ts";

const quick: Partial<LoadOptions> = { connections: 3, window: 8, payload: 5, requests: 500 };

function targetOf(server: { addr: Deno.NetAddr } | { port: number }): string {
  return `127.0.0.1:${"addr" in server ? server.addr.port : server.port}`;
}

/** Answers the requests of 18 bytes on a socket, each with as many acks as `times` says. */
async function answer(socket: Deno.Conn, times: () => number): Promise<void> {
  const buffer = new Uint8Array(65_536);
  try {
    for (let end = 0, count; (count = await socket.read(buffer.subarray(end))) !== null;) {
      end += count;
      const acks: number[] = [];
      let at = 0;
      for (; end - at >= 18; at += 18) {
        for (let left = times(); left > 0; left--) {
          acks.push(0, 0, 0, 14, 0x82, ...buffer.subarray(at + 5, at + 13), 0);
        }
      }
      buffer.copyWithin(0, at, end);
      end -= at;
      for (let out = 0; out < acks.length;) out += await socket.write(new Uint8Array(acks.slice(out)));
    }
  } catch {
    // The load has closed it.
  } finally {
    socket[Symbol.dispose]();
  }
}

/** Runs a load against a server that answers as `times` says. */
async function loadOf(
  times: (request: number) => number,
  options: Partial<LoadOptions>,
): Promise<LoadResult> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), conversations: Promise<void>[] = [];
  let requests = 0;
  const accepting = (async () => {
    for await (const socket of listener) conversations.push(answer(socket, () => times(++requests)));
  })();
  try {
    return await load({ target: `127.0.0.1:${listener.addr.port}`, payload: 5, ...options });
  } finally {
    listener.close();
    await accepting;
    await Promise.all(conversations);
  }
}

for (const dialect of ["spec", "legacy"] as const) {
  Deno.test(`load() finds every request answered once by serve() in dialect ${dialect}`, async () => {
    await using server = serve({ port: 0, dialect }, () => {});
    const result = await load({ target: targetOf(server), dialect, ...quick });
    const { sent, answered, lost, duplicated, late, unknown, refused } = result;
    assertEquals([sent, answered, lost, duplicated, late, unknown, refused], [500, 500, 0, 0, 0, 0, 0]);
    assertEquals(Object.values(result.errors).every((count) => count === 0), true);
    assertEquals(server.stats().handled, 500);
  });
}

Deno.test("load() sends at its rate, and keeps both views, when it has one", async () => {
  await using server = serve({ port: 0 }, () => {});
  const result = await load({ target: targetOf(server), ...quick, rate: 1000, durationMs: 60_000 });
  assertEquals([result.answered, result.unsent], [500, 0]);
  // 500 requests at 1000 a second cannot be through before the last of them is due.
  assert(result.elapsedMs >= 499, `${result.elapsedMs} ms`);
  assert(result.uncorrectedLatencyMs !== null);
  assert(result.latencyMs.mean >= result.uncorrectedLatencyMs.mean);
});

Deno.test("load() counts latency from the intended time when the server stands still at a constant rate", async () => {
  let open = Promise.resolve();
  await using server = serve({ port: 0, handlerTimeoutMs: 60_000 }, () => open);
  const gate = Promise.withResolvers<void>();
  open = gate.promise;
  setTimeout(() => gate.resolve(), 300);
  const result = await load({
    target: targetOf(server),
    connections: 1,
    window: 1,
    rate: 1000,
    requests: 200,
    durationMs: 60_000,
  });
  // Only the first waited for the server; the others waited to be sent, which the uncorrected view does not show.
  assertEquals(result.answered, 200);
  assert(result.latencyMs.p50 > 50, `p50 ${result.latencyMs.p50}`);
  assert(result.uncorrectedLatencyMs!.p50 < result.latencyMs.p50);
});

Deno.test("load() counts what is refused when the handler refuses", async () => {
  let calls = 0;
  await using server = serve({ port: 0 }, () => ++calls % 5 === 0 ? 3 : 0);
  const { answered, refused } = await load({ target: targetOf(server), ...quick });
  assertEquals([answered, refused], [500, 100]);
});

Deno.test("load() counts a request as lost when it is never answered", async () => {
  const { answered, lost, errors } = await loadOf((request) => request === 7 ? 0 : 1, {
    connections: 1,
    window: 4,
    requests: 100,
    timeoutMs: 100,
  });
  assertEquals([answered, lost, errors.timeout], [99, 1, 1]);
});

Deno.test("load() counts an answer as duplicated when it comes twice", async () => {
  const { answered, duplicated, lost } = await loadOf((request) => request === 7 ? 2 : 1, {
    connections: 1,
    window: 4,
    requests: 100,
  });
  assertEquals([answered, duplicated, lost], [100, 1, 0]);
});

Deno.test("load() counts a protocol error when the server speaks the other dialect", async () => {
  await using server = await startSoundServer({ dialect: "legacy" });
  const { answered, errors, messages, lost } = await load({
    target: targetOf(server),
    connections: 1,
    durationMs: 100,
    window: 2,
  });
  assertEquals(answered, 0);
  assert(errors.protocol > 0 && lost > 0);
  assertMatch(messages.protocol!, /no answer: 00 00 00 0e 81/);
});

Deno.test("load() goes on with new connections when the server closes them", async () => {
  const closing = { count: 0 };
  await using server = serve({ port: 0 }, (_, peer) => void (++closing.count === 50 && peer.close()));
  const target = targetOf(server);
  const { answered, lost, errors } = await load({ target, connections: 1, window: 1, requests: 200 });
  // One may be on its way as the server ends.
  assertEquals([answered + lost, errors.ended], [200, 1]);
  assert(lost <= 1, `${lost} lost`);
});

Deno.test("load() gives the results so far when it is aborted", async () => {
  await using server = serve({ port: 0 }, () => {});
  const stop = new AbortController();
  const running = load({ target: targetOf(server), connections: 2, durationMs: 60_000, signal: stop.signal });
  await until(() => server.stats().handled > 100, "it runs");
  stop.abort();
  const result = await running;
  assertEquals(result.interrupted, true);
  assert(result.answered > 100 && result.lost === 0);
});

Deno.test("load() holds 500 connections open when it is asked for them", async () => {
  await using server = serve({ port: 0 }, () => {});
  const result = await load({ target: targetOf(server), connections: 500, window: 1, requests: 5000 });
  assertEquals([result.answered, result.lost, server.stats().connectionsAccepted], [5000, 0, 500]);
});

Deno.test("load() rejects with one clear error when there is no server", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
  listener.close();
  const error = await assertRejects(() => load({ target: `127.0.0.1:${port}` }), TargetError);
  assertMatch(error.message, new RegExp(`^Cannot connect to 127\\.0\\.0\\.1:${port}: `));
});

for (
  const [options, message] of [
    [{ target: "nowhere" }, /target must be HOST:PORT/],
    [{ connections: 0 }, /connections must be a number from 1/],
    [{ window: 1.5 }, /window must be/],
    [{ rate: -1 }, /rate must be/],
    [{ dialect: "morse" as "spec" }, /dialect must be/],
  ] as const
) {
  Deno.test(`load() refuses ${JSON.stringify(options)}`, async () => {
    await assertRejects(() => load({ target: "127.0.0.1:1", ...options }), RangeError, undefined, undefined)
      .then(({ message: said }) => assertMatch(said, message));
  });
}

/** A result as good as any, with what a test wants different. */
async function sampleResult(): Promise<LoadResult> {
  await using server = serve({ port: 0 }, () => {});
  return await load({ target: targetOf(server), ...quick });
}

Deno.test("thresholds are met by the figures beyond them, and by no other", async () => {
  const result = { ...await sampleResult(), requestsPerSecond: 900, lost: 2 };
  const met = (list: string) => thresholdsMet(parseThresholds(list), result).length;
  assertEquals(
    ["rps<1000", "rps<900", "lost>1", "lost>2", "errors>0", "p99>0us", "max>60s"].map(met),
    [1, 0, 1, 0, 0, 1, 0],
  );
  for (const wrong of ["p99>5", "rps<5ms", "speed>1", "p99=5ms", "p99"]) {
    let message = "";
    try {
      parseThresholds(wrong);
    } catch (error) {
      message = (error as Error).message;
    }
    assertMatch(message, /--fail-if cannot read/);
  }
});

Deno.test("compared() tells a slower run from noise, and refuses another load", async () => {
  const before = await sampleResult();
  const steady = Array.from({ length: 5 }, (_, i) => ({
    ...before.perSecond[0]!,
    durationMs: 1000,
    requests: 1000 + i,
    p50Ms: 1,
    p99Ms: 2,
  }));
  const old = { ...before, requestsPerSecond: 1000, perSecond: steady };
  const now = (requestsPerSecond: number) => compared(old, { ...old, requestsPerSecond }).regressions.length;
  assertEquals([now(1000), now(960), now(900), now(2000)], [0, 0, 1, 0]);
  const wild = {
    ...old,
    perSecond: steady.map((second, i) => ({ ...second, requests: i % 2 ? 500 : 1500 })),
  };
  assertEquals(compared(wild, { ...wild, requestsPerSecond: 700 }).regressions, []);
  let refused = "";
  try {
    compared(old, { ...old, config: { ...old.config, window: 9 } });
  } catch (error) {
    refused = (error as Error).message;
  }
  assertMatch(refused, /window was 8 and is 9/);
});

Deno.test("the reports say what was measured", async () => {
  const result = await sampleResult();
  const json = JSON.parse(jsonReport(result));
  assertEquals([json.answered, json.lost, json.duplicated, json.config.window], [500, 0, 0, 8]);
  assert(
    json.requestsPerSecond > 0 && json.latencyMs["p99.99"] >= json.latencyMs.p50 && json.perSecond.length > 0,
  );
  assertMatch(
    textReport(result),
    /^127\.0\.0\.1:\d+, 3 connections.*\nrequests .*\n.*\nlatency .*\nids +sent 500 /,
  );
  const html = htmlReport({ ...result, messages: { read: "<b>reset</b>" } });
  assertEquals(html.match(/<svg /g)?.length, 3);
  assert(!html.includes("<b>reset"));
  assertEquals(/https?:|<script|<link/.test(html), false);
});

/** Runs the program to its end. */
async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  await using program = new Program("testkit/load.ts", args, ["-A"]);
  await program.endInput();
  const code = await program.exit();
  return { code, stdout: program.stdout, stderr: program.stderr };
}

Deno.test("load.ts --help ends with three examples that get answers", async () => {
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  for (const { line, code, stdout, stderr } of await runExamples("testkit/load.ts", port)) {
    assertEquals([code, stderr], [0, ""], `${line}: ${stdout}`);
    assertMatch(stdout, /lost"?:? 0/);
  }
});

Deno.test("load.ts exits with 2 and one line when there is nothing to drive, or a flag is wrong", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
  listener.close();
  for (
    const [args, message] of [
      [["--target", `127.0.0.1:${port}`], /^load: Cannot connect to .*\n$/],
      [[], /^load: --target HOST:PORT is missing.*\n$/],
      [["--target", "127.0.0.1:1", "--rate", "fast"], /^load: --rate needs a number, and got fast.*\n$/],
      [["--target", "127.0.0.1:1", "--report", "x.pdf"], /^load: --report must end with .*\n$/],
      [["--target", "127.0.0.1:1", "--fail-if", "x"], /^load: --fail-if cannot read .*\n$/],
      [["--target", "127.0.0.1:1", "--connections", "0"], /^load: --connections must be .*\n$/],
    ] as const
  ) {
    const { code, stdout, stderr } = await run(...args);
    assertEquals([code, stdout], [2, ""], stderr);
    assertMatch(stderr, message);
  }
});

Deno.test("load.ts exits with 1 when a threshold is met, and prints the results so far at SIGINT", async () => {
  await using server = serve({ port: 0 }, () => {});
  const target = targetOf(server);
  const failed = await run("--target", target, "--requests", "100", "--fail-if", "answered>99");
  assertEquals(failed.code, 1);
  assertMatch(failed.stdout, /\nFAILED {2}answered>99: it is 100\n$/);
  await using program = new Program("testkit/load.ts", ["--target", target, "--duration", "600"], ["-A"]);
  await until(() => server.stats().handled > 1000, "it runs");
  program.signal("SIGINT");
  assertEquals(await program.exit(), 0);
  assertMatch(program.stdout, /, interrupted\n/);
  assertEquals(program.stderr, ""); // no progress in a pipe
});
