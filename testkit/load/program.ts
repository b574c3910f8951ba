// The load generator as a program: flags, a line while it runs, results, and an exit status to build on.

import { ProgramError, readFlagFile, runProgram } from "../../cli/program.ts";
import { type Given, type Usage, UsageError } from "../../cli/flags.ts";
import type { LoadOptions, LoadResult, Progress } from "../load.ts";
import { compared, parseThresholds, thresholdsMet } from "./judge.ts";
import { htmlReport, jsonReport, textReport } from "./report.ts";
import { TargetError } from "./engine.ts";

const usage: Usage = {
  name: "deno run -A testkit/load.ts",
  summary: "Drives a server of the submit protocol, and accounts for every request.",
  flags: {
    target: { kind: "text", value: "HOST:PORT", help: "the server" },
    connections: { kind: "integer", value: "N", help: "connections that are kept open (16)" },
    window: { kind: "integer", value: "N", help: "requests in flight on each (64)" },
    payload: { kind: "integer", value: "BYTES", help: "length of a request's payload (64)" },
    rate: {
      kind: "text",
      value: "R",
      help: "requests a second, at their time whatever the answers do; without it as answers make room",
    },
    duration: { kind: "text", value: "SECONDS", help: "how long is measured (10)" },
    requests: { kind: "integer", value: "N", help: "end when so many are answered" },
    "warm-up": { kind: "text", value: "SECONDS", help: "how long to run before measuring (0)" },
    "timeout-ms": { kind: "integer", value: "MS", help: "when an unanswered request is lost (5000)" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    name: { kind: "text", value: "TEXT", help: "open each connection with a CONN that holds this" },
    report: { kind: "text", value: "FILE", help: "write the results to FILE.html or FILE.json" },
    json: { kind: "switch", help: "write the results to stdout as JSON" },
    compare: {
      kind: "text",
      value: "OLD.json",
      help: "fail where it is slower than this run was, beyond noise",
    },
    "fail-if": {
      kind: "text",
      value: "LIST",
      help: "fail where one holds, as 'p99>5ms,rps<1000,errors>0'",
    },
  },
  examples: [
    [
      "As fast as the server answers, for a second",
      "deno run -A testkit/load.ts --target 127.0.0.1:8888 --duration 1",
    ],
    [
      "2000 requests a second, and fail where one of a hundred takes longer than half a second",
      "deno run -A testkit/load.ts --target 127.0.0.1:8888 --rate 2000 --duration 1 --fail-if 'p99>500ms'",
    ],
    [
      "A thousand requests on one connection, one at a time, as JSON",
      "deno run -A testkit/load.ts --target 127.0.0.1:8888 --connections 1 --window 1 --requests 1000 --json",
    ],
  ],
};

/** Runs the program, to its end. `load` is the library's. */
export function runLoad(
  args: readonly string[],
  load: (options: LoadOptions) => Promise<LoadResult>,
): Promise<never> {
  return runProgram(args, usage, (given) => run(given, load));
}

/**
 * 0 where all went well, 1 where an id was lost, duplicated or unknown, where a threshold was met, or where it is
 * slower than the run that it is compared with.
 */
async function run(given: Given, load: (options: LoadOptions) => Promise<LoadResult>): Promise<number> {
  const target = given.text("target");
  if (target === undefined) throw new UsageError("--target HOST:PORT is missing");
  const report = given.text("report"), old = given.text("compare");
  if (report !== undefined && !/\.(?:html|json)$/.test(report)) {
    throw new UsageError(`--report must end with .html or .json, and is ${report}`);
  }
  const thresholds = parseThresholds(given.text("fail-if") ?? "");
  const before = old === undefined ? null : parseOld(old, readFlagFile("compare", old));
  const stop = new AbortController(), terminal = Deno.stderr.isTerminal();
  const interrupt = () => stop.abort();
  Deno.addSignalListener("SIGINT", interrupt);
  let result: LoadResult;
  try {
    result = await load({
      ...optionsOf(given, target),
      signal: stop.signal,
      ...(terminal && { onProgress: show }),
    });
  } catch (error) {
    if (error instanceof TargetError) throw new ProgramError(error.message, 2);
    throw error;
  } finally {
    Deno.removeSignalListener("SIGINT", interrupt);
    if (terminal) Deno.stderr.writeSync(new TextEncoder().encode("\r\x1b[K"));
  }
  if (report !== undefined) {
    writeReport(report, report.endsWith(".html") ? htmlReport(result) : jsonReport(result));
  }
  const bad = thresholdsMet(thresholds, result);
  if (result.lost + result.duplicated + result.unknown > 0) {
    bad.push(`${result.lost} lost, ${result.duplicated} duplicated, ${result.unknown} unknown`);
  }
  const comparison = before === null ? null : compared(before, result);
  if (comparison !== null) bad.push(...comparison.regressions);
  const text = given.on("json") ? jsonReport(result) : textReport(result) + (comparison?.table ?? "");
  writeAll(text + (given.on("json") ? "" : bad.map((line) => `FAILED  ${line}\n`).join("")));
  return bad.length > 0 ? 1 : 0;
}

function optionsOf(given: Given, target: string): LoadOptions {
  const options: LoadOptions = { target };
  for (const name of ["connections", "window", "payload", "requests"] as const) {
    const value = given.integer(name);
    if (value !== undefined) options[name] = value;
  }
  const rate = number(given, "rate"), duration = number(given, "duration"), warmUp = number(given, "warm-up");
  const timeoutMs = given.integer("timeout-ms"), dialect = given.text("dialect"), name = given.text("name");
  if (rate !== undefined) options.rate = rate;
  if (duration !== undefined) options.durationMs = Math.round(duration * 1000);
  if (warmUp !== undefined) options.warmUpMs = Math.round(warmUp * 1000);
  if (timeoutMs !== undefined) options.timeoutMs = timeoutMs;
  if (dialect !== undefined) options.dialect = dialect as "spec" | "legacy";
  if (name !== undefined) options.name = name;
  return options;
}

function number(given: Given, flag: string): number | undefined {
  const text = given.text(flag);
  if (text === undefined) return undefined;
  if (!/^\d+(?:\.\d+)?$/.test(text)) throw new UsageError(`--${flag} needs a number, and got ${text}`);
  return Number(text);
}

function parseOld(path: string, text: string): LoadResult {
  try {
    const old = JSON.parse(text) as LoadResult;
    if (typeof old.requestsPerSecond === "number" && Array.isArray(old.perSecond)) return old;
  } catch {
    // Said below.
  }
  throw new UsageError(`--compare names ${path}, which is no report of this program in JSON`);
}

/** The line that is written again each second. */
function show({ elapsedMs, requests, durationMs, p99Ms, connections, ids, errors }: Progress): void {
  const failed = Object.values(errors).reduce((sum, count) => sum + count, 0);
  const line = `\r\x1b[K${Math.round(elapsedMs / 1000)} s  ${
    Math.round(requests * 1000 / durationMs).toLocaleString("en")
  }/s  p99 ${p99Ms.toFixed(2)} ms  ${connections} open  ${ids.lost} lost  ${failed} errors`;
  Deno.stderr.writeSync(new TextEncoder().encode(line));
}

function writeReport(path: string, text: string): void {
  try {
    Deno.writeTextFileSync(path, text);
  } catch (error) {
    throw new ProgramError(`cannot write --report ${path}: ${(error as Error).message}`, 2);
  }
}

function writeAll(text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}
