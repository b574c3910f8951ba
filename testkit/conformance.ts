#!/usr/bin/env -S deno run -A
/**
 * Conformance to the submit protocol (docs/protocol.md): is a server, or a client, what it should be? As a program,
 * `deno run -A testkit/conformance.ts --help` tells more.
 *
 * @module
 */

export type { CaseText, Closing, Group, LaunchedTarget } from "./conformance/case.ts";
export { type ClientConformanceOptions, runClientConformance } from "./conformance/client_runner.ts";
export type { CaseResult, Verdict } from "./conformance/result.ts";
export { type ConformanceOptions, runConformance } from "./conformance/runner.ts";
export type { Selection } from "./conformance/suite.ts";

async function main(): Promise<void> {
  const { runConformanceProgram } = await import("./conformance/program.ts");
  await runConformanceProgram(Deno.args);
}

if (import.meta.main) main();
