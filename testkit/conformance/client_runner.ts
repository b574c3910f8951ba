// How are the cases for clients run? The client is run for each of them, against a port of its own.

import type { Dialect } from "../../codec/mod.ts";
import { inRange } from "../../transport/limit.ts";
import type { Closing } from "./case.ts";
import { clientCases } from "./client_cases.ts";
import { type ClientCase, ClientTrial, type ClientTrialOptions } from "./client_trial.ts";
import { type CaseResult, judge, notPlayed } from "./result.ts";
import { inParallel } from "./runner.ts";
import { selected, type Selection } from "./suite.ts";
import { wordsOf } from "./target.ts";

/** Options of {@linkcode runClientConformance}. */
export interface ClientConformanceOptions extends Selection {
  /** The client's command line, with `{host}` and `{port}`. Quotes work as in a shell, nothing else of one does. */
  command: string;
  /** What to feed to its standard input. @default {five lines} */
  stdin?: string;
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that the client may send, in bytes, its length field included. @default {1_048_576} */
  maxFrameLength?: number;
  /** How long a case may take, the start of the client included. @default {5000} */
  timeoutMs?: number;
  /** How many cases run at the same time. @default {4} */
  jobs?: number;
  /** Called with each result as it is known. */
  onResult?: (result: CaseResult) => void;
}

/**
 * Runs a client program once for each conformance case, plays the server, and judges what is on the wire and that the
 * program ends. What it prints is not judged. A first run, in which nothing is done to it, says how much it submits.
 *
 * @throws {RangeError} If an option is out of range, or no case is selected.
 */
export async function runClientConformance(options: ClientConformanceOptions): Promise<CaseResult[]> {
  const { command, stdin = "one\ntwo\nthree\nfour\nfive\n", dialect = "spec" } = options;
  const { maxFrameLength = 1_048_576, timeoutMs = 5000, jobs = 4, onResult } = options;
  inRange("timeoutMs", timeoutMs, 1, 600_000);
  inRange("jobs", jobs, 1, 1000);
  if (!command.includes("{port}")) throw new RangeError("client must have {port} where its port is to stand");
  const words = wordsOf(command), cases = selected(clientCases, options);
  const trialOptions = { words, stdin, dialect, maxFrameLength, limitMs: timeoutMs };
  const usualSubmits = await countSubmits({ ...trialOptions, usualSubmits: null });
  const results = new Map<ClientCase, CaseResult>();
  await inParallel(cases, jobs, async (one) => {
    const result = await played(one, { ...trialOptions, usualSubmits });
    results.set(one, result);
    onResult?.(result);
  });
  return cases.map((one) => results.get(one)!);
}

/** How much a client submits to which nothing is done; null where that went wrong, as its cases will tell. */
async function countSubmits(options: ClientTrialOptions): Promise<number | null> {
  try {
    await using trial = await ClientTrial.open(options);
    const late = Promise.withResolvers<null>(), timer = setTimeout(() => late.resolve(null), options.limitMs);
    const guest = await Promise.race([trial.guest(), late.promise]);
    clearTimeout(timer);
    const requests = await guest?.serve();
    return requests?.filter(({ command }) => command === 0x02).length ?? null;
  } catch {
    return null;
  }
}

async function played(one: ClientCase, options: ClientTrialOptions): Promise<CaseResult> {
  let trial: ClientTrial;
  try {
    trial = await ClientTrial.open(options);
  } catch (error) {
    return notPlayed(one, "error", error instanceof Error ? error.message : String(error));
  }
  let running = Promise.resolve();
  try {
    return await judge({
      text: one,
      limitMs: options.limitMs,
      run: () => running = trial.guest().then((guest) => one.run(trial, guest)),
      closing: () => closingOf(trial, one.closing),
      wires: () => trial.logs,
    });
  } finally {
    await trial[Symbol.asyncDispose]();
    // A case that was given up ends by itself once its client is gone.
    await running.catch(() => {});
  }
}

async function closingOf(trial: ClientTrial, allowed: readonly Closing[]): Promise<Closing> {
  const wire = trial.firstWire;
  if (wire === undefined) return "open";
  if (wire.log.some(({ by, what }) => by === "us" && what === "reset")) return "by the kit";
  if (wire.end === "open" && !allowed.includes("open")) await wire.readToEnd({ timeoutMs: trial.leftMs });
  return wire.end;
}
