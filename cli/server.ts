// The server as a program.

import type { DrainReport, serve, ServerStats } from "../server.ts";
import { limitRanges, type NumericLimit } from "../server/limits.ts";
import { inRange } from "../transport/limit.ts";
import { flagOf, type Given, type Usage } from "./flags.ts";
import { logLine, Output, runProgram } from "./program.ts";
import { shown, startServer } from "./serving.ts";

/** A line of help for each limit. */
const limitHelp: Record<NumericLimit, string> = {
  maxConnections: "connections that may be open",
  maxConnectionsPerAddress: "connections that may be open from one address",
  maxInFlight: "handlers that run for one connection",
  outboundHighWaterBytes: "bytes pending for a peer at which its requests are not read",
  outboundLowWaterBytes: "bytes pending for a peer at which they are read again",
  maxBufferedBytes: "bytes of incomplete frames over all connections",
  connTimeoutMs: "how long a connection may be without the session that is demanded",
  frameTimeoutMs: "how long a frame may take, and a second more for each 16 KiB",
  idleTimeoutMs: "how long nothing may move on a connection",
  handlerTimeoutMs: "how long a handler may take",
  writeTimeoutMs: "how long a peer may accept nothing of what is pending",
  drainTimeoutMs: "how long peers have to close when the server stops",
  handshakeTimeoutMs: "how long a TLS handshake or a PROXY header may take",
};

const limitFlags = Object.fromEntries(
  Object.entries(limitRanges).map(([name, { otherwise }]) => [flagOf(name), {
    kind: "integer" as const,
    value: name.endsWith("Ms") ? "MS" : name.endsWith("Bytes") ? "BYTES" : "N",
    help: `${limitHelp[name as NumericLimit]} (${otherwise === Infinity ? "off" : otherwise})`,
  }]),
);

const usage: Usage = {
  name: "deno run -N server.ts",
  summary: "Serves the submit protocol and accepts whatever is submitted.",
  flags: {
    hostname: { kind: "text", value: "ADDRESS", help: "where to listen (127.0.0.1)" },
    port: { kind: "integer", value: "PORT", help: "the port to listen on; 0 takes a free one (8888)" },
    unix: {
      kind: "text",
      value: "PATH",
      help: "a Unix socket to listen on in place of a port (needs -R -W)",
    },
    cert: { kind: "text", value: "FILE", help: "the certificate chain for TLS, in PEM (needs -R)" },
    key: { kind: "text", value: "FILE", help: "its key, in PEM" },
    "proxy-from": {
      kind: "text",
      value: "LIST",
      help: "proxies that send a PROXY header, as 10.0.0.0/8,::1",
    },
    "token-file": { kind: "text", value: "FILE", help: "demand a CONN with what the file holds (needs -R)" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    "max-frame-length": {
      kind: "integer",
      value: "BYTES",
      help: "the longest frame that is accepted (1048576)",
    },
    print: { kind: "switch", help: "write each SUBMIT to stdout, as a line of JSON" },
    quiet: { kind: "switch", help: "log errors alone" },
    workers: {
      kind: "integer",
      value: "N",
      help: "Workers that share the port, one for a core each (1; needs -R)",
    },
    "when-full": { kind: ["refuse", "wait"], help: "what becomes of connections over the limit (refuse)" },
    ...limitFlags,
  },
  examples: [
    ["A server on the usual port, that logs connections", "deno run -N server.ts"],
    ["Show what is submitted, on a free port", "deno run -N server.ts --port 0 --print"],
    [
      "Stand in for the legacy server, and cut who sends nothing for a minute",
      "deno run -N server.ts --port 0 --dialect legacy --idle-timeout-ms 60000",
    ],
  ],
};

/** More Workers than this is a slip of the finger. */
const maxWorkers = 256;

/** Runs the program, to its end. `start` is the library's `serve`. */
export function runServer(args: readonly string[], start: typeof serve): Promise<never> {
  return runProgram(args, usage, (given) => run(given, args, start));
}

/** The program's usage, for its workers. */
export { usage };

async function run(given: Given, args: readonly string[], start: typeof serve): Promise<number> {
  const output = new Output(Deno.stdout), failed = Promise.withResolvers<never>();
  const write = (text: string) => void output.write(text).catch(failed.reject);
  const workers = given.integer("workers") ?? 1;
  inRange("workers", workers, 1, maxWorkers);
  const server = workers > 1
    ? await (await import("./workers.ts")).Workers.start(given, args, write, () => output.full)
    : alone(given, start, write, () => output.full);
  write(`listening on ${server.addrs.map(shown).join(" and ")}\n`);
  let asked = false;
  const stop = () => {
    if (asked) server.cut();
    asked = true;
    server.shutdown();
  };
  for (const signal of stopSignals()) Deno.addSignalListener(signal, stop);
  if (Deno.build.os !== "windows") {
    Deno.addSignalListener(
      "SIGUSR2",
      () => void server.stats().then((stats) => logLine(JSON.stringify(stats))),
    );
  }
  const { answered, cut } = await Promise.race([server.finished, failed.promise]);
  await Promise.race([output.done(), failed.promise]);
  logLine(`drained: ${answered} answered, ${cut} cut`);
  return 0;
}

/** What the program needs of a server, be it one or many. */
export interface Running {
  readonly addrs: readonly Deno.Addr[];
  readonly finished: Promise<DrainReport>;
  shutdown(): void;
  cut(): void;
  stats(): Promise<ServerStats>;
}

function alone(
  given: Given,
  start: typeof serve,
  write: (text: string) => void,
  full: () => Promise<void> | null,
): Running {
  const control = new AbortController();
  const server = startServer(given, start, {
    write,
    full,
    log: logLine,
    signal: control.signal,
    numberOf: (connection) => connection,
  });
  return {
    addrs: server.addrs,
    finished: server.finished.then(() => server.shutdown()),
    shutdown: () => void server.shutdown(),
    cut: () => control.abort(new Error("stopped by a second signal")),
    stats: () => Promise.resolve(server.stats()),
  };
}

function stopSignals(): Deno.Signal[] {
  return Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
}
