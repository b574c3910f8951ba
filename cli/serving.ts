// From flags to a server that runs: the same for the program and for each of its workers.

import type { serve, ServeOptions, Server, ServerEvent, Submit } from "../server.ts";
import { limitRanges, type NumericLimit } from "../server/limits.ts";
import { flagOf, type Given } from "./flags.ts";
import { ProgramError, readFlagFile } from "./program.ts";
import { readToken, tokenCheck } from "./token.ts";

/** What a server that runs writes to, and how it is cut. */
export interface Stage {
  /** Writes text to the program's standard output, in order. */
  readonly write: (text: string) => void;
  /** Null where more may be written, else resolves when it may. */
  readonly full: () => Promise<void> | null;
  readonly log: (line: string) => void;
  readonly signal: AbortSignal;
  /** Makes a connection's number one of its own among all workers. */
  readonly numberOf: (connection: number) => number;
  /** Where the flags' address is not to be taken, and shared. */
  readonly shared?: { readonly port: number };
}

/** Starts the server that the flags ask for. @throws {ProgramError} If it cannot listen. */
export function startServer(given: Given, start: typeof serve, stage: Stage): Server {
  const quiet = given.on("quiet");
  const hostname = given.text("hostname") ?? "127.0.0.1";
  const port = stage.shared?.port ?? given.integer("port") ?? 8888;
  const options: ServeOptions = {
    hostname,
    port,
    signal: stage.signal,
    onEvent: (event) => {
      const line = lineOf(event, quiet, stage.numberOf);
      if (line !== null) stage.log(line);
    },
  };
  if (stage.shared) options.reusePort = true;
  const dialect = given.text("dialect"), maxFrameLength = given.integer("max-frame-length");
  const path = given.text("unix"), proxyFrom = given.text("proxy-from"), tokenFile = given.text("token-file");
  const cert = given.text("cert"), key = given.text("key"), whenFull = given.text("when-full");
  if (dialect !== undefined) options.dialect = dialect as "spec" | "legacy";
  if (whenFull !== undefined) options.whenFull = whenFull as "refuse" | "wait";
  if (maxFrameLength !== undefined) options.maxFrameLength = maxFrameLength;
  if (path !== undefined) options.path = path;
  if (proxyFrom !== undefined) options.proxyFrom = proxyFrom.split(",");
  if (cert !== undefined) options.cert = readFlagFile("cert", cert);
  if (key !== undefined) options.key = readFlagFile("key", key);
  if (tokenFile !== undefined) options.authenticate = tokenCheck(readToken(tokenFile));
  for (const name of Object.keys(limitRanges) as NumericLimit[]) {
    const value = given.integer(flagOf(name));
    if (value !== undefined) options[name] = value;
  }
  const handler = (submit: Submit, peer: { readonly number: number }) => {
    stage.write(`${jsonLine(stage.numberOf(peer.number), submit)}\n`);
    return stage.full()?.then(() => {});
  };
  return listening(
    () => start(options, given.on("print") ? handler : () => {}),
    `${hostname}:${port}`,
    path,
  );
}

function listening<T>(start: () => T, address: string, path: string | undefined): T {
  const what = `cannot listen on ${path ?? address}`;
  try {
    return start();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError || !(error instanceof Error)) throw error;
    throw new ProgramError(`${what}: ${path === undefined ? portAdvice(error) : pathAdvice(error)}`, 1);
  }
}

function portAdvice(error: Error): string {
  if (error instanceof Deno.errors.AddrInUse) {
    return "the port is in use; choose another with --port, 0 for a free one";
  }
  if (error instanceof Deno.errors.NotCapable) return "Deno does not permit it; run it with deno run -N";
  if (error instanceof Deno.errors.PermissionDenied) {
    return "the system does not permit it; choose a --port from 1024 on";
  }
  return `${error.message}; see --hostname and --port`;
}

function pathAdvice(error: Error): string {
  if (error instanceof Deno.errors.AddrInUse) {
    return "the path is in use; remove it, or choose another with --unix";
  }
  if (error instanceof Deno.errors.NotCapable) {
    return "Deno does not permit it; run it with deno run -N -R -W";
  }
  return `${error.message}; see --unix`;
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

/** What to log for an event; null for nothing. */
function lineOf(event: ServerEvent, quiet: boolean, numberOf: (connection: number) => number): string | null {
  const name = "connection" in event && event.connection !== null
    ? `connection ${numberOf(event.connection)}`
    : "";
  switch (event.type) {
    case "protocol-error":
    case "handler-error":
      return `${name}: ${event.type}: ${messageOf(event.error)}`;
    case "accept-error":
      return `cannot accept a connection: ${messageOf(event.error)}; trying again`;
    case "refused":
      return `connection from ${shown(event.remoteAddr)} refused: ${messageOf(event.error)}`;
    case "limit":
      // The others either end a connection, and are told with that, or slow it down, and are counted.
      return event.limit === "handlerTimeoutMs"
        ? `${name}: a handler took longer than ${event.value} ms`
        : null;
    case "authenticated":
      return quiet ? null : `${name}: CONN answered ${event.result}`;
    case "opened":
      return quiet ? null : `${name} opened from ${shown(event.remoteAddr)}`;
    case "closed": {
      const { code, error, limit, bytesRead, bytesWritten } = event.reason;
      if (quiet && limit === null) return null;
      const why = error === null ? code : `${code}: ${messageOf(error)}`;
      return `${name} closed, ${why} (${bytesRead} B read, ${bytesWritten} B written)`;
    }
    case "draining":
    case "drained":
      return null;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An address as it is written. */
export function shown(addr: Deno.Addr): string {
  if ("path" in addr) return addr.path ?? "a Unix socket";
  if (!("hostname" in addr)) return addr.transport;
  return addr.hostname.includes(":") ? `[${addr.hostname}]:${addr.port}` : `${addr.hostname}:${addr.port}`;
}
