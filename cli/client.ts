// The client as a program.

import type { Answer, Client, ClientEvent, CloseReason, connect, ConnectOptions } from "../client.ts";
import { ConnectError } from "../transport/dial.ts";
import { flagOf, type Given, type Usage, UsageError } from "./flags.ts";
import { linesOf, LongLineError } from "./lines.ts";
import { logLine, Output, ProgramError, readFlagFile, runProgram } from "./program.ts";
import { readToken } from "./token.ts";

const usage: Usage = {
  name: "deno run -N client.ts",
  summary: "Submits messages, or the lines of its input, and prints the id and the result of each answer.",
  words: "[MESSAGE …]",
  flags: {
    hostname: { kind: "text", value: "ADDRESS", help: "the server's name or address (127.0.0.1)" },
    port: { kind: "integer", value: "PORT", help: "the server's port (8888)" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    "max-frame-length": {
      kind: "integer",
      value: "BYTES",
      help: "the longest frame that is sent or accepted (1048576)",
    },
    window: { kind: "integer", value: "N", help: "how many requests may wait for their answers (256)" },
    name: { kind: "text", value: "NAME", help: "open a session under this name first" },
    "token-file": { kind: "text", value: "FILE", help: "open a session with what the file holds (needs -R)" },
    unix: { kind: "text", value: "PATH", help: "the server's Unix socket, in place of a port (needs -R -W)" },
    tls: { kind: "switch", help: "speak TLS" },
    ca: { kind: "text", value: "FILE", help: "a certificate to trust, in PEM; speaks TLS (needs -R)" },
    reconnect: { kind: "switch", help: "connect again where the connection is lost" },
    idempotent: { kind: "switch", help: "then send again also what may have been handled" },
    "connect-timeout-ms": { kind: "integer", value: "MS", help: "how long to wait for a connection (10000)" },
    "request-timeout-ms": { kind: "integer", value: "MS", help: "how long to wait for an answer (30000)" },
    "write-timeout-ms": {
      kind: "integer",
      value: "MS",
      help: "how long the server may accept nothing of what is pending (30000)",
    },
  },
  examples: [
    ["Submit two messages", "deno run -N client.ts hello 'second message'"],
    ["Submit the lines of a file, under a name", "deno run -N client.ts --name logger < README.md"],
    ["Type lines by hand; bye ends it", "deno run -N client.ts --window 1"],
  ],
};

/** Runs the program, to its end. `open` is the library's `connect`. */
export function runClient(args: readonly string[], open: typeof connect): Promise<never> {
  return runProgram(args, usage, (given) => run(given, open));
}

async function run(given: Given, open: typeof connect): Promise<number> {
  const options: ConnectOptions = { reconnect: given.on("reconnect") ? {} : false, onEvent: log };
  const hostname = given.text("hostname"), port = given.integer("port"), name = given.text("name");
  const dialect = given.text("dialect"), window = given.integer("window");
  const maxFrameLength = given.integer("max-frame-length");
  if (hostname !== undefined) options.hostname = hostname;
  if (port !== undefined) options.port = port;
  if (name !== undefined) options.name = name;
  if (dialect !== undefined) options.dialect = dialect as "spec" | "legacy";
  if (window !== undefined) options.window = window;
  if (maxFrameLength !== undefined) options.maxFrameLength = maxFrameLength;
  const path = given.text("unix"), tokenFile = given.text("token-file"), ca = given.text("ca");
  if (path !== undefined) options.path = path;
  if (tokenFile !== undefined) {
    if (name !== undefined) {
      throw new UsageError("--name and --token-file both say what CONN holds; give one");
    }
    options.name = readToken(tokenFile);
  }
  if (given.on("tls")) options.tls = true;
  if (ca !== undefined) options.caCerts = [readFlagFile("ca", ca)];
  for (const limit of ["connectTimeoutMs", "requestTimeoutMs", "writeTimeoutMs"] as const) {
    const value = given.integer(flagOf(limit));
    if (value !== undefined) options[limit] = value;
  }
  const client = await connected(open, options);
  const report = new Report();
  const encoder = new TextEncoder();
  const messages = given.words.length > 0
    ? ReadableStream.from([given.words.map((word) => encoder.encode(word))])
    : ReadableStream.from(input(client, report, maxPayload(maxFrameLength)));
  for await (
    const answers of messages.pipeThrough(client.bulk({ end: true, idempotent: given.on("idempotent") }))
  ) await report.add(answers);
  const reason = await client.end();
  return report.finish(reason.code === "ended");
}

/** Tells of connections lost and made again. */
function log(event: ClientEvent): void {
  switch (event.type) {
    case "disconnected":
      return event.reason.code === "ended"
        ? undefined
        : logLine(`client: the connection was lost: ${reasonOf(event.reason)}`);
    case "reconnecting":
      return logLine(`client: connecting again, try ${event.attempt}, in ${event.delayMs} ms`);
    case "connect-error":
      return logLine(
        `client: ${lowerFirst(event.error instanceof Error ? event.error.message : String(event.error))}`,
      );
  }
}

function reasonOf({ code, error }: CloseReason): string {
  return error instanceof Error ? error.message : code;
}

async function connected(open: typeof connect, options: ConnectOptions): Promise<Client> {
  try {
    return await open(options);
  } catch (error) {
    if (error instanceof ConnectError) {
      throw new ProgramError(`${lowerFirst(error.message)}; ${advice(error, options)}`, 2);
    }
    if (error instanceof Deno.errors.NotCapable) {
      const needs = options.path === undefined ? "-N" : "-N -R -W";
      throw new ProgramError(`cannot connect: Deno does not permit it; run it with deno run ${needs}`, 2);
    }
    throw error;
  }
}

function advice({ code, message }: ConnectError, { path }: ConnectOptions): string {
  const where = path === undefined ? "--hostname and --port" : "--unix";
  switch (code) {
    case "refused":
      return `start the server first, or see ${where}`;
    case "name-not-found":
      return "see --hostname";
    case "session-refused":
      return "see --name and --token-file";
    default:
      return /certificate/.test(message) ? "see --ca and --hostname" : `see ${where}, --tls and --dialect`;
  }
}

/** The lines of the input, an array for each read, up to `bye`, the end, or the end of the connection. */
async function* input(client: Client, report: Report, maxLength: number): AsyncGenerator<Uint8Array[]> {
  let wake = () => {}, gone = false;
  client.closed.then(() => {
    gone = true;
    wake();
  });
  const lines = linesOf(Deno.stdin.readable, maxLength);
  while (!gone) {
    // A promise for each turn: one that lives as long as the client would keep every line that it was raced with.
    const next = await Promise.race([
      lines.next(),
      new Promise<null>((resolve) => wake = () => resolve(null)),
    ]);
    if (next?.done) return;
    if (next === null) break;
    const batch: Uint8Array[] = [];
    for (const line of next.value) {
      if (line instanceof LongLineError) {
        report.skipped(line);
      } else if (isBye(line)) {
        if (batch.length > 0) yield batch;
        return;
      } else {
        batch.push(line);
      }
    }
    if (batch.length > 0) yield batch;
  }
  report.cutShort();
}

/** Prints what became of the requests, as it becomes known. */
class Report {
  readonly #output = new Output(Deno.stdout);
  #failed = 0;
  #skipped = 0;
  #cut = false;

  async add(answers: Answer[]): Promise<void> {
    let text = "";
    for (const { id, outcome, result, error } of answers) {
      if (outcome !== "accepted") this.#failed++;
      if (result !== null) text += `${id} ${result}\n`;
      else logLine(`client: ${id || "a message"} got no answer: ${outcome}${why(error)}`);
    }
    if (text !== "") await this.#output.write(text);
  }

  skipped(error: LongLineError): void {
    this.#skipped++;
    logLine(`client: ${error.message}; see --max-frame-length`);
  }

  /** The connection ended before the input did. */
  cutShort(): void {
    this.#cut = true;
    logLine("client: the connection ended before the input; the rest of it is not read");
  }

  /** Says what is left to say, and gives the exit status. */
  finish(ended: boolean): number {
    if (this.#failed > 0) logLine(`client: ${this.#failed} not accepted`);
    if (this.#skipped > 0) logLine(`client: ${this.#skipped} not sent`);
    return ended && !this.#cut && this.#failed + this.#skipped === 0 ? 0 : 1;
  }
}

/** The cause of a request's failure, where it is the request's own. */
function why(error: Error | undefined): string {
  const cause = error?.cause;
  return cause instanceof Error && (cause.name === "FrameError" || cause.name === "LimitError")
    ? ` (${lowerFirst(cause.message)})`
    : "";
}

function isBye(line: Uint8Array): boolean {
  return line.length === 3 && line[0] === 0x62 && line[1] === 0x79 && line[2] === 0x65;
}

/** What a frame leaves for the payload. */
function maxPayload(maxFrameLength = 1_048_576): number {
  return maxFrameLength - 13;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
