// What listens, accepts, counts, and stops? The part that the three doors of the server share.

import { type CloseReason, Connection, type ConnectionOptions } from "../transport/connection.ts";
import { after, Ticker } from "../transport/deadline.ts";
import type { FrameError, FrameFormat, PacketError } from "../codec/mod.ts";
import { SlabPool } from "../transport/slab.ts";
import { Acceptor } from "../transport/acceptor.ts";

/** What a server tells its `onEvent`. `connection` is the connection's number. */
export type ServerEvent =
  /** A connection was accepted. */
  | { readonly type: "opened"; readonly connection: number; readonly remoteAddr: Deno.Addr }
  /** A connection is no more. */
  | { readonly type: "closed"; readonly connection: number; readonly reason: CloseReason }
  /** A peer sent what the protocol does not allow, or ended in mid-frame. Its connection is about to be closed. */
  | { readonly type: "protocol-error"; readonly connection: number; readonly error: FrameError | PacketError }
  /** A handler threw, rejected, or gave back what is no reply. */
  | { readonly type: "handler-error"; readonly connection: number; readonly error: unknown }
  /** A handler took longer than `handlerTimeoutMs`. */
  | { readonly type: "handler-timeout"; readonly connection: number }
  /** A connection could not be accepted, for want of descriptors say. The server tries again. */
  | { readonly type: "accept-error"; readonly error: unknown };

/** What a server has counted since it started. */
export interface ServerStats {
  /** Connections that are open now. */
  connectionsOpen: number;
  /** Connections that were accepted. */
  connectionsAccepted: number;
  /** Bytes read from all connections. */
  bytesRead: number;
  /** Bytes accepted for all connections. */
  bytesWritten: number;
  /** Frames that handlers were called with. */
  handled: number;
  /** Handlers that run now. */
  inFlight: number;
  /** Connections whose peer broke the protocol. */
  protocolErrors: number;
  /** Handlers that threw, rejected, or gave back what is no reply. */
  handlerErrors: number;
  /** Handlers that took longer than `handlerTimeoutMs`. */
  handlerTimeouts: number;
  /** Times that accepting failed. */
  acceptErrors: number;
  /** Calls of `onEvent` that threw. */
  listenerErrors: number;
}

/** Options that all servers have. */
export interface ListenOptions {
  /** The address to listen on. @default {"127.0.0.1"} */
  hostname?: string;
  /** The port to listen on; 0 takes a free one. @default {8888} */
  port?: number;
  /** Cuts all connections and ends the server when it is aborted; see `shutdown` for the polite way. */
  signal?: AbortSignal;
  /** Called when the server can be connected to. */
  onListen?: (addr: Deno.NetAddr) => void;
  /** Called with all that happens; what it throws is counted in `stats()` and hurts nobody. */
  onEvent?: (event: ServerEvent) => void;
  /** Bytes that wait to be accepted by one peer beyond which its requests are not read. @default {1_048_576} */
  outboundHighWaterBytes?: number;
  /** Bytes that wait to be accepted by one peer at which its requests are read again. @default {262_144} */
  outboundLowWaterBytes?: number;
  /** How long no byte may be accepted by a peer that answers wait for, before it is cut. @default {30_000} */
  writeTimeoutMs?: number;
  /** How long `shutdown` waits for answers and for peers to close. @default {10_000} */
  drainTimeoutMs?: number;
  /**
   * Overwrite bytes that handlers were lent as soon as the loan is over, so that a payload that was kept without a
   * copy is noticed. For tests. @default {false}
   */
  poison?: boolean;
}

/** Options of the servers that call a handler for each frame. */
export interface DispatchOptions extends ListenOptions {
  /** Handlers that run for one connection; with more, its requests wait unread. @default {1024} */
  maxInFlight?: number;
  /** How long a handler may take. @default {30_000} */
  handlerTimeoutMs?: number;
}

/** A server that is running, as `Deno.serve` returns one. */
export interface Server extends AsyncDisposable {
  /** Where it listens. */
  readonly addr: Deno.NetAddr;
  /** Resolves when it has stopped and its last connection is gone. */
  readonly finished: Promise<void>;
  /**
   * Stops the polite way: accepts what has connected, closes the listener, finishes what was read, half-closes, and
   * waits for the peers to close, for `drainTimeoutMs` at most. Requests of the submit protocol that come later are
   * answered 4, shutting down, while answers are due.
   */
  shutdown(): Promise<void>;
  /** A snapshot of the counts. */
  stats(): ServerStats;
  /** Lets the server keep the process alive, as it does from the start. */
  ref(): void;
  /** Lets the process end although the server listens. */
  unref(): void;
}

/** What a door makes of a connection. */
export interface Service {
  /** Resolves when it is done with the connection; never rejects. */
  run(): Promise<void>;
  /** Finish what was read, then end. */
  drain(): void;
  /** Called for each tick of the host's ticker. */
  tick(now: number): void;
}

/** The limits, defaults filled in. */
export type Limits = Required<Omit<DispatchOptions, "signal" | "onListen" | "onEvent">>;

/** Fills in the defaults and refuses what is out of range. @throws {RangeError} That names the field. */
export function validLimits(options: DispatchOptions): Limits {
  const limits: Limits = {
    hostname: options.hostname ?? "127.0.0.1",
    port: options.port ?? 8888,
    outboundHighWaterBytes: options.outboundHighWaterBytes ?? 1_048_576,
    outboundLowWaterBytes: options.outboundLowWaterBytes ?? 262_144,
    writeTimeoutMs: options.writeTimeoutMs ?? 30_000,
    drainTimeoutMs: options.drainTimeoutMs ?? 10_000,
    maxInFlight: options.maxInFlight ?? 1024,
    handlerTimeoutMs: options.handlerTimeoutMs ?? 30_000,
    poison: options.poison ?? false,
  };
  inRange("port", limits.port, 0, 65_535);
  inRange("outboundHighWaterBytes", limits.outboundHighWaterBytes, 1);
  inRange("outboundLowWaterBytes", limits.outboundLowWaterBytes, 0, limits.outboundHighWaterBytes);
  inRange("writeTimeoutMs", limits.writeTimeoutMs, 1, maxTimerMs);
  inRange("drainTimeoutMs", limits.drainTimeoutMs, 0, maxTimerMs);
  inRange("maxInFlight", limits.maxInFlight, 1);
  inRange("handlerTimeoutMs", limits.handlerTimeoutMs, 1, maxTimerMs);
  return limits;
}

/** The longest time that a timer can wait. */
const maxTimerMs = 2_147_483_647;

/** @throws {RangeError} If a value is no integer from `minimum` to `maximum`. */
export function inRange(
  field: string,
  value: number,
  minimum: number,
  maximum = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isInteger(value) && value >= minimum && value <= maximum) return;
  throw new RangeError(`${field} must be an integer from ${minimum} to ${maximum}, and is ${value}`);
}

/** The listener, its connections, and their end. */
export class Host implements Server {
  readonly finished: Promise<void>;
  readonly limits: Limits;
  readonly ticker: Ticker;
  readonly counts: ServerStats;
  readonly #listener: Deno.Listener<Deno.TcpConn, Deno.NetAddr>;
  readonly #acceptor: Acceptor;
  readonly #onEvent: ((event: ServerEvent) => void) | undefined;
  readonly #connectionOptions: ConnectionOptions;
  readonly #makeService: (connection: Connection, number: number) => Service;
  readonly #services = new Map<Service, Connection>();
  readonly #finished = Promise.withResolvers<void>();
  #stopping: Promise<void> | null = null;
  #drained: (() => void) | null = null;

  constructor(
    options: ListenOptions,
    limits: Limits,
    format: FrameFormat,
    makeService: (host: Host, connection: Connection, options: ConnectionOptions, number: number) => Service,
  ) {
    const { signal, onListen, onEvent } = options;
    signal?.throwIfAborted();
    this.limits = limits;
    this.ticker = new Ticker(Math.min(limits.handlerTimeoutMs, limits.writeTimeoutMs));
    this.counts = {
      connectionsOpen: 0,
      connectionsAccepted: 0,
      bytesRead: 0,
      bytesWritten: 0,
      handled: 0,
      inFlight: 0,
      protocolErrors: 0,
      handlerErrors: 0,
      handlerTimeouts: 0,
      acceptErrors: 0,
      listenerErrors: 0,
    };
    this.#onEvent = onEvent;
    this.#connectionOptions = {
      format,
      slabs: new SlabPool({ poison: limits.poison }),
      outboundHighWaterBytes: limits.outboundHighWaterBytes,
      outboundLowWaterBytes: limits.outboundLowWaterBytes,
      writeTimeoutMs: limits.writeTimeoutMs,
      ticker: this.ticker,
    };
    this.#makeService = (connection, number) =>
      makeService(this, connection, this.#connectionOptions, number);
    this.finished = this.#finished.promise;
    this.#listener = Deno.listen({ hostname: limits.hostname, port: limits.port });
    this.#acceptor = new Acceptor(this.#listener);
    const abort = () => this.#abort(signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    this.finished.then(() => signal?.removeEventListener("abort", abort));
    this.#acceptor.run((socket) => void this.#serve(socket), (error) => {
      this.counts.acceptErrors++;
      this.emit({ type: "accept-error", error });
    });
    onListen?.(this.addr);
  }

  get addr(): Deno.NetAddr {
    return this.#listener.addr;
  }

  shutdown(): Promise<void> {
    return this.#stopping ??= this.#shutdown();
  }

  stats(): ServerStats {
    const stats = { ...this.counts };
    for (const { bytesRead, out } of this.#services.values()) {
      stats.bytesRead += bytesRead;
      stats.bytesWritten += out.acceptedBytes;
    }
    return stats;
  }

  ref(): void {
    this.#listener.ref();
  }

  unref(): void {
    this.#listener.unref();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.shutdown();
  }

  emit(event: ServerEvent): void {
    if (this.#onEvent === undefined) return;
    try {
      this.#onEvent(event);
    } catch {
      this.counts.listenerErrors++;
    }
  }

  /** Counts and tells a protocol error. */
  protocolError(connection: number, error: FrameError | PacketError): void {
    this.counts.protocolErrors++;
    this.emit({ type: "protocol-error", connection, error });
  }

  /** Counts and tells a handler's failure. */
  handlerError(connection: number, error: unknown): void {
    this.counts.handlerErrors++;
    this.emit({ type: "handler-error", connection, error });
  }

  async #serve(socket: Deno.TcpConn): Promise<void> {
    const number = ++this.counts.connectionsAccepted;
    let remoteAddr: Deno.NetAddr;
    try {
      remoteAddr = socket.remoteAddr;
      socket.setNoDelay(true);
    } catch (error) {
      // Gone before it was served.
      socket[Symbol.dispose]();
      this.counts.acceptErrors++;
      return this.emit({ type: "accept-error", error });
    }
    const connection = new Connection(socket, remoteAddr, this.#connectionOptions);
    const service = this.#makeService(connection, number);
    this.#services.set(service, connection);
    this.counts.connectionsOpen++;
    this.ticker.add(service);
    this.emit({ type: "opened", connection: number, remoteAddr });
    if (this.#stopping) service.drain();
    await service.run();
    const reason = await connection.closed;
    this.ticker.delete(service);
    this.#services.delete(service);
    this.counts.connectionsOpen--;
    this.counts.bytesRead += reason.bytesRead;
    this.counts.bytesWritten += reason.bytesWritten;
    this.emit({ type: "closed", connection: number, reason });
    if (this.#services.size === 0) this.#drained?.();
  }

  async #shutdown(): Promise<void> {
    await this.#acceptor.settle();
    this.#acceptor.close();
    for (const service of this.#services.keys()) service.drain();
    if (this.#services.size > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#drained = resolve;
      using _deadline = after(this.limits.drainTimeoutMs, () => {
        const error = new DOMException(
          `The connection did not end within drainTimeoutMs ${this.limits.drainTimeoutMs}`,
          "TimeoutError",
        );
        for (const connection of this.#services.values()) connection.abort(error, "shutdown");
      });
      await promise;
    }
    this.#finished.resolve();
  }

  #abort(reason: unknown): void {
    this.#acceptor.close();
    for (const connection of this.#services.values()) connection.abort(reason);
    this.shutdown();
  }
}
