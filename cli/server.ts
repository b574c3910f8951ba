// The server as a program.

import type { serve, ServeOptions, ServerEvent, Submit } from "../server.ts";
import type { Given, Usage } from "./flags.ts";
import { logLine, Output, ProgramError, runProgram } from "./program.ts";

const usage: Usage = {
  name: "deno run -N server.ts",
  summary: "Serves the submit protocol and accepts whatever is submitted.",
  flags: {
    hostname: { kind: "text", value: "ADDRESS", help: "where to listen (127.0.0.1)" },
    port: { kind: "integer", value: "PORT", help: "the port to listen on; 0 takes a free one (8888)" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    "max-frame-length": {
      kind: "integer",
      value: "BYTES",
      help: "the longest frame that is accepted (1048576)",
    },
    print: { kind: "switch", help: "write each SUBMIT to stdout, as a line of JSON" },
    quiet: { kind: "switch", help: "log errors alone" },
  },
  examples: [
    ["A server on the usual port, that logs connections", "deno run -N server.ts"],
    ["Show what is submitted, on a free port", "deno run -N server.ts --port 0 --print"],
    [
      "Stand in for the legacy server, for frames of at most 64 KiB",
      "deno run -N server.ts --port 0 --dialect legacy --max-frame-length 65536",
    ],
  ],
};

/** Runs the program, to its end. `start` is the library's `serve`. */
export function runServer(args: readonly string[], start: typeof serve): Promise<never> {
  return runProgram(args, usage, (given) => run(given, start));
}

async function run(given: Given, start: typeof serve): Promise<number> {
  const quiet = given.on("quiet"), output = new Output(Deno.stdout);
  const cut = new AbortController(), failed = Promise.withResolvers<never>();
  const write = (text: string) => output.write(text).catch(failed.reject);
  const hostname = given.text("hostname") ?? "127.0.0.1", port = given.integer("port") ?? 8888;
  const options: ServeOptions = {
    hostname,
    port,
    signal: cut.signal,
    onListen: (addr) => void write(`listening on ${shown(addr)}\n`),
    onEvent: (event) => log(event, quiet),
  };
  const dialect = given.text("dialect"), maxFrameLength = given.integer("max-frame-length");
  if (dialect !== undefined) options.dialect = dialect as "spec" | "legacy";
  if (maxFrameLength !== undefined) options.maxFrameLength = maxFrameLength;
  const server = listen(
    () =>
      start(
        options,
        !given.on("print") ? () => {} : (submit, peer) => {
          write(`${jsonLine(peer.number, submit)}\n`);
          return output.full?.then(() => {});
        },
      ),
    hostname,
    port,
  );
  let asked = false;
  const stop = () => {
    if (asked) return cut.abort(new Error("stopped by a second signal"));
    asked = true;
    server.shutdown();
  };
  for (const signal of stopSignals()) Deno.addSignalListener(signal, stop);
  await Promise.race([server.finished, failed.promise]);
  return 0;
}

function listen<T>(start: () => T, hostname: string, port: number): T {
  const where = `${hostname}:${port}`;
  try {
    return start();
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) {
      throw new ProgramError(
        `cannot listen on ${where}: the port is in use; choose another with --port, 0 for a free one`,
        1,
      );
    }
    if (error instanceof Deno.errors.NotCapable) {
      throw new ProgramError(
        `cannot listen on ${where}: Deno does not permit it; run it with deno run -N`,
        1,
      );
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new ProgramError(
        `cannot listen on ${where}: the system does not permit it; choose a --port from 1024 on`,
        1,
      );
    }
    if (error instanceof RangeError || !(error instanceof Error)) throw error;
    throw new ProgramError(`cannot listen on ${where}: ${error.message}; see --hostname and --port`, 1);
  }
}

/** A SUBMIT as JSON: as text where it is UTF-8, byte for byte. */
function jsonLine(connection: number, { id, payload }: Submit): string {
  try {
    return JSON.stringify({ connection, id, payload: exactUtf8.decode(payload) });
  } catch {
    return JSON.stringify({ connection, id, payloadBase64: payload.toBase64() });
  }
}

/** Keeps a byte order mark, and refuses what is no UTF-8. */
const exactUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function log(event: ServerEvent, quiet: boolean): void {
  switch (event.type) {
    case "protocol-error":
    case "handler-error":
      return logLine(`connection ${event.connection}: ${event.type}: ${messageOf(event.error)}`);
    case "handler-timeout":
      return logLine(`connection ${event.connection}: ${event.type}`);
    case "accept-error":
      return logLine(`cannot accept a connection: ${messageOf(event.error)}; trying again`);
    case "opened":
      return quiet
        ? undefined
        : logLine(`connection ${event.connection} opened from ${shown(event.remoteAddr)}`);
    case "closed": {
      if (quiet) return;
      const { code, error, bytesRead, bytesWritten } = event.reason;
      const why = error === null ? code : `${code}: ${messageOf(error)}`;
      return logLine(
        `connection ${event.connection} closed, ${why} (${bytesRead} B read, ${bytesWritten} B written)`,
      );
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function shown(addr: Deno.Addr): string {
  if (!("hostname" in addr)) return addr.transport;
  return addr.hostname.includes(":") ? `[${addr.hostname}]:${addr.port}` : `${addr.hostname}:${addr.port}`;
}

function stopSignals(): Deno.Signal[] {
  return Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
}
