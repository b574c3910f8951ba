// How do the frames of a connection reach a handler, within the limits, and how does the connection end?

import { type FrameBatch, FrameError, PacketError } from "../codec/mod.ts";
import type { CloseCode, Connection, FrameConsumer } from "../transport/connection.ts";
import type { LimitName } from "../transport/limit.ts";
import type { Slab } from "../transport/slab.ts";
import { type Call, Calls } from "./calls.ts";
import type { Host, Service } from "./host.ts";

/** The connection that a request came on, as its handler sees it. */
export interface Peer {
  /** Counts the server's connections, from 1 on. */
  readonly number: number;
  /** Where the peer is. */
  readonly remoteAddr: Deno.Addr;
  /** Aborted when the connection is no more. */
  readonly signal: AbortSignal;
  /** Takes no more requests, lets those that are being handled be answered, and closes. */
  close(reason?: unknown): void;
}

/** A connection whose frames are given to a handler. */
export abstract class Dispatch implements Service, FrameConsumer {
  protected readonly host: Host;
  protected readonly connection: Connection;
  protected readonly number: number;
  protected readonly calls: Calls;
  /**
   * Whether handlers hold another slab than the one that is being taken from, so that what lies in this one must not
   * hold it too. It cannot change while frames are taken.
   */
  protected pinned = false;
  /** The number of the last chunk whose frames still reach the handler. */
  #lastChunk = Infinity;
  #flushing = false;
  // The tick at which each limit was told last.
  readonly #stalledAt: Partial<Record<LimitName, number>> = {};
  #close: { readonly code: CloseCode; readonly error: unknown } | null = null;

  constructor(host: Host, connection: Connection, number: number) {
    this.host = host;
    this.connection = connection;
    this.number = number;
    const { limits, ticker, counts } = host;
    this.calls = new Calls(connection, ticker, limits.handlerTimeoutMs, counts, (call) => {
      host.limitReached(number, "handlerTimeoutMs", limits.handlerTimeoutMs);
      this.timedOut(call);
    });
  }

  /**
   * Takes frames from `from` on, while there is {@linkcode Dispatch.room}, and returns the index of the first one not
   * taken. `draining` says that they came too late to be handled. Throws what breaks the protocol.
   */
  protected abstract takeFrames(batch: FrameBatch<Slab>, from: number, slab: Slab, draining: boolean): number;

  /** Answers for a handler that took too long. */
  abstract timedOut(call: Call): void;

  async run(): Promise<void> {
    const { connection, calls } = this;
    connection.onLost = (error) => calls.cutAll(error);
    connection.closed.then(({ error }) => calls.cutAll(error));
    let code: CloseCode = "ended", error: unknown = null;
    try {
      await connection.pump(this);
    } catch (thrown) {
      error = thrown;
      code = thrown instanceof FrameError && thrown.code === "truncated" ? "truncated" : "protocol";
      if (!(thrown instanceof FrameError || thrown instanceof PacketError)) {
        return connection.abort(error, "failed");
      }
      this.host.protocolError(this.number, thrown);
    }
    if (connection.readError !== null) return connection.failRead();
    // Let the peer go on sending meanwhile: it may not read before it has sent.
    if (!connection.inputEnded) connection.discard();
    await this.idle();
    const reason = this.#close ?? { code, error };
    await connection.finish(reason.code, reason.error);
  }

  ready(): Promise<void> | null {
    const { out } = this.connection,
      { maxInFlight, outboundHighWaterBytes, outboundLowWaterBytes } = this.host.limits;
    if (out.pendingBytes > outboundHighWaterBytes) {
      this.#stalled("outboundHighWaterBytes", outboundHighWaterBytes);
      return out.below(outboundLowWaterBytes);
    }
    return this.calls.count < maxInFlight ? null : this.roomLater();
  }

  /** Resolves when a handler settles; tells that the connection stands at its limit. */
  protected roomLater(): Promise<void> {
    this.#stalled("maxInFlight", this.host.limits.maxInFlight);
    return this.calls.changed();
  }

  /** Tells that the connection stands at a limit: not each time, as it may come and go with each request. */
  #stalled(limit: LimitName, value: number): void {
    const { now } = this.host.ticker;
    if (this.#stalledAt[limit] === now) return;
    this.#stalledAt[limit] = now;
    this.host.limitReached(this.number, limit, value);
  }

  take(batch: FrameBatch<Slab>, from: number, slab: Slab): number {
    const { connection } = this;
    this.pinned = connection.pinned;
    return this.takeFrames(batch, from, slab, connection.chunksTaken >= this.#lastChunk);
  }

  /** Whether one more frame may be taken: each one's handler may fill the last place, or close the connection. */
  protected get room(): boolean {
    return this.calls.count < this.host.limits.maxInFlight && !this.connection.stopped;
  }

  drain(): void {
    if (this.#lastChunk !== Infinity) return;
    this.#lastChunk = this.connection.chunksRead;
    this.#drain();
  }

  tick(now: number): void {
    this.calls.tick(now);
    this.connection.tick(now, this.calls.count > 0);
  }

  /** Resolves when nothing is under way. */
  protected idle(): Promise<void> {
    return this.calls.idle();
  }

  /** Whether it is about to close: it takes nothing more. */
  protected get closing(): boolean {
    return this.#close !== null;
  }

  /** Closes once the answers that are due are written. */
  close(code: CloseCode, error: unknown): void {
    this.#close ??= { code, error };
    this.connection.stop();
  }

  /** Flushes once all that settles in this turn has put in its answer. */
  protected flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.connection.out.flush();
    });
  }

  async #drain(): Promise<void> {
    await this.connection.caughtUp(this.#lastChunk);
    await this.idle();
    this.#close ??= { code: "shutdown", error: null };
    await this.connection.finish("shutdown", null, this.host.limits.drainTimeoutMs);
  }
}

/** The view of a {@linkcode Dispatch} that its handler gets. */
export class DispatchPeer implements Peer {
  readonly number: number;
  readonly #dispatch: Dispatch;
  readonly #connection: Connection;

  constructor(dispatch: Dispatch, connection: Connection, number: number) {
    this.number = number;
    this.#dispatch = dispatch;
    this.#connection = connection;
  }

  get remoteAddr(): Deno.Addr {
    return this.#connection.remoteAddr;
  }

  get signal(): AbortSignal {
    return this.#connection.signal;
  }

  close(reason: unknown = null): void {
    this.#dispatch.close("closed", reason);
  }
}
