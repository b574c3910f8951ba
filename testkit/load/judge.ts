// Is a run good enough? Thresholds on its figures, and a comparison with an earlier run.

import { UsageError } from "../../cli/flags.ts";
import type { LoadResult } from "../load.ts";

/** A figure, and the bound that it must not be beyond. */
export interface Threshold {
  readonly text: string;
  readonly metric: string;
  readonly above: boolean;
  readonly limit: number;
}

const latencies = ["min", "mean", "p50", "p75", "p90", "p99", "p99.9", "p99.99", "max"] as const;
const counts = [
  "rps",
  "answered",
  "lost",
  "duplicated",
  "unknown",
  "late",
  "refused",
  "unsent",
  "errors",
] as const;
const msIn: Record<string, number> = { us: 0.001, ms: 1, s: 1000 };

/** Reads `p99>5ms,rps<1000`. @throws {UsageError} If it says something else. */
export function parseThresholds(list: string): Threshold[] {
  return list.split(",").map((text) => text.trim()).filter((text) => text !== "").map((text) => {
    const [, metric, sign, value, unit] =
      /^([a-z0-9.]+)\s*([<>])\s*(\d+(?:\.\d+)?)\s*(us|ms|s)?$/.exec(text) ?? [];
    const timed = (latencies as readonly string[]).includes(metric ?? "");
    const known = timed || (counts as readonly string[]).includes(metric ?? "");
    if (!known || timed !== (unit !== undefined)) {
      throw new UsageError(
        `--fail-if cannot read ${JSON.stringify(text)}: it takes ${
          latencies.join(", ")
        } with us, ms or s, and ` +
          `${counts.join(", ")} without, as p99>5ms or rps<1000`,
      );
    }
    return { text, metric: metric!, above: sign === ">", limit: Number(value) * (timed ? msIn[unit!]! : 1) };
  });
}

/** The thresholds that a run has met, in words. */
export function thresholdsMet(thresholds: readonly Threshold[], result: LoadResult): string[] {
  return thresholds.flatMap(({ text, metric, above, limit }) => {
    const value = figure(result, metric);
    // A latency of no answers at all is met by any bound from above: there is nothing good about it.
    const met = Number.isNaN(value) ? above : above ? value > limit : value < limit;
    return met
      ? [`${text}: it is ${Number.isNaN(value) ? "unknown, as nothing was answered" : shown(value)}`]
      : [];
  });
}

function figure(result: LoadResult, metric: string): number {
  if (metric === "rps") return result.requestsPerSecond;
  if (metric === "errors") return Object.values(result.errors).reduce((sum, count) => sum + count, 0);
  if ((latencies as readonly string[]).includes(metric)) {
    const value = result.latencyMs[metric as typeof latencies[number]];
    return value ?? NaN; // JSON has no NaN
  }
  return result[metric as "answered" | "lost" | "duplicated" | "unknown" | "late" | "refused" | "unsent"];
}

/** A run beside an earlier one: a table, and where it is worse beyond noise. */
export interface Comparison {
  readonly table: string;
  readonly regressions: string[];
}

/**
 * Compares two runs. A figure is worse where it is so by more than a twentieth (a fifth, for a latency) and by more
 * than twice the standard deviations of both runs' seconds together.
 */
export function compared(before: LoadResult, now: LoadResult): Comparison {
  const rows: string[] = [], regressions: string[] = [];
  const differ = (["connections", "window", "payload", "rate"] as const).filter((name) =>
    before.config[name] !== now.config[name]
  );
  if (differ.length > 0) {
    throw new UsageError(
      `--compare needs a run with the same load: ${
        differ.map((name) => `${name} was ${before.config[name]} and is ${now.config[name]}`).join(", ")
      }`,
    );
  }
  const add = (name: string, was: number, is: number, noise: number, moreIsBetter: boolean) => {
    const change = is / was - 1, worse = moreIsBetter ? -change : change;
    rows.push(
      `${name.padEnd(12)} ${shown(was).padStart(14)} ${shown(is).padStart(14)} ${
        `${change >= 0 ? "+" : ""}${(change * 100).toFixed(1)} %`.padStart(10)
      }   noise ${(noise * 100).toFixed(1)} %`,
    );
    if (worse > noise) regressions.push(`${name} is ${shown(is)}, and was ${shown(was)}`);
  };
  const both = (of: (second: LoadResult["perSecond"][number]) => number) =>
    2 * Math.hypot(spread(before.perSecond.map(of)), spread(now.perSecond.map(of)));
  add(
    "requests/s",
    before.requestsPerSecond,
    now.requestsPerSecond,
    Math.max(0.05, both(({ requests, durationMs }) => requests / durationMs)),
    true,
  );
  add("p50, ms", before.latencyMs.p50, now.latencyMs.p50, Math.max(0.2, both(({ p50Ms }) => p50Ms)), false);
  add("p99, ms", before.latencyMs.p99, now.latencyMs.p99, Math.max(0.2, both(({ p99Ms }) => p99Ms)), false);
  const table = `\n${"".padEnd(12)} ${"before".padStart(14)} ${"now".padStart(14)}\n${rows.join("\n")}\n`;
  return { table, regressions };
}

/** The standard deviation of the values, as a share of their mean. */
function spread(values: readonly number[]): number {
  const known = values.filter((value) => Number.isFinite(value) && value !== null);
  if (known.length < 2) return 0;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (known.length - 1);
  return mean === 0 ? 0 : Math.sqrt(variance) / mean;
}

function shown(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}
