// The examples that the programs' help ends with: do they work as they stand?

import { assertEquals, assertMatch } from "@std/assert";
import { Program, serverProgram } from "./support/program.ts";
import { within } from "./support/wait.ts";

const root = new URL("../", import.meta.url);

/** The command lines that `--help` shows at its end. */
async function examples(file: "server.ts" | "client.ts"): Promise<string[]> {
  await using program = new Program(file, ["--help"], []);
  assertEquals(await program.exit(), 0);
  const [, end] = program.stdout.split("Examples:\n");
  return end!.split("\n").filter((line) => line.startsWith("  deno run ")).map((line) => line.trim());
}

/** Runs a command line as a shell would, on a port of the test's own, and feeds it. */
function shell(line: string, port: number, input: string): Deno.ChildProcess {
  const deno = `'${Deno.execPath()}'`;
  const command = line.replace(/^deno /, `exec ${deno} `).replace(
    /(server|client)\.ts(?! --port)/,
    `$1.ts --port ${port}`,
  );
  const child = new Deno.Command("bash", {
    args: ["-c", command],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  writer.write(new TextEncoder().encode(input)).then(() => writer.close()).catch(() => {});
  return child;
}

Deno.test("server.ts --help ends with three examples that listen", async () => {
  const lines = await examples("server.ts");
  assertEquals(lines.length, 3);
  for (const line of lines) {
    const child = shell(line, 0, "");
    const reader = child.stdout.getReader();
    const { value } = await within(reader.read(), `the first line of ${line}`, 30_000);
    assertMatch(new TextDecoder().decode(value), /^listening on 127\.0\.0\.1:\d+\n$/);
    child.kill("SIGTERM");
    const [{ code }, errors] = await within(
      Promise.all([child.status, new Response(child.stderr).text()]),
      `the end of ${line}`,
      30_000,
    );
    await reader.cancel();
    assertEquals([code, errors], [0, "drained: 0 answered, 0 cut\n"]);
  }
});

Deno.test("client.ts --help ends with three examples that get answers", async () => {
  const lines = await examples("client.ts");
  assertEquals(lines.length, 3);
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  for (const line of lines) {
    const { code, stdout, stderr } = await within(
      shell(line, port, "typed\nbye\nnot this\n").output(),
      `the end of ${line}`,
      30_000,
    );
    assertEquals([code, new TextDecoder().decode(stderr)], [0, ""]);
    assertMatch(new TextDecoder().decode(stdout), /^(?:\d{8} 0\n)+$/);
  }
});
