// A proxy that hurts what goes through it: as a library, and as a program that speaks toxiproxy's HTTP API.

import { SlabPool } from "../transport/slab.ts";
import { Link, type LinkEnd, type LinkObserver, type StreamCounts } from "./proxy/link.ts";
import { type Address, dial, listen, type ProxyListener, type ProxySocket } from "./proxy/socket.ts";
import {
  changedToxic,
  completeToxic,
  type Stream,
  type Toxic,
  type ToxicChange,
  type ToxicState,
} from "./proxy/toxic.ts";
import { newSeed } from "./random.ts";

export type { FrameFormatOptions } from "../codec/format.ts";
export type { Address } from "./proxy/socket.ts";
export type { LinkEnd, StreamCounts } from "./proxy/link.ts";
export type {
  FrameAttributes,
  FrameChoice,
  Stream,
  Toxic,
  ToxicAttributes,
  ToxicChange,
  ToxicState,
  ToxicType,
} from "./proxy/toxic.ts";

/** Options of {@linkcode faultProxy}. */
export interface FaultProxyOptions {
  /** Where connections go on to. */
  upstream: Address;
  /** Where to listen. @default {{ hostname: "127.0.0.1", port: 0 }} */
  listen?: Partial<Address>;
  /** What strikes connections from the start. */
  toxics?: readonly Toxic[];
  /** Where all draws begin; see {@linkcode FaultProxy.seed}. @default {a new one} */
  seed?: number;
  /** A name, for events; draws depend on it as well. @default {"proxy"} */
  name?: string;
  /**
   * Connections can be reset, by `reset_peer` and by a side that resets. They are slower for that. Where a
   * `reset_peer` is among the toxics it is true.
   *
   * @default {false}
   */
  resettable?: boolean;
  /** Called with all that happens. With it, each read and write costs an event. */
  onEvent?: (event: ProxyEvent) => void;
}

/** What a proxy says of itself; `atMs` counts from its making. */
export type ProxyEvent =
  & { readonly proxy: string; readonly atMs: number }
  & (
    | { readonly type: "opened"; readonly connection: number; readonly remote: string }
    | {
      readonly type: "read" | "written";
      readonly connection: number;
      readonly stream: Stream;
      readonly bytes: number;
    }
    | {
      /** A toxic did `what` to so many bytes, at an offset of its stream or on a frame, counted from 1. */
      readonly type: "fault";
      readonly connection: number;
      readonly stream: Stream;
      readonly toxic: string;
      readonly what: string;
      readonly bytes: number;
      readonly offset?: number;
      readonly frame?: number;
    }
    | {
      /** The end of a stream has reached its destination. */
      readonly type: "fin" | "reset";
      readonly connection: number;
      readonly stream: Stream;
    }
    | { readonly type: "upstream-failed"; readonly connection: number; readonly error: string }
    | {
      readonly type: "closed";
      readonly connection: number;
      readonly why: LinkEnd | "upstream-failed";
      readonly upstream: StreamCounts;
      readonly downstream: StreamCounts;
    }
    | { readonly type: "accept-failed"; readonly error: string }
    | { readonly type: "toxic-added" | "toxic-changed" | "toxic-removed"; readonly toxic: ToxicState }
  );

/** Counts of a proxy, right at any time, also of connections that are open. */
export interface ProxyStats {
  /** Connections accepted and not over. */
  connectionsOpen: number;
  /** All connections accepted. */
  connectionsAccepted: number;
  /** Those whose upstream could not be reached. */
  upstreamFailures: number;
  /** Bytes from the clients to the upstream server. */
  upstream: StreamCounts;
  /** Bytes back. */
  downstream: StreamCounts;
  /** How often each toxic struck, by name; delays are not counted. */
  faults: Record<string, number>;
  /** Bytes of memory held for reads and by toxics that keep bytes. */
  bufferedBytes: number;
}

/**
 * Starts a proxy on a port of its own. Disposing of it closes its connections.
 *
 * @throws {RangeError} If a toxic is not right.
 *
 * @example The third frame upstream is lost
 * ```ts
 * import { connect, serve, submitFormat } from "@framewire/framewire";
 * import { faultProxy } from "@framewire/framewire/testkit";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => {});
 * await using proxy = await faultProxy({
 *   upstream: server.addr,
 *   toxics: [{ type: "frame_drop", stream: "upstream", attributes: { nth: 3, format: submitFormat() } }],
 *   seed: 7,
 * });
 * await using client = await connect({ port: proxy.addr.port, requestTimeoutMs: 200 });
 * const outcomes = await Promise.all(["a", "b", "c", "d"].map((text) =>
 *   client.submit(text).then(({ outcome }) => outcome, ({ outcome }) => outcome)
 * ));
 * assertEquals(outcomes, ["accepted", "accepted", "unknown", "accepted"]);
 * assertEquals(proxy.stats().faults, { frame_drop_upstream: 1 });
 * ```
 */
export async function faultProxy(options: FaultProxyOptions): Promise<FaultProxy> {
  const proxy = new FaultProxy(options);
  await proxy.update({ enabled: true });
  return proxy;
}

/** A proxy, from {@linkcode faultProxy}. */
export class FaultProxy implements AsyncDisposable {
  /** Its name. */
  readonly name: string;
  /**
   * What its draws begin with. Each toxic on each connection has a generator of its own, made of the seed, the
   * proxy's name, the connection's number, the stream and the toxic's name: the same bytes meet the same faults,
   * whatever else goes on.
   */
  readonly seed: number;
  /** Resolves when it is disposed of, and every connection is closed. */
  readonly closed: Promise<void>;

  readonly #onEvent: ((event: ProxyEvent) => void) | undefined;
  readonly #madeAt = performance.now();
  readonly #slabs = new SlabPool();
  readonly #toxics = new Map<string, ToxicState>();
  readonly #links = new Map<number, Link>();
  readonly #running = new Set<Promise<void>>();
  readonly #counts: Record<Stream, StreamCounts> = {
    upstream: { readBytes: 0, writtenBytes: 0 },
    downstream: { readBytes: 0, writtenBytes: 0 },
  };
  readonly #faults: Record<string, number> = {};
  readonly #alwaysResettable: boolean;
  readonly #settleClosed: () => void;
  #listen: Address;
  #upstream: Address;
  #listener: ProxyListener | null = null;
  #resets = false;
  #addr: Deno.NetAddr;
  #accepted = 0;
  #failures = 0;
  #keptBytes = 0;
  /** Aborted where connections that are being made are not wanted any more. */
  #wanted = new AbortController();
  #disposed = false;
  /** Comings and goings of the listener, one behind the other. */
  #turn: Promise<void> = Promise.resolve();

  /** Does not listen yet: {@linkcode FaultProxy.update} switches it on. @throws {RangeError} If a toxic is not right. */
  constructor(options: FaultProxyOptions) {
    const {
      upstream,
      listen = {},
      toxics = [],
      seed = newSeed(),
      name = "proxy",
      resettable = false,
      onEvent,
    } = options;
    for (const toxic of toxics) this.#include(completeToxic(toxic));
    this.name = name;
    this.seed = seed;
    this.#upstream = { hostname: upstream.hostname ?? "127.0.0.1", port: upstream.port };
    this.#listen = { hostname: listen.hostname ?? "127.0.0.1", port: listen.port ?? 0 };
    this.#addr = { transport: "tcp", hostname: this.#listen.hostname!, port: this.#listen.port };
    this.#alwaysResettable = resettable;
    this.#onEvent = onEvent;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#settleClosed = resolve;
  }

  /** Where it listens, or will when it is switched on. */
  get addr(): Deno.NetAddr {
    return { ...this.#addr };
  }

  /** Where connections go on to. */
  get upstream(): Required<Address> {
    return { hostname: this.#upstream.hostname!, port: this.#upstream.port };
  }

  /** Whether it listens. */
  get enabled(): boolean {
    return this.#listener !== null;
  }

  /** Whether connections that are accepted now can be reset. */
  get resettable(): boolean {
    return this.#alwaysResettable || [...this.#toxics.values()].some(({ type }) => type === "reset_peer");
  }

  /** Its toxics, in the order in which bytes meet them. */
  get toxics(): ToxicState[] {
    return [...this.#toxics.values()];
  }

  /**
   * Adds a toxic, behind the others of its stream, also to the connections that are open. Frames are counted from
   * there. A `reset_peer` on a proxy that is not `resettable` strikes connections that are accepted once this resolves;
   * for that the proxy listens anew, on the same port, and who connects in that moment is refused.
   *
   * @throws {RangeError} If something is wrong with it, or its name is taken.
   */
  async addToxic(toxic: Toxic): Promise<ToxicState> {
    const complete = completeToxic(toxic);
    this.#include(complete);
    for (const link of this.#links.values()) link.add(complete);
    this.#tell({ type: "toxic-added", toxic: complete });
    if (this.enabled && this.resettable !== this.#resets) await this.#inTurn(() => this.#relisten());
    return complete;
  }

  /**
   * Changes a toxic, also on the connections that are open. Attributes that are not named stay.
   *
   * @throws {RangeError} If there is none of that name, or something is wrong with the change.
   */
  updateToxic(name: string, change: ToxicChange): ToxicState {
    const toxic = changedToxic(this.#toxic(name), change);
    this.#toxics.set(name, toxic);
    for (const link of this.#links.values()) link.change(toxic);
    this.#tell({ type: "toxic-changed", toxic });
    return toxic;
  }

  /**
   * Takes a toxic away, also from the connections that are open. What it kept goes on its way at once.
   *
   * @throws {RangeError} If there is none of that name.
   */
  removeToxic(name: string): void {
    const toxic = this.#toxic(name);
    this.#toxics.delete(name);
    for (const link of this.#links.values()) link.remove(toxic);
    this.#tell({ type: "toxic-removed", toxic });
  }

  /**
   * Switches it off, which closes all connections and the port, or on again, on the same port; or moves it, which
   * closes all connections as well.
   *
   * @throws If it cannot listen there.
   */
  update(change: { enabled?: boolean; listen?: Address; upstream?: Address }): Promise<void> {
    return this.#inTurn(async () => {
      const { enabled = this.enabled, listen, upstream } = change;
      if (this.#disposed) throw new Error("Cannot update a proxy: it is disposed of");
      const moves = listen !== undefined || upstream !== undefined;
      if (moves || !enabled) await this.#switchOff();
      if (listen !== undefined) this.#listen = { ...this.#listen, ...listen };
      if (upstream !== undefined) this.#upstream = { ...this.#upstream, ...upstream };
      if (listen !== undefined) {
        this.#addr = { transport: "tcp", hostname: this.#listen.hostname!, port: this.#listen.port };
      }
      if (enabled && this.#listener === null) await this.#switchOn();
    });
  }

  /** Counts so far. */
  stats(): ProxyStats {
    const { upstream, downstream } = this.#counts;
    return {
      connectionsOpen: this.#running.size,
      connectionsAccepted: this.#accepted,
      upstreamFailures: this.#failures,
      upstream: { ...upstream },
      downstream: { ...downstream },
      faults: { ...this.#faults },
      bufferedBytes: this.#slabs.leasedBytes + this.#keptBytes,
    };
  }

  /** Closes the port and all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#disposed) {
      this.#disposed = true;
      await this.#inTurn(() => this.#switchOff());
      this.#settleClosed();
    }
    await this.closed;
  }

  async #switchOn(): Promise<void> {
    const { hostname, port } = this.#addr;
    this.#resets = this.resettable;
    this.#listener = await listen({ hostname, port }, this.#resets, {
      slabs: this.#slabs,
      accepted: (socket, remote) => this.#accept(socket, remote),
      failed: (error) => this.#tell({ type: "accept-failed", error: messageOf(error) }),
    });
    this.#addr = { ...this.#listener.addr };
  }

  async #switchOff(): Promise<void> {
    const listener = this.#listener;
    this.#listener = null;
    await listener?.close();
    this.#wanted.abort();
    this.#wanted = new AbortController();
    for (const link of this.#links.values()) link.abort();
    await Promise.all(this.#running);
  }

  /** Listens with the other kind of sockets; connections stay. */
  async #relisten(): Promise<void> {
    if (this.#listener === null) return;
    await this.#listener.close();
    this.#listener = null;
    await this.#switchOn();
  }

  #accept(client: ProxySocket, { hostname, port }: Address): void {
    const number = ++this.#accepted;
    this.#tell({ type: "opened", connection: number, remote: `${hostname}:${port}` });
    const run = this.#serve(client, number).finally(() => this.#running.delete(run));
    this.#running.add(run);
  }

  async #serve(client: ProxySocket, number: number): Promise<void> {
    const { signal } = this.#wanted;
    let server: ProxySocket;
    try {
      server = await dial(this.#upstream, client.resettable, this.#slabs, signal);
    } catch (error) {
      client.reset();
      const none = { readBytes: 0, writtenBytes: 0 }, why = signal.aborted ? "down" : "upstream-failed";
      if (!signal.aborted) {
        this.#failures++;
        this.#tell({ type: "upstream-failed", connection: number, error: messageOf(error) });
      }
      return this.#tell({ type: "closed", connection: number, why, upstream: none, downstream: none });
    }
    const link = new Link(
      client,
      server,
      `${this.seed}/${this.name}/${number}`,
      this.#toxics.values(),
      this.#observerOf(number),
    );
    this.#links.set(number, link);
    // The proxy may have been switched off as the connection came about.
    if (signal.aborted) link.abort();
    const why = await link.finished;
    this.#links.delete(number);
    const { upstream, downstream } = link;
    this.#tell({
      type: "closed",
      connection: number,
      why,
      upstream: upstream.counts,
      downstream: downstream.counts,
    });
  }

  #observerOf(connection: number): LinkObserver {
    return {
      watchesBytes: this.#onEvent !== undefined,
      counts: this.#counts,
      bytes: (type, stream, bytes) => this.#tell({ type, connection, stream, bytes }),
      passed: (type, stream) => this.#tell({ type, connection, stream }),
      struck: ({ name, stream }, what, bytes, where) => {
        this.#faults[name] = (this.#faults[name] ?? 0) + 1;
        this.#tell({ type: "fault", connection, stream, toxic: name, what, bytes, ...where });
      },
      keeps: (bytes) => void (this.#keptBytes += bytes),
    };
  }

  #include(toxic: ToxicState): void {
    if (this.#toxics.has(toxic.name)) {
      throw new RangeError(`Cannot add a toxic: there is one of the name ${toxic.name}`);
    }
    this.#toxics.set(toxic.name, toxic);
  }

  #toxic(name: string): ToxicState {
    const toxic = this.#toxics.get(name);
    if (toxic === undefined) throw new RangeError(`Cannot find a toxic: there is none of the name ${name}`);
    return toxic;
  }

  #tell(event: Untold<ProxyEvent>): void {
    const atMs = Math.round((performance.now() - this.#madeAt) * 1000) / 1000;
    try {
      this.#onEvent?.({ proxy: this.name, atMs, ...event } as ProxyEvent);
    } catch (error) {
      // A listener's failure is its program's, and no fault of the connection.
      reportError(error);
    }
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(task);
    this.#turn = done.catch(() => {});
    return done;
  }
}

type Untold<E> = E extends unknown ? Omit<E, "proxy" | "atMs"> : never;

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function main(): Promise<void> {
  const { runProxy } = await import("./proxy/program.ts");
  await runProxy(Deno.args);
}

if (import.meta.main) main();
