// The examples that a program's help ends with, run as they stand but for the port.

import { assertEquals } from "@std/assert";
import { Program } from "./program.ts";

/** What an example wrote. */
export interface Ran {
  readonly line: string;
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the three examples of a program's `--help` against the server on `port`, one after the other. */
export async function runExamples(file: string, port: number): Promise<Ran[]> {
  await using program = new Program(file, ["--help"], ["-A"]);
  assertEquals(await program.exit(), 0);
  const lines = program.stdout.split("Examples:\n")[1]!.split("\n").filter((line) =>
    line.startsWith("  deno run ")
  );
  assertEquals(lines.length, 3);
  const ran: Ran[] = [];
  for (const line of lines) {
    const command = line.trim().replace(/^deno /, `exec '${Deno.execPath()}' `).replace(":8888", `:${port}`);
    const { code, stdout, stderr } = await new Deno.Command("bash", {
      args: ["-c", command],
      cwd: new URL("../../", import.meta.url),
      env: { NO_COLOR: "1" },
    }).output();
    const text = new TextDecoder();
    ran.push({ line, code, stdout: text.decode(stdout), stderr: text.decode(stderr) });
  }
  return ran;
}
