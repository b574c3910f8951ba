// What listens, admits, counts, and stops? The part that the three doors of the server share.

import type { FrameError, FrameFormat, PacketError } from "../codec/mod.ts";
import { Acceptor } from "../transport/acceptor.ts";
import {
  type CloseReason,
  Connection,
  type ConnectionOptions,
  FrameBudget,
} from "../transport/connection.ts";
import { after, Ticker } from "../transport/deadline.ts";
import type { ByteSocket } from "../transport/duplex.ts";
import { LimitError, type LimitName } from "../transport/limit.ts";
import { type Endpoint, listen, type ListenAddress, type Socket } from "../transport/listen.ts";
import { ProxyHeaderError } from "../transport/proxy_header.ts";
import { SlabPool } from "../transport/slab.ts";
import { type ConnectionLimitOptions, type Limits, validLimits } from "./limits.ts";

/** What a server tells its `onEvent`. `connection` is the connection's number. */
export type ServerEvent =
  /** A connection was accepted, and its first frame may come. */
  | { readonly type: "opened"; readonly connection: number; readonly remoteAddr: Deno.Addr }
  /** A connection was accepted and closed at once: for a limit, or because its TLS or PROXY front was wrong. */
  | { readonly type: "refused"; readonly remoteAddr: Deno.Addr; readonly error: unknown }
  /** A CONN was decided: `result` 0 opened a session. */
  | { readonly type: "authenticated"; readonly connection: number; readonly result: number }
  /** A connection is no more. */
  | { readonly type: "closed"; readonly connection: number; readonly reason: CloseReason }
  /**
   * A limit was reached; `connection` is null where it is none of a connection's own. A connection that stands at a
   * limit that only slows it down is told about at most once a tick (a second, or a quarter of the shortest limit).
   */
  | {
    readonly type: "limit";
    readonly connection: number | null;
    readonly limit: LimitName;
    readonly value: number;
  }
  /** A peer sent what the protocol does not allow, or ended in mid-frame. Its connection is about to be closed. */
  | { readonly type: "protocol-error"; readonly connection: number; readonly error: FrameError | PacketError }
  /** A handler threw, rejected, or gave back what is no reply. */
  | { readonly type: "handler-error"; readonly connection: number; readonly error: unknown }
  /** A connection could not be accepted, for want of descriptors say. The server tries again. */
  | { readonly type: "accept-error"; readonly error: unknown }
  /** `shutdown` was called, with so many connections open; told again as each of them ends. */
  | { readonly type: "draining"; readonly connectionsOpen: number }
  /** The server has stopped. */
  | { readonly type: "drained"; readonly report: DrainReport };

/** What a server has counted since it started. */
export interface ServerStats {
  /** Connections that are open now. */
  connectionsOpen: number;
  /** Connections that were accepted, those refused included. */
  connectionsAccepted: number;
  /** Connections that were refused: for a limit, or because their TLS or PROXY front was wrong. */
  connectionsRefused: number;
  /** Bytes read from all connections. */
  bytesRead: number;
  /** Bytes accepted for all connections. */
  bytesWritten: number;
  /** Frames that handlers were called with. */
  handled: number;
  /** Requests that were answered, or replied to, after handling. */
  answered: number;
  /** Requests whose handlers ran when their connection was lost. */
  cut: number;
  /** Handlers that run now. */
  inFlight: number;
  /** Connections whose peer broke the protocol. */
  protocolErrors: number;
  /** Handlers that threw, rejected, or gave back what is no reply. */
  handlerErrors: number;
  /** Times that accepting failed. */
  acceptErrors: number;
  /** Calls of `onEvent` that threw. */
  listenerErrors: number;
  /** How often each limit was reached. */
  limits: Record<LimitName, number>;
}

/** What became of the requests that were under way when a server was told to stop. */
export interface DrainReport {
  /** Requests answered since, after handling. */
  readonly answered: number;
  /** Requests whose connection was lost, or cut at `drainTimeoutMs`, while their handlers ran. */
  readonly cut: number;
}

/** Options that all servers have. */
export interface ListenOptions extends ListenAddress, ConnectionLimitOptions {
  /** Several places to listen, in place of the one that the other options name. */
  listen?: readonly ListenAddress[];
  /** Cuts all connections and ends the server when it is aborted; see `shutdown` for the polite way. */
  signal?: AbortSignal;
  /** Called when the server can be connected to, with the first address. */
  onListen?: (addr: Deno.Addr) => void;
  /** Called with all that happens; what it throws is counted in `stats()` and hurts nobody. */
  onEvent?: (event: ServerEvent) => void;
  /**
   * Overwrite bytes that handlers were lent as soon as the loan is over, so that a payload that was kept without a
   * copy is noticed. For tests. @default {false}
   */
  poison?: boolean;
}

/** A server that is running, as `Deno.serve` returns one. */
export interface Server extends AsyncDisposable {
  /** Where it listens: the first of its addresses that has a port. */
  readonly addr: Deno.NetAddr;
  /** All addresses where it listens. */
  readonly addrs: readonly Deno.Addr[];
  /** Resolves when it has stopped and its last connection is gone. */
  readonly finished: Promise<void>;
  /**
   * Stops the polite way: accepts what has connected, closes the listener, finishes what was read, half-closes, and
   * waits for the peers to close, for `drainTimeoutMs` at most. Requests of the submit protocol that come later are
   * answered 4, shutting down, while answers are due.
   */
  shutdown(): Promise<DrainReport>;
  /**
   * Serves a socket that is there already as if it had been accepted, within the same limits; resolves, never rejects,
   * when it is done with it. The socket is the server's from then on: it closes it, at once where it has stopped.
   * `remoteAddr` is what handlers and events are told; without it, the socket's own, or an address with no name.
   */
  handle(socket: ByteSocket, remoteAddr?: Deno.Addr): Promise<void>;
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

/** The listeners, their connections, and their end. */
export class Host implements Server {
  readonly finished: Promise<void>;
  readonly limits: Limits;
  readonly ticker: Ticker;
  readonly counts: ServerStats = newStats();
  readonly #endpoints: Endpoint[];
  readonly #acceptors: Acceptor[];
  readonly #accepting: Promise<unknown>;
  readonly #onEvent: ((event: ServerEvent) => void) | undefined;
  readonly #connectionOptions: ConnectionOptions;
  readonly #makeService: (connection: Connection, number: number) => Service;
  readonly #services = new Map<Service, Connection>();
  readonly #byAddress = new Map<string, number>();
  readonly #finished = Promise.withResolvers<void>();
  // Connections that are admitted, or about to be.
  #places = 0;
  // Sockets that are not ready for their first frame.
  readonly #unready = new Set<ByteSocket>();
  readonly #placeFreed: (() => void)[] = [];
  #stopping: Promise<DrainReport> | null = null;
  // Set once the server is cut: who comes to be served then, from a place that was waited for, is cut too.
  #aborted: { readonly reason: unknown } | null = null;
  // Set at drainTimeoutMs.
  #overdue = false;
  #drained: (() => void) | null = null;

  constructor(
    options: ListenOptions,
    format: FrameFormat,
    makeService: (host: Host, connection: Connection, options: ConnectionOptions, number: number) => Service,
  ) {
    const { signal, onListen, onEvent } = options;
    const limits = validLimits(options);
    signal?.throwIfAborted();
    this.limits = limits;
    const { connTimeoutMs, frameTimeoutMs, handlerTimeoutMs, idleTimeoutMs, writeTimeoutMs } = limits;
    this.ticker = new Ticker(
      Math.min(connTimeoutMs, frameTimeoutMs, handlerTimeoutMs, idleTimeoutMs, writeTimeoutMs),
    );
    this.#onEvent = onEvent;
    this.#connectionOptions = {
      format,
      limits,
      slabs: new SlabPool({ poison: options.poison ?? false }),
      ticker: this.ticker,
      budget: new FrameBudget(limits.maxBufferedBytes),
    };
    this.#makeService = (connection, number) =>
      makeService(this, connection, this.#connectionOptions, number);
    this.finished = this.#finished.promise;
    this.#endpoints = listenAll(options.listen ?? [options], limits.handshakeTimeoutMs);
    this.#acceptors = this.#endpoints.map(({ listener }) => new Acceptor(listener));
    const abort = () => this.#abort(signal!.reason);
    signal?.addEventListener("abort", abort, { once: true });
    this.finished.then(() => signal?.removeEventListener("abort", abort));
    this.#accepting = Promise.all(this.#endpoints.map((endpoint, i) =>
      this.#acceptors[i]!.run(
        (socket) => this.#admit(socket, endpoint),
        (error) => this.#acceptError(error),
      )
    ));
    try {
      onListen?.(this.addrs[0]!);
    } catch (error) {
      this.#abort(error);
      throw error;
    }
  }

  get addr(): Deno.NetAddr {
    const addr = this.addrs.find((addr) => "port" in addr);
    if (addr === undefined) throw new TypeError("The server listens on no port; see addrs");
    return addr as Deno.NetAddr;
  }

  get addrs(): readonly Deno.Addr[] {
    return this.#endpoints.map(({ listener }) => listener.addr);
  }

  shutdown(): Promise<DrainReport> {
    return this.#stopping ??= this.#shutdown();
  }

  async handle(socket: ByteSocket, remoteAddr: Deno.Addr = addressOf(socket)): Promise<void> {
    // A server that has let its last connection go takes no other.
    if (this.#stopping !== null && this.#places === 0) return socket[Symbol.dispose]();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#admit(socket, null, remoteAddr, resolve);
    await promise;
  }

  stats(): ServerStats {
    const stats = { ...this.counts, limits: { ...this.counts.limits } };
    for (const { bytesRead, out } of this.#services.values()) {
      stats.bytesRead += bytesRead;
      stats.bytesWritten += out.acceptedBytes;
    }
    return stats;
  }

  ref(): void {
    for (const { listener } of this.#endpoints) listener.ref();
  }

  unref(): void {
    for (const { listener } of this.#endpoints) listener.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  emit(event: ServerEvent): void {
    if (this.#onEvent === undefined) return;
    try {
      this.#onEvent(event);
    } catch {
      this.counts.listenerErrors++;
    }
  }

  /** Counts and tells that a limit was reached. */
  limitReached(connection: number | null, limit: LimitName, value: number): void {
    this.counts.limits[limit]++;
    this.emit({ type: "limit", connection, limit, value });
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

  #acceptError(error: unknown): void {
    this.counts.acceptErrors++;
    this.emit({ type: "accept-error", error });
  }

  /** Finds a place for an accepted socket, or refuses it. The promise is for the acceptor to wait for. */
  #admit(
    socket: ByteSocket,
    endpoint: Endpoint | null,
    remoteAddr: Deno.Addr | null = null,
    onDone: () => void = () => {},
  ): Promise<void> | void {
    const { maxConnections, whenFull } = this.limits;
    this.counts.connectionsAccepted++;
    const number = this.counts.connectionsAccepted;
    const occupy = () => void this.#occupy(socket, endpoint, number, remoteAddr).then(onDone);
    if (this.#places < maxConnections) {
      this.#places++;
      return occupy();
    }
    if (whenFull === "wait") {
      this.limitReached(null, "maxConnections", maxConnections);
      return new Promise<void>((resolve) => this.#placeFreed.push(resolve)).then(occupy);
    }
    this.#refuse(
      socket,
      remoteAddr ?? addressOf(socket),
      new LimitError("The server is full", "maxConnections", maxConnections),
    );
    onDone();
  }

  /** Serves a socket that has a place, and gives the place back. */
  async #occupy(
    socket: ByteSocket,
    endpoint: Endpoint | null,
    number: number,
    given: Deno.Addr | null,
  ): Promise<void> {
    let address = "";
    try {
      let remoteAddr = given ?? (socket as Socket).remoteAddr, bytes = socket;
      if ("setNoDelay" in socket) {
        (socket as Deno.TcpConn).setNoDelay(true);
        (socket as Deno.TcpConn).setKeepAlive(true);
      }
      if (endpoint !== null && !endpoint.plain) {
        this.#unready.add(socket);
        try {
          ({ remoteAddr, socket: bytes } = await endpoint.ready(socket as Socket));
        } finally {
          this.#unready.delete(socket);
        }
      }
      address = "hostname" in remoteAddr ? remoteAddr.hostname : "";
      const sameAddress = (this.#byAddress.get(address) ?? 0) + 1;
      this.#byAddress.set(address, sameAddress);
      const { maxConnectionsPerAddress } = this.limits;
      if (address !== "" && sameAddress > maxConnectionsPerAddress) {
        throw new LimitError(
          `${address} has too many connections`,
          "maxConnectionsPerAddress",
          maxConnectionsPerAddress,
        );
      }
      await this.#serve(bytes, remoteAddr, number);
    } catch (error) {
      this.#refuse(socket, given ?? addressOf(socket), error);
    } finally {
      const others = (this.#byAddress.get(address) ?? 1) - 1;
      if (others > 0) this.#byAddress.set(address, others);
      else this.#byAddress.delete(address);
      const next = this.#placeFreed.shift();
      if (next !== undefined) next(); // the place is handed over
      else if (--this.#places === 0) this.#drained?.();
    }
  }

  #refuse(socket: ByteSocket, remoteAddr: Deno.Addr, error: unknown): void {
    socket[Symbol.dispose]();
    this.counts.connectionsRefused++;
    if (error instanceof LimitError) this.limitReached(null, error.limit, error.value);
    this.emit({ type: "refused", remoteAddr, error });
  }

  async #serve(socket: ByteSocket, remoteAddr: Deno.Addr, number: number): Promise<void> {
    const connection = new Connection(socket, remoteAddr, this.#connectionOptions);
    const service = this.#makeService(connection, number);
    this.#services.set(service, connection);
    this.counts.connectionsOpen++;
    this.ticker.add(service);
    this.emit({ type: "opened", connection: number, remoteAddr });
    if (this.#aborted !== null) connection.abort(this.#aborted.reason);
    else if (this.#overdue) this.#exceedDrain(connection);
    else if (this.#stopping) service.drain();
    await service.run();
    const reason = await connection.closed;
    this.ticker.delete(service);
    this.#services.delete(service);
    this.counts.connectionsOpen--;
    this.counts.bytesRead += reason.bytesRead;
    this.counts.bytesWritten += reason.bytesWritten;
    if (reason.error instanceof LimitError) this.limitReached(number, reason.error.limit, reason.error.value);
    if (reason.error instanceof ProxyHeaderError) {
      this.counts.connectionsRefused++;
      this.emit({ type: "refused", remoteAddr, error: reason.error });
    }
    this.emit({ type: "closed", connection: number, reason });
    if (this.#stopping) this.emit({ type: "draining", connectionsOpen: this.counts.connectionsOpen });
  }

  async #shutdown(): Promise<DrainReport> {
    const { answered, cut } = this.counts, { drainTimeoutMs } = this.limits;
    await Promise.all(this.#acceptors.map((acceptor) => acceptor.settle()));
    for (const acceptor of this.#acceptors) acceptor.close();
    this.emit({ type: "draining", connectionsOpen: this.counts.connectionsOpen });
    for (const socket of this.#unready) socket[Symbol.dispose]();
    for (const service of this.#services.keys()) service.drain();
    if (this.#places > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#drained = resolve;
      using _deadline = after(drainTimeoutMs, () => {
        this.#overdue = true;
        for (const connection of this.#services.values()) {
          this.#exceedDrain(connection);
        }
      });
      await promise;
    }
    // Only now is the port free.
    await this.#accepting;
    const report = { answered: this.counts.answered - answered, cut: this.counts.cut - cut };
    this.emit({ type: "drained", report });
    this.#finished.resolve();
    return report;
  }

  #exceedDrain(connection: Connection): void {
    const what = "The connection does not end while the server stops";
    connection.exceed(what, "drainTimeoutMs", this.limits.drainTimeoutMs);
  }

  #abort(reason: unknown): void {
    this.#aborted = { reason };
    for (const acceptor of this.#acceptors) acceptor.close();
    for (const connection of this.#services.values()) connection.abort(reason);
    this.shutdown();
  }
}

/** Listens everywhere, or nowhere. */
function listenAll(addresses: readonly ListenAddress[], handshakeTimeoutMs: number): Endpoint[] {
  if (addresses.length === 0) throw new RangeError("listen must hold at least one address, and is empty");
  const endpoints: Endpoint[] = [];
  try {
    for (const address of addresses) endpoints.push(listen(address, handshakeTimeoutMs));
    return endpoints;
  } catch (error) {
    for (const { listener } of endpoints) listener.close();
    throw error;
  }
}

/** Where a socket's peer is, or was, if it says. */
function addressOf(socket: ByteSocket): Deno.Addr {
  try {
    if ("remoteAddr" in socket) return socket.remoteAddr as Deno.Addr;
  } catch {
    // It was closed.
  }
  return { transport: "tcp", hostname: "", port: 0 };
}

/** Counts that have counted nothing. */
export function newStats(): ServerStats {
  return {
    connectionsOpen: 0,
    connectionsAccepted: 0,
    connectionsRefused: 0,
    bytesRead: 0,
    bytesWritten: 0,
    handled: 0,
    answered: 0,
    cut: 0,
    inFlight: 0,
    protocolErrors: 0,
    handlerErrors: 0,
    acceptErrors: 0,
    listenerErrors: 0,
    limits: {
      maxConnections: 0,
      maxConnectionsPerAddress: 0,
      maxInFlight: 0,
      outboundHighWaterBytes: 0,
      maxBufferedBytes: 0,
      connTimeoutMs: 0,
      frameTimeoutMs: 0,
      idleTimeoutMs: 0,
      handlerTimeoutMs: 0,
      writeTimeoutMs: 0,
      drainTimeoutMs: 0,
      handshakeTimeoutMs: 0,
      requestTimeoutMs: 0,
    },
  };
}
