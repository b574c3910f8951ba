// Connecting: one attempt, bounded in time, with errors that a caller can tell apart.

import type { FrameFormat } from "../codec/mod.ts";
import { Connection, type ConnectionOptions } from "./connection.ts";
import { after, Ticker } from "./deadline.ts";
import { SlabPool } from "./slab.ts";

/** Why a {@linkcode ConnectError} was thrown. */
export type ConnectErrorCode =
  /** Nobody listens there. */
  | "refused"
  /** The name has no address. */
  | "name-not-found"
  /** No answer within `connectTimeoutMs`. */
  | "timeout"
  /** The server refused the session that CONN asked for; see `result`. */
  | "session-refused"
  /** Anything else; see `cause`. */
  | "failed";

/**
 * A connection could not be made. (An aborted `signal` rejects with the signal's reason instead, and a denied
 * permission with Deno's own error.)
 *
 * @example
 * ```ts
 * import { ConnectError, connectFrames } from "@framewire/framewire/client";
 * import { assertRejects } from "@std/assert";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const { port } = listener.addr;
 * listener.close();
 * const error = await assertRejects(() => connectFrames({ port }), ConnectError);
 * console.assert(error.code === "refused" && error.port === port);
 * ```
 */
export class ConnectError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "ConnectError";
  /** Why. */
  readonly code: ConnectErrorCode;
  /** The host that was asked for. */
  readonly hostname: string;
  /** The port that was asked for. */
  readonly port: number;
  /** What the server answered to CONN, from 1 to 255; null where it did not come to that. */
  readonly result: number | null;

  /** Takes the code, what happened, and where. */
  constructor(
    code: ConnectErrorCode,
    what: string,
    { hostname, port, result = null, cause }: {
      hostname: string;
      port: number;
      result?: number | null;
      cause?: unknown;
    },
  ) {
    super(`Cannot connect to ${hostname}:${port}: ${what}`, { cause });
    this.code = code;
    this.hostname = hostname;
    this.port = port;
    this.result = result;
  }
}

/** Options that all ways to connect have. */
export interface DialOptions {
  /** The server's name or address. @default {"127.0.0.1"} */
  hostname?: string;
  /** The server's port. @default {8888} */
  port?: number;
  /** Gives up connecting when it is aborted. Once connected, it does nothing. */
  signal?: AbortSignal;
  /** How long to wait for the connection, and for the session where one is asked for. @default {10_000} */
  connectTimeoutMs?: number;
  /** How long the server may accept no byte of what is pending, before it is given up. @default {30_000} */
  writeTimeoutMs?: number;
  /**
   * Overwrite memory that is used again, so that bytes that were kept without a copy are noticed. For tests.
   *
   * @default {false}
   */
  poison?: boolean;
}

/** A connection that was dialled. */
export interface Dialled {
  readonly connection: Connection;
  readonly options: ConnectionOptions;
  readonly hostname: string;
  readonly port: number;
}

/** Bytes that wait to be accepted by the server, beyond which a client takes no more. */
const outboundHighWaterBytes = 1_048_576;

/**
 * Connects.
 *
 * @throws {ConnectError} If that cannot be done.
 */
export async function dial(options: DialOptions, format: FrameFormat): Promise<Dialled> {
  const {
    hostname = "127.0.0.1",
    port = 8888,
    signal,
    connectTimeoutMs = 10_000,
    writeTimeoutMs = 30_000,
    poison = false,
  } = options;
  if (!(connectTimeoutMs > 0)) {
    throw new RangeError(`connectTimeoutMs must be above 0, and is ${connectTimeoutMs}`);
  }
  if (!(writeTimeoutMs > 0)) throw new RangeError(`writeTimeoutMs must be above 0, and is ${writeTimeoutMs}`);
  signal?.throwIfAborted();
  const socket = await open(hostname, port, signal, connectTimeoutMs);
  socket.setNoDelay(true);
  const ticker = new Ticker(writeTimeoutMs);
  const connectionOptions = {
    format,
    slabs: new SlabPool({ poison }),
    outboundHighWaterBytes,
    outboundLowWaterBytes: outboundHighWaterBytes / 4,
    writeTimeoutMs,
    ticker,
  };
  const connection = new Connection(socket, socket.remoteAddr, connectionOptions);
  ticker.add(connection);
  connection.closed.then(() => ticker.delete(connection));
  return { connection, options: connectionOptions, hostname, port };
}

async function open(
  hostname: string,
  port: number,
  signal: AbortSignal | undefined,
  connectTimeoutMs: number,
): Promise<Deno.TcpConn> {
  const late = new AbortController();
  using _deadline = after(connectTimeoutMs, () => late.abort());
  try {
    return await Deno.connect({
      hostname,
      port,
      signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
    });
  } catch (error) {
    signal?.throwIfAborted();
    const where = { hostname, port, cause: error };
    if (late.signal.aborted) {
      throw new ConnectError("timeout", `no answer within ${connectTimeoutMs} ms`, where);
    }
    if (error instanceof Deno.errors.NotCapable) throw error;
    if (error instanceof Deno.errors.ConnectionRefused) {
      throw new ConnectError("refused", "nobody listens there", where);
    }
    const message = error instanceof Error ? error.message : String(error);
    // Deno has no class and no code for it.
    if (/failed to lookup address/.test(message)) throw new ConnectError("name-not-found", message, where);
    throw new ConnectError("failed", message, where);
  }
}
