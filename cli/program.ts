// What the programs share: one clear line where something is wrong, an exit status, and output in order.

import { flagOf, type Given, helpOf, parseFlags, type Usage, UsageError } from "./flags.ts";

/** Something went wrong that the program's user can mend. */
export class ProgramError extends Error {
  override readonly name = "ProgramError";
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/** Runs a program: its help, its errors as one line on stderr, and its exit status. */
export async function runProgram(
  args: readonly string[],
  usage: Usage,
  run: (given: Given) => Promise<number>,
): Promise<never> {
  const program = usage.name.match(/(\w+)\.ts/)?.[1] ?? usage.name;
  try {
    const given = parseFlags(args, usage);
    if (!given.on("help")) Deno.exit(await run(given));
    await new Output(Deno.stdout).write(helpOf(usage));
    Deno.exit(0);
  } catch (error) {
    const [message, status] = told(error);
    logLine(`${program}: ${message}`);
    Deno.exit(status);
  }
}

/** What to say of an error, and the exit status. */
export function told(error: unknown): [message: string, status: number] {
  if (error instanceof UsageError) return [`${error.message}; --help shows what there is`, 2];
  // The only ranges that a user sets are flags'.
  if (
    error instanceof RangeError ||
    (error instanceof TypeError && error.cause === undefined && /^[a-z]/.test(error.message))
  ) return [`${flagNames(error.message)}; --help shows what there is`, 2];
  if (error instanceof ProgramError) return [error.message, error.status];
  if (error instanceof Deno.errors.BrokenPipe) return ["the reader of the output is gone", 1];
  return [error instanceof Error ? `${error.name}: ${error.message}` : String(error), 1];
}

/** The message with the option that it begins with as the flag that sets it. */
function flagNames(message: string): string {
  return message.replace(/^[a-z]\w*/, (option) => `--${flagOf(option)}`);
}

/** Reads a file that a flag names. */
export function readFlagFile(flag: string, path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) {
      throw new ProgramError(
        `cannot read --${flag} ${path}: Deno does not permit it; run it with deno run -N -R`,
        1,
      );
    }
    throw new UsageError(
      `--${flag} names ${path}, which cannot be read (${error instanceof Error ? error.name : error})`,
    );
  }
}

/** Writes a line to stderr. */
export function logLine(line: string): void {
  const bytes = new TextEncoder().encode(`${line}\n`);
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stderr.writeSync(bytes.subarray(at));
  } catch {
    // Nobody reads the log: that must not stop the program.
  }
}

/** Text that is written in order, many pieces with one write. */
export class Output {
  readonly #sink: { write(bytes: Uint8Array): Promise<number> };
  #text: string[] = [];
  #length = 0;
  #writing: Promise<void> | null = null;

  constructor(sink: { write(bytes: Uint8Array): Promise<number> }) {
    this.#sink = sink;
  }

  /** Adds text. Resolves when it is written; who does not wait for that heeds {@linkcode Output.full}. */
  write(text: string): Promise<void> {
    this.#text.push(text);
    this.#length += text.length;
    return this.#writing ??= this.#write();
  }

  /** Resolves when all is written. */
  async done(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
  }

  /** Null where there is room for more, else resolves when all is written. */
  get full(): Promise<void> | null {
    return this.#length > maxPendingLength ? this.#writing : null;
  }

  async #write(): Promise<void> {
    const encoder = new TextEncoder();
    await Promise.resolve(); // what is written in the same turn leaves with it
    try {
      while (this.#text.length > 0) {
        const bytes = encoder.encode(this.#text.join(""));
        this.#text = [];
        this.#length = 0;
        for (let at = 0; at < bytes.length;) at += await this.#sink.write(bytes.subarray(at));
      }
    } finally {
      this.#writing = null;
    }
  }
}

const maxPendingLength = 1_048_576;
