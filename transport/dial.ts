// Connecting: one attempt, bounded in time, with errors that a caller can tell apart.

import type { FrameFormat } from "../codec/mod.ts";
import { Connection, type ConnectionOptions } from "./connection.ts";
import { after, Ticker } from "./deadline.ts";
import type { ByteSocket } from "./duplex.ts";
import { inRange } from "./limit.ts";
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
  /** The host that was asked for, or the path. */
  readonly hostname: string;
  /** The port that was asked for; 0 where it was a path. */
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
    super(`Cannot connect to ${port === 0 ? hostname : `${hostname}:${port}`}: ${what}`, { cause });
    this.code = code;
    this.hostname = hostname;
    this.port = port;
    this.result = result;
  }
}

/** Where a server is. */
export interface ServerAddress {
  /** The server's name or address. @default {"127.0.0.1"} */
  hostname?: string;
  /** The server's port. @default {8888} */
  port?: number;
  /** The server's Unix socket, in place of a port. */
  path?: string;
}

/** Options that all ways to connect have. */
export interface DialOptions extends ServerAddress {
  /**
   * Makes the socket in place of dialling; called for each try. The socket is the client's from then on: it closes
   * it. TLS, `setNoDelay` and the like are the maker's business; `hostname` and `port` only name the server.
   */
  openSocket?: () => ByteSocket | PromiseLike<ByteSocket>;
  /** Speaks TLS. @default {whether `caCerts` or `alpnProtocols` is given} */
  tls?: boolean;
  /** Certificates to trust besides the system's, in PEM. */
  caCerts?: string[];
  /** The protocols that TLS may agree on, the preferred one first. */
  alpnProtocols?: string[];
  /** Gives up connecting when it is aborted. Once connected, it does nothing. */
  signal?: AbortSignal;
  /** How long to wait for a connection, TLS included, and as long again for a session. @default {10_000} */
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
  /** Whether what was given to the socket may lie in TLS, so that nobody knows what left. */
  readonly tls: boolean;
}

/**
 * Connects.
 *
 * @throws {ConnectError} If that cannot be done.
 */
export async function dial(options: DialOptions, format: FrameFormat): Promise<Dialled> {
  const { hostname = "127.0.0.1", port = 8888, path, signal, connectTimeoutMs = 10_000 } = options;
  const { writeTimeoutMs = 30_000, poison = false } = options;
  positive("connectTimeoutMs", connectTimeoutMs);
  positive("writeTimeoutMs", writeTimeoutMs);
  inRange("port", port, 0, 65_535);
  signal?.throwIfAborted();
  const socket = await open(options, hostname, port, connectTimeoutMs);
  const ticker = new Ticker(writeTimeoutMs);
  const connectionOptions = {
    format,
    slabs: new SlabPool({ poison }),
    limits: { writeTimeoutMs, frameTimeoutMs: Infinity, idleTimeoutMs: Infinity },
    ticker,
    budget: null,
  };
  const remoteAddr = "remoteAddr" in socket
    ? socket.remoteAddr as Deno.Addr
    : { transport: "tcp", hostname, port } as const;
  const connection = new Connection(socket, remoteAddr, connectionOptions);
  const ticking = { tick: (now: number) => connection.tick(now, true) };
  ticker.add(ticking);
  connection.closed.then(() => ticker.delete(ticking));
  return {
    connection,
    options: connectionOptions,
    hostname: path ?? hostname,
    port: path === undefined ? port : 0,
    tls: "handshake" in socket,
  };
}

/** @throws {RangeError} If a time is not above 0. */
export function positive(field: string, ms: number): void {
  if (!(typeof ms === "number" && ms > 0)) throw new RangeError(`${field} must be above 0, and is ${ms}`);
}

async function open(
  options: DialOptions,
  hostname: string,
  port: number,
  connectTimeoutMs: number,
): Promise<ByteSocket> {
  const {
    openSocket,
    path,
    signal,
    caCerts,
    alpnProtocols,
    tls = caCerts !== undefined || alpnProtocols !== undefined,
  } = options;
  const late = new AbortController();
  using _deadline = after(connectTimeoutMs, () => late.abort());
  const given = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
  let socket: ByteSocket | undefined;
  // What goes on without a signal of its own is ended by closing the socket under it.
  const cut = () => socket?.[Symbol.dispose]();
  given.addEventListener("abort", cut, { once: true });
  try {
    if (openSocket !== undefined) return socket = await unlessAborted(openSocket(), given);
    if (path !== undefined) return socket = await Deno.connect({ transport: "unix", path });
    const tcp = socket = await Deno.connect({ hostname, port, signal: given });
    tcp.setNoDelay(true);
    tcp.setKeepAlive(true);
    if (!tls) return tcp;
    const secure = await Deno.startTls(tcp, {
      hostname,
      ...(caCerts ? { caCerts } : {}),
      ...(alpnProtocols ? { alpnProtocols } : {}),
    });
    socket = secure;
    given.throwIfAborted();
    await secure.handshake();
    return secure;
  } catch (error) {
    cut();
    signal?.throwIfAborted();
    const where = { hostname: path ?? hostname, port: path === undefined ? port : 0, cause: error };
    if (late.signal.aborted) {
      throw new ConnectError("timeout", `no answer within ${connectTimeoutMs} ms`, where);
    }
    if (error instanceof Deno.errors.NotCapable) throw error;
    if (error instanceof Deno.errors.ConnectionRefused || error instanceof Deno.errors.NotFound) {
      throw new ConnectError("refused", "nobody listens there", where);
    }
    const message = error instanceof Error ? error.message : String(error);
    // Deno has no class and no code for it.
    if (/failed to lookup address/.test(message)) throw new ConnectError("name-not-found", message, where);
    throw new ConnectError("failed", message, where);
  } finally {
    given.removeEventListener("abort", cut);
  }
}

/** The socket, unless the signal is aborted before there is one: then it is closed when it comes. */
async function unlessAborted(
  opening: ByteSocket | PromiseLike<ByteSocket>,
  signal: AbortSignal,
): Promise<ByteSocket> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  const opened = Promise.resolve(opening);
  try {
    return await Promise.race([opened, aborted.promise]);
  } catch (error) {
    opened.then((socket) => socket[Symbol.dispose](), () => {});
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
