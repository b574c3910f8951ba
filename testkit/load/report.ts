// What does a run say of itself? As text, as JSON, and as one HTML file with its curves.

import { escaped, page } from "../html.ts";
import type { LoadResult } from "../load.ts";

/** The results as JSON; docs/testkit.md says what is in it. */
export function jsonReport(result: LoadResult): string {
  return `${JSON.stringify(result, null, 2)}\n`;
}

/** The results for a terminal. */
export function textReport(result: LoadResult): string {
  const { requests, requestsPerSecond, bytesSentPerSecond, bytesReceivedPerSecond, elapsedMs } = result;
  const lines = [
    titleOf(result),
    `requests     ${whole(requests)} in ${(elapsedMs / 1000).toFixed(1)} s, ${whole(requestsPerSecond)}/s${
      result.interrupted ? ", interrupted" : ""
    }`,
    `bytes        sent ${megabytes(bytesSentPerSecond)} MB/s, received ${
      megabytes(bytesReceivedPerSecond)
    } MB/s`,
    `latency      ${latencies(result.latencyMs)}`,
  ];
  if (result.uncorrectedLatencyMs !== null) {
    lines.push(`uncorrected  ${latencies(result.uncorrectedLatencyMs)}`);
  }
  lines.push(`ids          ${counted(idsOf(result))}`);
  const errors = Object.entries(result.errors).filter(([, count]) => count > 0);
  lines.push(`errors       ${errors.length === 0 ? "none" : counted(Object.fromEntries(errors))}`);
  for (const [kind, message] of Object.entries(result.messages)) lines.push(`  ${kind}: ${message}`);
  return `${lines.join("\n")}\n`;
}

/** The results as a page. */
export function htmlReport(result: LoadResult): string {
  const percentiles = Object.keys(result.latencyMs) as (keyof LoadResult["latencyMs"])[];
  const row = (name: string, values: LoadResult["latencyMs"]) =>
    `<tr><th>${name}</th>${percentiles.map((p) => `<td class="number">${ms(values[p])}</td>`).join("")}</tr>`;
  const uncorrected = result.uncorrectedLatencyMs;
  const facts: [string, string][] = [
    ["Requests", `${whole(result.requests)} in ${(result.elapsedMs / 1000).toFixed(1)} s`],
    ["A second", whole(result.requestsPerSecond)],
    ["Sent", `${megabytes(result.bytesSentPerSecond)} MB/s`],
    ["Received", `${megabytes(result.bytesReceivedPerSecond)} MB/s`],
    ["Ids", counted(idsOf(result))],
    ["Errors", counted(result.errors)],
    ["Began", result.startedAt],
  ];
  const curves: Curve[] = [{
    name: "from the intended time",
    colour: "--one",
    points: curve(result.latencyCurve),
  }];
  if (result.uncorrectedLatencyCurve !== null) {
    curves.push({ name: "uncorrected", colour: "--two", points: curve(result.uncorrectedLatencyCurve) });
  } else curves[0] = { ...curves[0]!, name: "latency" };
  let at = 0;
  const seconds = result.perSecond.map((second) => ({ ...second, at: (at += second.durationMs) / 1000 }));
  const messages = Object.entries(result.messages).map(([kind, message]) =>
    `<p class="bad">${escaped(kind)}: ${escaped(message)}</p>`
  );
  return page(
    titleOf(result),
    `<div class="wide"><table>${
      facts.map(([name, value]) => `<tr><th>${name}</th><td>${escaped(value)}</td></tr>`).join("")
    }</table></div>
${messages.join("\n")}
<h2>Latency, in milliseconds</h2>
<div class="wide"><table><tr><th></th>${percentiles.map((p) => `<th class="number">${p}</th>`).join("")}</tr>
${row(uncorrected === null ? "latency" : "intended", result.latencyMs)}${
      uncorrected === null ? "" : row("uncorrected", uncorrected)
    }</table></div>
${
      uncorrected === null
        ? ""
        : `<p class="quiet">Intended: from when the rate wanted a request sent. Uncorrected: from when it was sent,
which hides the wait before that.</p>`
    }
<h2>Latency by percentile</h2>
${chart(curves, { x: percentAxis(result.latencyCurve), yName: "ms", yLog: true })}
<h2>Requests a second</h2>
${
      chart([{
        name: "requests/s",
        colour: "--one",
        points: seconds.map(({ at, requests, durationMs }) => [at, requests * 1000 / durationMs]),
      }], { x: timeAxis(seconds), yName: "/s", yLog: false })
    }
<h2>Latency by time</h2>
${
      chart([
        { name: "p50", colour: "--one", points: seconds.map(({ at, p50Ms }) => [at, p50Ms]) },
        { name: "p99", colour: "--two", points: seconds.map(({ at, p99Ms }) => [at, p99Ms]) },
        { name: "max", colour: "--three", points: seconds.map(({ at, maxMs }) => [at, maxMs]) },
      ], { x: timeAxis(seconds), yName: "ms", yLog: true })
    }`,
    "svg { width: 100%; max-width: 44rem; }",
  );
}

function titleOf({ config }: LoadResult): string {
  const loop = config.rate === null ? "closed loop" : `${config.rate} requests/s`;
  return `${config.target}, ${config.connections} connections, window ${config.window}, ` +
    `payload ${config.payload} B, ${loop}`;
}

function idsOf({ sent, answered, lost, duplicated, late, unknown, refused, unsent }: LoadResult) {
  return { sent, answered, lost, duplicated, late, unknown, refused, unsent };
}

function counted(counts: object): string {
  return Object.entries(counts).map(([name, count]) => `${name} ${whole(count)}`).join("  ");
}

function latencies(values: LoadResult["latencyMs"]): string {
  return `${Object.entries(values).map(([name, value]) => `${name} ${ms(value)}`).join("  ")} ms`;
}

function whole(value: number): string {
  return Math.round(value).toLocaleString("en");
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function ms(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "–";
}

interface Curve {
  readonly name: string;
  readonly colour: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

interface Axis {
  readonly from: number;
  readonly to: number;
  readonly ticks: readonly (readonly [at: number, label: string])[];
}

/** Percentiles lie as far apart as their nines: 90, 99 and 99.9 are equal steps. */
function nines(percent: number): number {
  return -Math.log10(1 - percent / 100);
}

/** The curve with its last point, which stands at 100, one step behind the one before. */
function curve(points: LoadResult["latencyCurve"]): (readonly [number, number])[] {
  const end = points.length < 2 ? 1 : nines(points.at(-2)![0]) + 0.1;
  return points.map(([percent, value]) => [percent >= 100 ? end : nines(percent), value]);
}

function percentAxis(points: LoadResult["latencyCurve"]): Axis {
  const to = Math.max(1, ...curve(points).map(([x]) => x));
  const ticks = [50, 90, 99, 99.9, 99.99, 99.999, 99.9999].filter((percent) => nines(percent) <= to);
  return { from: 0, to, ticks: ticks.map((percent) => [nines(percent), `${percent}%`]) };
}

function timeAxis(seconds: readonly { readonly at: number }[]): Axis {
  const to = Math.max(1, seconds.at(-1)?.at ?? 1), step = Math.max(1, Math.ceil(to / 8));
  const ticks = Array.from(
    { length: Math.floor(to / step) + 1 },
    (_, i) => [i * step, `${i * step} s`] as const,
  );
  return { from: 0, to, ticks };
}

const width = 480, height = 230, left = 60, right = 26, top = 12, bottom = 26;

/** Lines on two axes, with a legend in words. */
function chart(
  curves: readonly Curve[],
  { x, yName, yLog }: { readonly x: Axis; readonly yName: string; readonly yLog: boolean },
): string {
  const values = curves.flatMap(({ points }) => points.map(([, y]) => y)).filter((y) =>
    Number.isFinite(y) && y > 0
  );
  if (values.length === 0) return `<p class="quiet">Nothing was answered.</p>`;
  const y = yLog ? logAxis(Math.min(...values), Math.max(...values)) : linearAxis(Math.max(...values));
  const scale = (value: number) => yLog ? Math.log10(value) : value;
  const px = (at: number) => left + (at - x.from) / (x.to - x.from) * (width - left - right);
  const py = (at: number) =>
    height - bottom - (scale(at) - y.from) / (y.to - y.from) * (height - top - bottom);
  const line = ({ points, colour }: Curve) => {
    const known = points.filter(([, value]) => Number.isFinite(value) && (!yLog || value > 0));
    const path = known.map(([at, value]) => `${px(at).toFixed(1)},${py(value).toFixed(1)}`).join(" ");
    const only = known.length === 1
      ? `<circle cx="${path.split(",")[0]}" cy="${path.split(",")[1]}" r="3" fill="var(${colour})"/>`
      : "";
    return `<polyline points="${path}" fill="none" stroke="var(${colour})" stroke-width="2"/>${only}`;
  };
  const text = (at: string, label: string, anchor: string) =>
    `<text ${at} text-anchor="${anchor}" font-size="13" fill="var(--quiet)">${escaped(label)}</text>`;
  const grid = [
    ...y.ticks.map(([at, label]) =>
      `<line x1="${left}" x2="${width - right}" y1="${py(at)}" y2="${py(at)}" stroke="var(--line)"/>` +
      text(`x="${left - 6}" y="${py(at) + 4}"`, label, "end")
    ),
    ...x.ticks.map(([at, label]) => text(`x="${px(at)}" y="${height - 8}"`, label, "middle")),
  ];
  const legend = curves.map(({ name, colour }) =>
    `<span style="color:var(${colour})">■ ${escaped(name)}</span>`
  );
  return `<p>${legend.join(" &nbsp; ")} <span class="quiet">(${yName})</span></p>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${
    escaped(curves.map(({ name }) => name).join(", "))
  }">
${grid.join("\n")}
${curves.map(line).join("\n")}
</svg>`;
}

function logAxis(low: number, high: number): Axis {
  const from = Math.floor(Math.log10(low)), to = Math.max(from + 1, Math.ceil(Math.log10(high)));
  const ticks = Array.from(
    { length: to - from + 1 },
    (_, i) => [10 ** (from + i), ms(10 ** (from + i))] as const,
  );
  return { from, to, ticks };
}

function linearAxis(high: number): Axis {
  const rough = high / 4, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((size) => size >= rough)!;
  const to = Math.ceil(high / step) * step;
  const ticks = Array.from(
    { length: Math.round(to / step) + 1 },
    (_, i) => [i * step, whole(i * step)] as const,
  );
  return { from: 0, to, ticks };
}
