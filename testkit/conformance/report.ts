// What is said of a run? As lines of text for a terminal, and as the model that all reports are made of.

import { dumpRows, FrameMarker } from "../hex.ts";
import { submitFormat } from "../../codec/mod.ts";
import type { WireEvent } from "../wire.ts";
import { type CaseResult, isBad, shownClosing } from "./result.ts";

/** One target and what became of the cases. */
export interface TargetReport {
  /** An address, or the command that was run. */
  readonly target: string;
  readonly results: readonly CaseResult[];
}

/** A whole run. */
export interface RunReport {
  /** What was judged. */
  readonly side: "server" | "client";
  readonly dialect: string;
  readonly maxFrameLength: number;
  readonly strict: boolean;
  /** When it began, as ISO 8601 in UTC. */
  readonly startedAt: string;
  readonly durationMs: number;
  readonly targets: readonly TargetReport[];
}

/** How many results there are of each status. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly errors: number;
  readonly skipped: number;
}

/** Counts results. */
export function countsOf(results: readonly CaseResult[]): Counts {
  const count = (status: CaseResult["status"]) => results.filter((result) => result.status === status).length;
  return {
    passed: count("passed"),
    failed: count("failed"),
    errors: count("error"),
    skipped: count("skipped"),
  };
}

/** The last line of a run. Cases that could not be judged are failed ones here: the exit status is theirs too. */
export function summaryLine(results: readonly CaseResult[]): string {
  const { passed, failed, errors, skipped } = countsOf(results);
  return `${results.length} cases: ${passed} passed, ${failed + errors} failed, ${skipped} skipped`;
}

/** A result as it is known: a line. */
export function resultLine({ id, status, description, durationMs }: CaseResult): string {
  return `${status.padEnd(7)} ${id.padEnd(7)} ${description}${
    durationMs >= 1000 ? ` (${seconds(durationMs)})` : ""
  }`;
}

/** What there is to say of a case that failed: the requirement, what was accepted, what came, and the wire. */
export function failureLines(result: CaseResult, maxFrameLength: number): string[] {
  const { id, level, group, description, requirement, accepted, closing, behaviour, closed, reason } = result;
  return [
    `× ${id} ${description} (${level}, ${group})`,
    `  requirement  ${requirement}`,
    ...accepted.map((outcome, index) => `  ${index === 0 ? "accepted     " : "             "}${outcome}`),
    ...(reason !== null
      ? [`  not judged   ${reason}`]
      : [`  came         ${behaviour?.ok ? "what was accepted" : behaviour?.came}`]),
    ...(closed === null ? [] : [
      `  closing      ${closed.came}${
        closed.ok ? "" : `; accepted: ${closing.map(shownClosing).join(" or ")}`
      }`,
    ]),
    ...result.wires.flatMap((wire, index) => [
      `  wire ${index + 1}${index === 0 ? "" : " of the same case"}`,
      ...wireLines(wire, maxFrameLength).map((line) => `    ${line}`),
    ]).slice(0, maxWireLines),
  ];
}

/** Who sent what when: hex with the boundaries of frames, so many bytes in a row. */
export function wireLines(events: readonly WireEvent[], maxFrameLength: number, width = 16): string[] {
  const format = submitFormat(maxFrameLength),
    markers = { us: new FrameMarker(format), them: new FrameMarker(format) };
  // Where bytes were not kept, nobody knows where the next frame begins.
  const cut = { us: false, them: false };
  const lines: string[] = [];
  for (const { atMs, by, what, bytes, length } of events) {
    const who = by === "us" ? "kit    →" : "target →";
    lines.push(
      `${`+${atMs.toFixed(1)} ms`.padStart(10)}  ${who} ${
        what === "bytes" ? `${length} B` : what.toUpperCase()
      }`,
    );
    if (what !== "bytes") continue;
    const marks = cut[by] ? undefined : markers[by].mark(bytes);
    const shown = bytes.subarray(0, maxDumpBytes);
    lines.push(...dumpRows(shown, marks, length, width).map((row) => `  ${row}`));
    if (bytes.length < length) cut[by] = true;
  }
  return lines;
}

/** The end of a run's text: what is skipped and why, all failures again, and the sums. */
export function endLines({ targets, maxFrameLength }: RunReport): string[] {
  const lines: string[] = [];
  for (const { target, results } of targets) {
    const bad = results.filter(isBad), reasons = new Map<string, string[]>();
    for (const { status, reason, id } of results) {
      if (status === "skipped") reasons.set(reason!, [...reasons.get(reason!) ?? [], id]);
    }
    if (targets.length > 1) lines.push("", target);
    for (const [reason, ids] of reasons) lines.push(`skipped ${ids.join(", ")}: ${reason}`);
    for (const result of bad) lines.push("", ...failureLines(result, maxFrameLength));
    if (bad.length > 0) lines.push("");
    lines.push(summaryLine(results));
  }
  return lines;
}

/** The run as JSON. docs/testkit.md says what the fields mean. */
export function jsonReport(report: RunReport): string {
  const targets = report.targets.map(({ target, results }) => ({
    target,
    counts: countsOf(results),
    results: results.map(({ wires, ...result }) => ({
      ...result,
      wires: wires.map((wire) => wire.map(({ bytes, ...event }) => ({ ...event, hex: bytes.toHex() }))),
    })),
  }));
  return `${JSON.stringify({ ...report, targets }, null, 2)}\n`;
}

/** The run as JUnit XML: a test suite for each target, a class for each group. */
export function junitReport(report: RunReport): string {
  const suites = report.targets.map(({ target, results }) => {
    const { failed, errors, skipped } = countsOf(results);
    const time = results.reduce((sum, { durationMs }) => sum + durationMs, 0) / 1000;
    const cases = results.map((result) => {
      const { id, group, description, durationMs, status, reason } = result;
      const attributes =
        `name="${xml(`${id} ${description}`)}" classname="${xml(`conformance.${report.side}.${group}`)}"` +
        ` time="${(durationMs / 1000).toFixed(3)}"`;
      if (status === "passed") return `    <testcase ${attributes}/>`;
      if (status === "skipped") {
        return `    <testcase ${attributes}><skipped message="${xml(reason!)}"/></testcase>`;
      }
      const { behaviour, closed } = result;
      const message = reason ?? (behaviour!.ok ? `the connection was ${closed!.came}` : behaviour!.came);
      const element = status === "error" ? "error" : "failure";
      const text = failureLines(result, report.maxFrameLength).join("\n");
      return `    <testcase ${attributes}><${element} type="${result.level}" message="${xml(message)}">${
        xml(text)
      }</${element}></testcase>`;
    });
    return `  <testsuite name="${
      xml(target)
    }" tests="${results.length}" failures="${failed}" errors="${errors}" ` +
      `skipped="${skipped}" time="${time.toFixed(3)}" timestamp="${report.startedAt.slice(0, 19)}">\n${
        cases.join("\n")
      }\n  </testsuite>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="conformance">\n${
    suites.join("\n")
  }\n</testsuites>\n`;
}

/** Milliseconds as seconds. */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Text for XML, which knows no control characters. */
function xml(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex
    /[&<>"\x00-\x08\x0b\x0c\x0e-\x1f]/g,
    (character) => character < " " ? "\ufffd" : `&#${character.charCodeAt(0)};`,
  );
}

const maxDumpBytes = 256;
const maxWireLines = 120;
