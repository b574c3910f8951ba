// The programs, run as processes, their output read line by line.

import { until, within } from "./wait.ts";

const root = new URL("../../", import.meta.url);

/** A program that runs; disposing of it kills it. */
export class Program implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #read: Promise<unknown>;
  /** What it wrote so far. */
  stdout = "";
  stderr = "";

  constructor(
    file: string,
    args: readonly string[],
    permissions: readonly string[] = ["-N"],
  ) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--frozen", ...permissions, new URL(file, root).pathname, ...args],
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#read = Promise.all([
      this.#collect(this.#child.stdout, (text) => this.stdout += text),
      this.#collect(this.#child.stderr, (text) => this.stderr += text),
    ]);
  }

  get pid(): number {
    return this.#child.pid;
  }

  get stdoutLines(): string[] {
    return this.stdout.split("\n").slice(0, -1);
  }

  /** Writes to its standard input. */
  async type(text: string | Uint8Array): Promise<void> {
    await this.#stdin.write(typeof text === "string" ? new TextEncoder().encode(text) : text);
  }

  /** Ends its standard input. */
  async endInput(): Promise<void> {
    await this.#stdin.close();
  }

  signal(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Waits for a text on its standard output. */
  async says(text: string): Promise<void> {
    await until(
      () => this.stdout.includes(text),
      `${JSON.stringify(text)} on stdout, stderr: ${this.stderr}`,
      30_000,
    );
  }

  /** Waits for a text on its standard error. */
  async logs(text: string): Promise<void> {
    await until(
      () => this.stderr.includes(text),
      `${JSON.stringify(text)} on stderr, so far: ${this.stderr}`,
      30_000,
    );
  }

  /** Its exit status, once all its output is read. */
  async exit(ms = 30_000): Promise<number> {
    const { code } = await within(this.#child.status, `the program's end, stderr: ${this.stderr}`, ms);
    await this.#read;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stdin.abort().catch(() => {});
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    await this.#read;
  }

  async #collect(stream: ReadableStream<Uint8Array>, add: (text: string) => void): Promise<void> {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for await (const bytes of stream) add(decoder.decode(bytes, { stream: true }));
  }
}

/** Starts the server program on a free port. */
export async function serverProgram(...args: string[]): Promise<{ server: Program; port: number }> {
  const server = new Program("server.ts", ["--port", "0", ...args]);
  await server.says("\n");
  const port = Number(server.stdoutLines[0]!.match(/listening on 127\.0\.0\.1:(\d+)/)?.[1]);
  return { server, port };
}

/** Starts the client program for a server on `port`. */
export function clientProgram(port: number, ...args: string[]): Program {
  return new Program("client.ts", ["--port", String(port), ...args]);
}
