// How is a program started that is to be judged? A command with its port filled in, and the end of it.

import { Wire } from "../wire.ts";
import type { LaunchedTarget } from "./case.ts";

/**
 * The words of a command line: split at blanks, with single and double quotes as in a shell and nothing else of one.
 *
 * @throws {RangeError} If there is none, or a quote is not closed.
 */
export function wordsOf(command: string): string[] {
  const words = command.match(/(?:[^\s"']|"[^"]*"|'[^']*')+|["']/g) ?? [];
  if (words.length === 0) throw new RangeError("server must be a command, and is empty");
  if (words.some((word) => word === '"' || word === "'")) {
    throw new RangeError(`a command has a quote that is not closed: ${command}`);
  }
  return words.map((word) => word.replaceAll(/"([^"]*)"|'([^']*)'/g, "$1$2"));
}

/** A program that was started. */
export class TargetProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<unknown>;
  /** The last of what it wrote to its standard error. */
  errors = "";
  /** Resolves with its exit status when it has ended. */
  readonly exited: Promise<number>;

  /**
   * Starts it, and feeds it an input.
   *
   * @throws {Deno.errors.NotFound} If there is no such program.
   */
  constructor(words: readonly string[], input = "") {
    const [program, ...args] = words;
    this.#child = new Deno.Command(program!, { args, stdin: "piped", stdout: "piped", stderr: "piped" })
      .spawn();
    this.exited = this.#child.status.then(({ code }) => code);
    // Who does not read its input does not have to.
    ReadableStream.from([new TextEncoder().encode(input)]).pipeTo(this.#child.stdin).catch(() => {});
    this.#output = Promise.all([
      this.#child.stdout.pipeTo(new WritableStream()),
      this.#child.stderr.pipeThrough(new TextDecoderStream()).pipeTo(
        new WritableStream({
          write: (text) => void (this.errors = (this.errors + text).slice(-maxErrorLength)),
        }),
      ),
    ]).catch(() => {});
  }

  /** Asks it to stop. */
  terminate(): void {
    this.#kill("SIGTERM");
  }

  /** The bytes of memory that it has reserved for itself, as Linux tells. */
  async memory(): Promise<number> {
    const status = await Deno.readTextFile(`/proc/${this.#child.pid}/status`);
    return Number(status.match(/^VmData:\s*(\d+) kB$/m)?.[1]) * 1024;
  }

  /** Kills it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill("SIGKILL");
    await this.exited;
    await this.#output;
  }

  #kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended.
    }
  }
}

/** A server that was started, on a port that was free. */
export interface StartedServer extends LaunchedTarget {
  /** The bytes of memory that it has reserved for itself. */
  memory(): Promise<number>;
}

/**
 * Starts a server whose command has `{port}` where its port is to stand (`{host}` too, if it likes), and waits until
 * it accepts connections.
 *
 * @throws {Error} If it ends first, or does not accept in time; the message says what it wrote.
 */
export async function startServer(command: string): Promise<StartedServer> {
  const hostname = "127.0.0.1", port = freePort();
  const process = new TargetProcess(wordsOf(command).map((word) => filledIn(word, hostname, port)));
  let status: number | null = null;
  process.exited.then((code) => status = code);
  const endAt = performance.now() + startTimeoutMs;
  while (status === null && performance.now() < endAt) {
    try {
      const wire = await Wire.connect({ hostname, port, signal: AbortSignal.timeout(1000) });
      await wire[Symbol.asyncDispose]();
      return {
        hostname,
        port,
        exited: process.exited,
        terminate: () => process.terminate(),
        memory: () => process.memory(),
        [Symbol.asyncDispose]: () => process[Symbol.asyncDispose](),
      };
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  const what = status === null
    ? `did not accept a connection within ${startTimeoutMs} ms`
    : `ended with ${status}`;
  await process[Symbol.asyncDispose]();
  const said = process.errors.trim().split("\n").at(-1);
  throw new Error(`the server ${what}${said ? `: ${said}` : ""}`);
}

/** A word of a command with what stands for the address filled in. */
export function filledIn(word: string, hostname: string, port: number): string {
  return word.replaceAll("{host}", hostname).replaceAll("{port}", String(port));
}

/** A port that was free a moment ago. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

const startTimeoutMs = 15_000;
const maxErrorLength = 4096;
