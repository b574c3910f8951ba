// How are the cases for servers run? In parallel, each with connections and a time limit of its own.

import type { Dialect } from "../../codec/mod.ts";
import { inRange } from "../../transport/limit.ts";
import { type Closing, type LaunchedTarget, type Peer, type ServerCase, Trial } from "./case.ts";
import { type CaseResult, judge, notPlayed } from "./result.ts";
import { selected, type Selection, serverCases } from "./suite.ts";

/** Options of {@linkcode runConformance}. */
export interface ConformanceOptions extends Selection {
  /** The target's name or address. @default {"127.0.0.1"} */
  hostname?: string;
  /** The target's port. */
  port: number;
  /** How the target numbers its answers' commands. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that the target accepts, in bytes, its length field included. @default {1_048_576} */
  maxFrameLength?: number;
  /** What a CONN carries that the target accepts. @default {"conformance"} */
  conn?: string;
  /** What a CONN carries that the target refuses. */
  refusedConn?: string;
  /** How long a case may take; some may take a few times that. @default {2000} */
  timeoutMs?: number;
  /** How many cases run at the same time. @default {8} */
  jobs?: number;
  /** Starts a target of a case's own, which is then told to stop; without it, the drain is not judged. */
  launch?: () => Promise<LaunchedTarget>;
  /** The bytes of memory that the target holds; without it, they are not judged. */
  memory?: () => number | Promise<number>;
  /** Called with each result as it is known. */
  onResult?: (result: CaseResult) => void;
}

/**
 * Runs the conformance cases for servers against a target that listens, and gives their results in the order of the
 * list. Takes at most 27 times `timeoutMs`: cases that have not begun by then are errors.
 *
 * @throws {RangeError} If an option is out of range, or no case is selected.
 *
 * @example
 * ```ts
 * import { runConformance } from "@framewire/framewire/testkit";
 * import { serve } from "@framewire/framewire/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => {});
 * const results = await runConformance({ port: server.addr.port, select: "3.*" });
 * assertEquals(results.filter(({ status }) => status !== "passed"), []);
 * ```
 */
export async function runConformance(options: ConformanceOptions): Promise<CaseResult[]> {
  const { hostname = "127.0.0.1", port, dialect = "spec", maxFrameLength = 1_048_576 } = options;
  const { conn = "conformance", refusedConn, timeoutMs = 2000, jobs = 8, launch, memory, onResult } = options;
  inRange("maxFrameLength", maxFrameLength, 1024, 2 ** 30);
  inRange("timeoutMs", timeoutMs, 1, 600_000);
  inRange("jobs", jobs, 1, 1000);
  const cases = selected(serverCases, options);
  const endAt = performance.now() + timeoutMs * budgetTimes;
  const results = new Map<ServerCase, CaseResult>();
  const play = async (one: ServerCase) => {
    const leftMs = endAt - performance.now(), limitMs = Math.min(leftMs, timeoutMs * (one.patience ?? 1));
    const result = leftMs <= 0
      ? notPlayed(one, "error", "the time of the whole run was over before it began")
      : one.needs === "launch" && launch === undefined
      ? notPlayed(
        one,
        "skipped",
        "the kit cannot stop a target that it has not started; start it with --server",
      )
      : one.needs === "memory" && memory === undefined
      ? notPlayed(
        one,
        "skipped",
        "the kit sees the memory of a target only that it has started; see --server",
      )
      : await played(one, {
        hostname,
        port,
        dialect,
        maxFrameLength,
        limitMs,
        conn,
        refusedConn,
        launch,
        memory,
      });
    results.set(one, result);
    onResult?.(result);
  };
  await inParallel(cases.filter(({ alone }) => !alone), jobs, play);
  await inParallel(cases.filter(({ alone }) => alone), 1, play);
  return cases.map((one) => results.get(one)!);
}

/** How many times the limit of one case all of them may take: with the usual limit, less than a minute. */
const budgetTimes = 27;

async function played(one: ServerCase, options: Trial["options"]): Promise<CaseResult> {
  const trial = new Trial(options);
  let running = Promise.resolve();
  try {
    return await judge({
      text: one,
      limitMs: options.limitMs,
      run: () => running = one.run(trial),
      closing: () => closingOf(trial.peers[0], one.closing, trial),
      wires: () => trial.peers.map(({ wire }) => [...wire.log]),
    });
  } finally {
    await trial[Symbol.asyncDispose]();
    // A case that was given up ends by itself once its connections are gone.
    await running.catch(() => {});
  }
}

/** How a connection was closed. Where it should be by now and is not, that is waited for. */
async function closingOf(
  peer: Peer | undefined,
  allowed: readonly Closing[],
  trial: Trial,
): Promise<Closing> {
  if (peer === undefined) return "open";
  const { wire } = peer;
  if (wire.log.some(({ by, what }) => by === "us" && what === "reset")) return "by the kit";
  if (wire.end === "open" && !allowed.includes("open")) await wire.readToEnd({ timeoutMs: trial.leftMs });
  return wire.end;
}

/** Does all of the items, so many at a time. */
export async function inParallel<T>(
  items: readonly T[],
  jobs: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = items[Symbol.iterator]();
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, async () => {
    for (const item of queue) await work(item);
  }));
}
