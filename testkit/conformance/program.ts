// The conformance suite as a program: from flags to a run, its reports and its exit status.

import { type Given, type Usage, UsageError } from "../../cli/flags.ts";
import { Output, ProgramError, runProgram } from "../../cli/program.ts";
import type { Dialect } from "../../codec/mod.ts";
import { Wire } from "../wire.ts";
import type { CaseText } from "./case.ts";
import { clientCases } from "./client_cases.ts";
import { runClientConformance } from "./client_runner.ts";
import {
  endLines,
  jsonReport,
  junitReport,
  resultLine,
  type RunReport,
  type TargetReport,
} from "./report.ts";
import { htmlReport } from "./report_html.ts";
import { type CaseResult, isBad } from "./result.ts";
import { type ConformanceOptions, runConformance } from "./runner.ts";
import { selected, serverCases } from "./suite.ts";
import { startServer } from "./target.ts";

const usage: Usage = {
  name: "deno run -A testkit/conformance.ts",
  summary: "Judges a server, or a client, by docs/protocol.md, the submit protocol.",
  flags: {
    target: { kind: "text", value: "HOST:PORT", help: "servers that run, more of them split by commas" },
    server: {
      kind: "text",
      value: "COMMAND",
      help: "a server to start, with {port} in its command; drain and memory are judged too",
    },
    client: {
      kind: "text",
      value: "COMMAND",
      help: "a client to run once for each case, with {host} and {port} in its command",
    },
    stdin: { kind: "text", value: "TEXT", help: "what to feed to the client; \\n ends a line (five lines)" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    "max-frame-length": {
      kind: "integer",
      value: "BYTES",
      help: "the longest frame that is accepted (1048576)",
    },
    conn: { kind: "text", value: "TEXT", help: "what a CONN carries that the server accepts (conformance)" },
    "refused-conn": { kind: "text", value: "TEXT", help: "what a CONN carries that the server refuses" },
    select: { kind: "text", value: "LIST", help: "ids or groups, as 3.*,half-close (all)" },
    strict: { kind: "switch", help: "run what SHOULD be too, not only what MUST" },
    list: { kind: "switch", help: "show the cases that would be run, and run none" },
    "timeout-ms": { kind: "integer", value: "MS", help: "how long a case may take (2000; for clients 5000)" },
    jobs: { kind: "integer", value: "N", help: "cases that run at the same time (8; for clients 4)" },
    report: { kind: "text", value: "FILE", help: "where to write a report: .html, .json or .xml (JUnit)" },
    quiet: { kind: "switch", help: "show failures and sums alone" },
  },
  examples: [
    [
      "Start the server of this package and judge all of it",
      "deno run -A testkit/conformance.ts --server 'deno run -N server.ts --quiet --port {port}' --strict",
    ],
    [
      "Judge how a server that runs on port 8888 meets what is malformed, with a report",
      "deno run -A testkit/conformance.ts --target 127.0.0.1:8888 --select malformed --report conformance.html",
    ],
    [
      "Judge the client of this package",
      "deno run -A testkit/conformance.ts --client 'deno run -N client.ts --hostname {host} --port {port}'",
    ],
  ],
};

/** Runs the program, to its end. */
export function runConformanceProgram(args: readonly string[]): Promise<never> {
  return runProgram(args, usage, run);
}

async function run(given: Given): Promise<number> {
  const output = new Output(Deno.stdout), say = (line: string) => void output.write(`${line}\n`);
  const kinds = ["target", "server", "client"].filter((flag) => given.text(flag) !== undefined);
  if (kinds.length > 1) throw new UsageError(`--${kinds[0]} and --${kinds[1]} exclude each other`);
  if (given.on("list")) {
    for (const one of selected<CaseText>(kinds[0] === "client" ? clientCases : serverCases, chosen(given))) {
      say(`${one.id.padEnd(7)} ${one.level.padEnd(6)} ${one.group.padEnd(12)} ${one.description}`);
    }
    await output.done();
    return 0;
  }
  if (kinds.length === 0) throw new UsageError("give a --target, a --server or a --client");
  const reportPath = given.text("report");
  const write = reportPath === undefined ? null : writerOf(reportPath);
  const startedAt = new Date(), { timeoutMs, jobs } = limitsOf(given);
  const quiet = given.on("quiet"),
    onResult = (result: CaseResult) => {
      if (!quiet || isBad(result)) say(resultLine(result));
    };
  const common = {
    ...chosen(given),
    dialect: (given.text("dialect") ?? "spec") as Dialect,
    maxFrameLength: given.integer("max-frame-length") ?? 1_048_576,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(jobs === undefined ? {} : { jobs }),
    onResult,
  };
  const targets = kinds[0] === "client"
    ? [await judgeClient(given, common)]
    : kinds[0] === "server"
    ? [await judgeStarted(given, common)]
    : await judgeRunning(given, common, say);
  const report: RunReport = {
    side: kinds[0] === "client" ? "client" : "server",
    dialect: common.dialect,
    maxFrameLength: common.maxFrameLength,
    strict: common.strict,
    startedAt: startedAt.toISOString(),
    durationMs: Date.now() - startedAt.getTime(),
    targets,
  };
  for (const line of ["", ...endLines(report)]) say(line);
  await Promise.all([output.done(), write?.(report)]);
  return targets.some(({ results }) => results.some(isBad)) ? 1 : 0;
}

type Common = Omit<ConformanceOptions, "port" | "hostname"> & { readonly maxFrameLength: number };

async function judgeClient(given: Given, common: Common): Promise<TargetReport> {
  const command = given.text("client")!, stdin = given.text("stdin")?.replaceAll("\\n", "\n");
  const results = await runClientConformance({
    ...common,
    command,
    ...(stdin === undefined ? {} : { stdin }),
  });
  return { target: command, results };
}

async function judgeStarted(given: Given, common: Common): Promise<TargetReport> {
  const command = given.text("server")!;
  if (!command.includes("{port}")) throw new UsageError("--server needs {port} where its port is to stand");
  const launch = () =>
    startServer(command).catch((error: unknown) => {
      if (error instanceof RangeError) throw error;
      throw new ProgramError(error instanceof Error ? error.message : String(error), 2);
    });
  await using server = await launch();
  const { hostname, port } = server;
  const memory = Deno.build.os === "linux" ? { memory: () => server.memory() } : {};
  const results = await runConformance({ ...common, ...connsOf(given), hostname, port, launch, ...memory });
  return { target: command, results };
}

async function judgeRunning(
  given: Given,
  common: Common,
  say: (line: string) => void,
): Promise<TargetReport[]> {
  const addresses = given.text("target")!.split(",").map((text) => {
    const [, hostname, port] = text.match(/^(?:\[?([^\]]+?)\]?:)?(\d{1,5})$/) ?? [];
    if (port === undefined) throw new UsageError(`--target needs HOST:PORT, and got ${text}`);
    return { target: text, hostname: hostname ?? "127.0.0.1", port: Number(port) };
  });
  // All of them before the first is judged: who gives a wrong one should not wait for that.
  for (const { target, hostname, port } of addresses) await expectUp(target, hostname, port);
  const reports: TargetReport[] = [];
  for (const { target, hostname, port } of addresses) {
    if (addresses.length > 1) say(`target ${target}`);
    reports.push({ target, results: await runConformance({ ...common, ...connsOf(given), hostname, port }) });
  }
  return reports;
}

/** @throws {ProgramError} If nothing listens there. */
async function expectUp(target: string, hostname: string, port: number): Promise<void> {
  try {
    const wire = await Wire.connect({ hostname, port, signal: AbortSignal.timeout(5000) });
    await wire[Symbol.asyncDispose]();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ProgramError(`cannot connect to ${target}: ${why}; start the target first, or see --server`, 2);
  }
}

function chosen(given: Given): { select: string | undefined; strict: boolean } {
  return { select: given.text("select"), strict: given.on("strict") };
}

function limitsOf(given: Given): { timeoutMs: number | undefined; jobs: number | undefined } {
  return { timeoutMs: given.integer("timeout-ms"), jobs: given.integer("jobs") };
}

function connsOf(given: Given): { conn?: string; refusedConn?: string } {
  const conn = given.text("conn"), refusedConn = given.text("refused-conn");
  return { ...(conn === undefined ? {} : { conn }), ...(refusedConn === undefined ? {} : { refusedConn }) };
}

/** What writes a report in the format that its name says. */
function writerOf(path: string): (report: RunReport) => Promise<void> {
  const format = { html: htmlReport, json: jsonReport, xml: junitReport }[path.split(".").at(-1)!];
  if (format === undefined) {
    throw new UsageError(`--report needs a name that ends in .html, .json or .xml, and got ${path}`);
  }
  return async (report) => {
    try {
      await Deno.writeTextFile(path, format(report));
    } catch (error) {
      throw new ProgramError(
        `cannot write --report ${path}: ${error instanceof Error ? error.message : error}`,
        2,
      );
    }
  };
}
