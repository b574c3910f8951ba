#!/usr/bin/env -S deno run -N
/**
 * How much does a server take, and how fast? {@linkcode load} drives it, and accounts for every request.
 * `deno run -N testkit/load.ts --help` tells about the program.
 *
 * @module
 */

import type { Dialect } from "../codec/mod.ts";
import { addressOf } from "./address.ts";
import { Engine, type EngineOptions, type ErrorCounts, type IdCounts, type Traffic } from "./load/engine.ts";
import { Latencies, type Percentiles } from "./load/histogram.ts";

export { type ErrorCounts, type IdCounts, TargetError, type Traffic } from "./load/engine.ts";
export type { Percentiles } from "./load/histogram.ts";

/** Options of {@linkcode load}. */
export interface LoadOptions {
  /** The server: `HOST:PORT`. */
  target: string;
  /** Connections that are kept open; one that is lost is opened again. @default {16} */
  connections?: number;
  /** Requests that may be in flight on each of them. @default {64} */
  window?: number;
  /** Length of a request's payload, in bytes. @default {64} */
  payload?: number;
  /**
   * Requests a second over all connections, sent at their time whatever the answers do: the open loop, whose latency
   * counts from that time. Without it, a request is sent when an answer makes room for it: the closed loop.
   */
  rate?: number;
  /** How long is measured. @default {10_000} */
  durationMs?: number;
  /** Ends the run before its time when so many requests are answered, those of the warm-up included. */
  requests?: number;
  /** How long it runs before it is measured. @default {0} */
  warmUpMs?: number;
  /** How long to wait for an answer before it is lost, and for a connection. @default {5000} */
  timeoutMs?: number;
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** Opens a session on each connection with a CONN whose payload this is, a string as UTF-8. */
  name?: string | Uint8Array;
  /** Ends the run when it is aborted, with the results so far. */
  signal?: AbortSignal;
  /** Called when a second of what is measured is over. */
  onProgress?: (progress: Progress) => void;
}

/** A second of a run. */
export interface LoadSecond extends Traffic {
  /** Latency of the answers that came in it, in milliseconds; NaN where none did. */
  readonly p50Ms: number;
  /** Latency that one of a hundred of them exceeded; NaN where none came. */
  readonly p99Ms: number;
  /** The longest of them; NaN where none came. */
  readonly maxMs: number;
}

/** What is known while it runs. */
export interface Progress extends LoadSecond {
  /** What has been measured so far. */
  readonly elapsedMs: number;
  /** Connections that are open. */
  readonly connections: number;
  /** What became of the ids so far. */
  readonly ids: Readonly<IdCounts>;
  /** What went wrong with the connections so far. */
  readonly errors: Readonly<ErrorCounts>;
}

/** What came of a run. Latencies are of requests that were due in what is measured; ids and errors are of all. */
export interface LoadResult extends IdCounts {
  /** What was asked for, with what it is otherwise; null is not set. */
  readonly config: LoadConfig;
  /** When it began, by the clock. */
  readonly startedAt: string;
  /** What was measured. Shorter than asked for where it was interrupted, or had sent all its requests. */
  readonly elapsedMs: number;
  /** Whether `signal` ended it. */
  readonly interrupted: boolean;
  /** Answers that came in what is measured. */
  readonly requests: number;
  /** Answers a second, over what is measured. */
  readonly requestsPerSecond: number;
  /** Bytes sent a second. */
  readonly bytesSentPerSecond: number;
  /** Bytes received a second. */
  readonly bytesReceivedPerSecond: number;
  /** From when a request was to be sent to its answer. */
  readonly latencyMs: Percentiles;
  /** At a constant rate, from when a request was sent: this view hides the wait before that. Null without a rate. */
  readonly uncorrectedLatencyMs: Percentiles | null;
  /** Requests that the rate demanded and that were never sent: every window was full. */
  readonly unsent: number;
  /** What went wrong with the connections. */
  readonly errors: ErrorCounts;
  /** The first message of each kind of error. */
  readonly messages: Partial<Record<keyof ErrorCounts, string>>;
  /** The seconds of what is measured; the last may be shorter. */
  readonly perSecond: readonly LoadSecond[];
  /** Latency by percentile, in pairs of percent and milliseconds. */
  readonly latencyCurve: readonly (readonly [percent: number, ms: number])[];
  /** The same of `uncorrectedLatencyMs`; null without a rate. */
  readonly uncorrectedLatencyCurve: readonly (readonly [percent: number, ms: number])[] | null;
  /** `latencyMs` in HdrHistogram's own format, compressed, in tenths of a microsecond. */
  readonly hdrHistogram: string;
}

/** The options of a run as it took them. */
export interface LoadConfig {
  /** The server. */
  readonly target: string;
  /** Connections that were kept open. */
  readonly connections: number;
  /** Requests in flight on each. */
  readonly window: number;
  /** Length of a request's payload, in bytes. */
  readonly payload: number;
  /** Requests a second; null in the closed loop. */
  readonly rate: number | null;
  /** How long was to be measured. */
  readonly durationMs: number;
  /** Answers that ended the run; null where only the time did. */
  readonly requests: number | null;
  /** How long it ran before that. */
  readonly warmUpMs: number;
  /** When an unanswered request was lost. */
  readonly timeoutMs: number;
  /** How answers' commands were numbered. */
  readonly dialect: Dialect;
}

/**
 * Drives a server of the submit protocol (docs/protocol.md) with SUBMITs, and checks that each is answered exactly once.
 *
 * @throws {TargetError} If the first connection cannot be had.
 * @throws {RangeError} If an option is out of range.
 *
 * @example
 * ```ts
 * import { load } from "@framewire/framewire/testkit";
 * import { serve } from "@framewire/framewire/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => {});
 * const target = `127.0.0.1:${server.addr.port}`;
 * const { answered, lost, duplicated } = await load({ target, connections: 2, requests: 1000 });
 * assertEquals([answered, lost, duplicated], [1000, 0, 0]);
 * ```
 */
export async function load(options: LoadOptions): Promise<LoadResult> {
  const { signal = new AbortController().signal, onProgress, name } = options;
  const config = configOf(options), address = addressOf(config.target);
  if (address === null) throw new RangeError(`target must be HOST:PORT, and is ${config.target}`);
  const whole = new Latencies(), uncorrected = new Latencies(), second = new Latencies();
  const perSecond: LoadSecond[] = [];
  const engineOptions: EngineOptions = {
    ...config,
    ...address,
    session: name === undefined
      ? null
      : typeof name === "string"
      ? new TextEncoder().encode(name)
      : name.slice(),
  };
  const engine = new Engine(engineOptions, {
    latency: (ms, count) => second.add(ms, count),
    uncorrected: (ms, count) => uncorrected.add(ms, count),
    second: (traffic) => {
      const latest = { ...traffic, p50Ms: second.at(50), p99Ms: second.at(99), maxMs: second.at(100) };
      perSecond.push(latest);
      whole.addAll(second);
      second.clear();
      const elapsedMs = perSecond.reduce((sum, { durationMs }) => sum + durationMs, 0);
      onProgress?.({
        ...latest,
        elapsedMs,
        connections: engine.open,
        ids: engine.ids,
        errors: engine.errors,
      });
    },
  });
  const startedAt = new Date().toISOString();
  await engine.run(signal);
  // Answers that came behind the last second, to requests that were due before its end.
  whole.addAll(second);
  const total = (count: keyof Traffic) => perSecond.reduce((sum, each) => sum + each[count], 0);
  const elapsedMs = total("durationMs"), requests = total("requests");
  const aSecond = (count: number) => elapsedMs === 0 ? 0 : count * 1000 / elapsedMs;
  const open = config.rate !== null;
  return {
    config,
    startedAt,
    elapsedMs,
    interrupted: signal.aborted,
    requests,
    requestsPerSecond: aSecond(requests),
    bytesSentPerSecond: aSecond(total("bytesSent")),
    bytesReceivedPerSecond: aSecond(total("bytesReceived")),
    latencyMs: whole.percentiles(),
    uncorrectedLatencyMs: open ? uncorrected.percentiles() : null,
    ...engine.ids,
    unsent: engine.unsent,
    errors: engine.errors,
    messages: engine.messages,
    perSecond,
    latencyCurve: whole.curve(),
    uncorrectedLatencyCurve: open ? uncorrected.curve() : null,
    hdrHistogram: whole.encoded(),
  };
}

function configOf(options: LoadOptions): LoadConfig {
  const { target, connections = 16, window = 64, payload = 64, rate = null, durationMs = 10_000 } = options;
  const { requests = null, warmUpMs = 0, timeoutMs = 5000, dialect = "spec" } = options;
  inRange("connections", connections, 1, 1_000_000);
  inRange("window", window, 1, 1_000_000);
  inRange("payload", payload, 0, 2 ** 30);
  if (rate !== null) inRange("rate", rate, 1, 1e9);
  inRange("durationMs", durationMs, 1, 2 ** 31 - 1);
  if (requests !== null) inRange("requests", requests, 1, Number.MAX_SAFE_INTEGER);
  inRange("warmUpMs", warmUpMs, 0, 2 ** 31 - 1);
  inRange("timeoutMs", timeoutMs, 1, 2 ** 31 - 1);
  if (dialect !== "spec" && dialect !== "legacy") {
    throw new RangeError(`dialect must be "spec" or "legacy", and is ${JSON.stringify(dialect)}`);
  }
  return { target, connections, window, payload, rate, durationMs, requests, warmUpMs, timeoutMs, dialect };
}

function inRange(option: string, value: number, low: number, high: number): void {
  const whole = option === "rate" || Number.isInteger(value);
  if (whole && value >= low && value <= high) return;
  throw new RangeError(`${option} must be a number from ${low} to ${high}, and is ${value}`);
}

async function main(): Promise<void> {
  const { runLoad } = await import("./load/program.ts");
  await runLoad(Deno.args, load);
}

if (import.meta.main) main();
