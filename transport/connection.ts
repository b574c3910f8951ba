// One connection's life: frames in, ordered writes out, one way to close, one reason why.

import type { FrameBatch, FrameError, FrameFormat } from "../codec/mod.ts";
import { after, type Ticker } from "./deadline.ts";
import { type ByteSocket, isGone } from "./duplex.ts";
import { Inbox } from "./inbox.ts";
import { LimitError, type LimitName } from "./limit.ts";
import { Outbox } from "./outbox.ts";
import type { Slab, SlabPool } from "./slab.ts";

/** Why a connection is no more. */
export type CloseCode =
  /** Both sides said that they were done, and all was delivered. */
  | "ended"
  /** This side closed it. */
  | "closed"
  /** This side cut it: by a signal, or by `abort`. */
  | "aborted"
  /** The peer ended in mid-frame; `error` is a FrameError. */
  | "truncated"
  /** The peer sent what the protocol does not allow; `error` is a FrameError or a PacketError. */
  | "protocol"
  /** The peer reset it, or is gone. */
  | "reset"
  /** The socket failed in another way. */
  | "failed"
  /** Its CONN was refused. */
  | "refused"
  /** A handler threw; `error` is what it threw. */
  | "handler"
  /** A server drained it on its way to stop. */
  | "shutdown"
  /** It reached a limit; `limit` says which, `error` is a LimitError. */
  | "limit";

/** How a connection ended. */
export interface CloseReason {
  /** The kind of end. */
  readonly code: CloseCode;
  /** The cause, where there is one. */
  readonly error: unknown;
  /** The limit that it reached, where it did. */
  readonly limit: LimitName | null;
  /** Bytes that were read from the peer. */
  readonly bytesRead: number;
  /** Bytes that were accepted for the peer. */
  readonly bytesWritten: number;
}

/** What takes the frames of a connection. One at a time, in order. */
export interface FrameConsumer {
  /** Null where {@linkcode FrameConsumer.take} can go on, else resolves when that may have changed. */
  ready(): Promise<void> | null;
  /**
   * Takes frames of the batch from `from` on, and returns the index of the first one not taken. Whoever looks at
   * bytes of the slab, or of the batch's loan, beyond this call adds itself to its users.
   */
  take(batch: FrameBatch<Slab>, from: number, slab: Slab): number;
}

/** What a connection is held to. */
export interface ConnectionLimits {
  /** How long no byte of what is pending may be accepted. */
  readonly writeTimeoutMs: number;
  /** How long a frame may take, from its first byte to its last, beside a second for each 16 KiB of it. */
  readonly frameTimeoutMs: number;
  /** How long no byte may move either way while nothing is under way. */
  readonly idleTimeoutMs: number;
}

/** How a {@linkcode Connection} is made. */
export interface ConnectionOptions {
  readonly format: FrameFormat;
  readonly slabs: SlabPool;
  readonly limits: ConnectionLimits;
  /** What calls {@linkcode Connection.tick}. */
  readonly ticker: Ticker;
  /** The bytes of incomplete frames, over all connections. */
  readonly budget: FrameBudget | null;
}

/** The bytes of incomplete frames that the connections of a server hold together. */
export class FrameBudget {
  readonly #maxBytes: number;
  readonly #holders = new Set<Connection>();
  #bytes = 0;

  /** Takes the bytes that all connections may hold. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Notes that a connection holds `bytes` instead of `before`; past the limit, the one that holds most goes. */
  changed(connection: Connection, before: number, bytes: number): void {
    this.#bytes += bytes - before;
    if (bytes === 0) this.#holders.delete(connection);
    else this.#holders.add(connection);
    while (this.#bytes > this.#maxBytes) {
      let most = connection;
      for (const holder of this.#holders) if (holder.heldBytes > most.heldBytes) most = holder;
      const what =
        `Incomplete frames hold ${this.#bytes} bytes, ${most.heldBytes} of them for this connection`;
      most.exceed(what, "maxBufferedBytes", this.#maxBytes);
    }
  }
}

/** A long frame takes longer: this much for each this many bytes of it. */
const frameAllowance = { ms: 1000, bytes: 16_384 };
/** A slow handler must not pin memory: the slabs that one connection has on loan for reading, at most. */
/** How long a peer that may still be sending gets to read the last answers. */
const lingerMs = 1000;
/** What is read and thrown away meanwhile; a peer that floods is left to its full send buffer. */
const maxDiscardedBytes = 64 * 1_048_576;

/**
 * A socket with frames on it. States:
 *
 * ```text
 * open --peer's FIN--> answering --all written--> FIN --> closed "ended"
 *   \--bad frame-----> answering --all written--> FIN --> discarding until FIN or deadline --> closed "protocol"
 *   \--reset, abort--> closed at once
 * ```
 */
export class Connection {
  readonly remoteAddr: Deno.Addr;
  readonly out: Outbox;
  /** Resolves, never rejects, when the socket is gone. */
  readonly closed: Promise<CloseReason>;
  /** Set once nothing more comes from the peer. */
  inputEnded = false;

  readonly #socket: ByteSocket;
  readonly #options: ConnectionOptions;
  readonly #inbox: Inbox;
  readonly #closed = Promise.withResolvers<CloseReason>();
  #open = true;
  #closeError: unknown = null;
  #readError: unknown = null;
  // Who takes the frames, and what resolves when there are no more for it.
  #consumer: FrameConsumer | null = null;
  #pumped: (() => void) | null = null;
  #wake: (() => void) | null = null;
  #running = false;
  // How many chunks' frames were all taken, or thrown away.
  #chunksDone = 0;
  #caughtUp: PromiseWithResolvers<void> | null = null;
  // What the limits in time are held against: deadlines in ticks, and what had moved at the last tick.
  #writeDeadline = 0;
  #acceptedAtTick = -1;
  #idleDeadline = 0;
  #movedAtTick = -1;
  #frameStart = 0;
  #frameLength = 0;
  #heldBytes = 0;
  // Whether this side waits for the peer, rather than the peer for this side.
  #reading = false;
  #finished: Promise<void> | null = null;
  #stopped = false;
  // Set while what comes is thrown away: how many bytes had been read before, and what resolves at the FIN.
  #discarding: { readonly from: number; readonly end: PromiseWithResolvers<void> } | null = null;
  #abort: AbortController | null = null;

  constructor(socket: ByteSocket, remoteAddr: Deno.Addr, options: ConnectionOptions) {
    this.#socket = socket;
    this.remoteAddr = remoteAddr;
    this.#options = options;
    this.closed = this.#closed.promise;
    this.out = new Outbox(socket, options.slabs, (error) => this.#fail(error));
    this.#inbox = new Inbox(socket, options.slabs, options.format);
  }

  /** Bytes that were read from the peer. */
  get bytesRead(): number {
    return this.#inbox.bytesRead;
  }

  /** Bytes of an incomplete frame that were received and are held. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Called when reading has failed, perhaps before all that was read is taken. */
  onLost: ((error: unknown) => void) | null = null;

  /** What the peer broke of the framing, where it did. */
  frameError: FrameError | null = null;

  /** Whether the socket is still there. */
  get open(): boolean {
    return this.#open;
  }

  /** What cut the connection, or null. */
  get closeError(): unknown {
    return this.#closeError;
  }

  /** Aborted when the connection is closed, for whatever reason; the reason's error is its reason. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (!this.#open || this.#readError !== null) {
      this.#abort.abort(this.#closeError ?? this.#readError ?? undefined);
    }
    return this.#abort.signal;
  }

  /** Whether what is in the slab that is being taken from must be handed out as copies. */
  get pinned(): boolean {
    return this.#inbox.pinned;
  }

  /** Says that one user less looks at a slab that a consumer was given. */
  release(slab: Slab): void {
    this.#options.slabs.release(slab);
  }

  /** Whether frames are handed out no more. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Stops to hand out frames: those not taken yet, and those to come, are discarded. */
  stop(): void {
    this.#stopped = true;
    this.#wake?.();
    this.#pumped?.();
  }

  /**
   * Gives every frame to the consumer, until the peer ends, {@linkcode Connection.stop} is called or the
   * connection is closed. Reading waits for the consumer.
   *
   * @throws {FrameError} If the peer broke the framing, and whatever the consumer throws.
   */
  pump(consumer: FrameConsumer): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#consumer = consumer;
    this.#pumped = resolve;
    // A read that waits for the peer cannot be called back: it is left to find that nobody wants it.
    this.#run().then(resolve, reject);
    return promise;
  }

  /** Reads: for the consumer, and once it is stopped for nobody, while what comes is to be thrown away. */
  async #run(): Promise<void> {
    const inbox = this.#inbox;
    this.#running = true;
    try {
      while (this.#open && (!this.#stopped || this.#discards)) {
        const free = inbox.slabFree();
        if (free !== null) {
          await Promise.race([free, this.#stopping()]);
          continue;
        }
        let count: number | null;
        this.#reading = true;
        try {
          count = await inbox.read();
        } catch (error) {
          inbox.lost();
          this.#lost(error);
          return this.#endInput();
        }
        this.#reading = false;
        if (this.#stopped) {
          if (count === null) return this.#endInput();
          inbox.drop(count);
          this.#chunkDone();
          continue;
        }
        const { slab } = inbox, { value: batch } = await inbox.frame(count);
        if (batch !== undefined) {
          try {
            const wait = this.#give(batch, slab!);
            if (wait !== null) await wait;
          } finally {
            this.out.flush();
            batch.clear();
            if (count !== null) {
              this.release(slab!);
              this.#chunkDone();
            }
          }
        }
        if (count === null) return this.#endInput();
      }
    } finally {
      this.#running = false;
      if (!this.#open) inbox.close();
    }
  }

  /**
   * Gives a batch to the consumer. Null where that took it at once, as most do: a promise for each costs as much as a
   * request.
   *
   * @throws {FrameError} If the batch has an error.
   */
  #give(batch: FrameBatch<Slab>, slab: Slab): Promise<void> | null {
    const consumer = this.#consumer!;
    if (batch.heldBytes > 0 || this.#heldBytes > 0) this.#hold(batch);
    if (consumer.ready() !== null) return this.#giveSlowly(batch, slab, 0);
    const at = batch.count === 0 ? 0 : consumer.take(batch, 0, slab);
    if (at < batch.count || consumer.ready() !== null) return this.#giveSlowly(batch, slab, at);
    this.#judge(batch);
    return null;
  }

  /** Goes on from frame `at`, with pauses. */
  async #giveSlowly(batch: FrameBatch<Slab>, slab: Slab, at: number): Promise<void> {
    while (!this.#stopped) {
      const wait = this.#consumer!.ready();
      if (wait !== null) {
        this.out.flush();
        this.#inbox.readAhead((error) => this.#lost(error));
        await Promise.race([wait, this.#stopping()]);
      } else if (at === batch.count) break;
      else at = this.#consumer!.take(batch, at, slab);
    }
    this.#judge(batch);
  }

  #judge({ error }: FrameBatch): void {
    // A reset cuts frames short too, and is no business of the framing.
    if (error !== null && !this.#stopped && this.#readError === null) throw this.frameError = error;
  }

  /** Reading has failed. */
  #lost(error: unknown): void {
    if (this.#readError !== null) return;
    this.#readError = error;
    // Nobody is there to be answered. What was read before is still handed out.
    this.#abort?.abort(error);
    this.onLost?.(error);
  }

  #endInput(): void {
    this.inputEnded = true;
    this.#discarding?.end.resolve();
  }

  /** The number of the last chunk that came from the socket. */
  get chunksRead(): number {
    return this.#inbox.chunksRead;
  }

  /** How many chunks' frames were all taken, or thrown away. */
  get chunksTaken(): number {
    return this.#chunksDone;
  }

  /** Resolves when the frames of all chunks up to number `chunk` were taken or thrown away. For one caller. */
  async caughtUp(chunk: number): Promise<void> {
    while (this.#chunksDone < chunk && this.#open) {
      this.#caughtUp = Promise.withResolvers();
      await this.#caughtUp.promise;
    }
  }

  #chunkDone(): void {
    this.#chunksDone++;
    this.#caughtUp?.resolve();
  }

  /** Half-closes once all that was put in is written. */
  end(): Promise<void> {
    return this.out.end();
  }

  /**
   * Closes the polite way: all that was put in is written, the peer is told, and gets a while to read it and to
   * close too, while what it still sends is thrown away. (To close with bytes unread makes the kernel reset the
   * connection, and a reset destroys the answers that the peer has not read.) The first call counts.
   */
  finish(code: CloseCode, error: unknown = null, patienceMs = lingerMs): Promise<void> {
    return this.#finished ??= this.#finish(code, error, patienceMs);
  }

  async #finish(code: CloseCode, error: unknown, patienceMs: number): Promise<void> {
    const discarded = this.inputEnded ? null : this.discard();
    try {
      await this.end();
      if (discarded !== null) {
        const late = Promise.withResolvers<void>();
        using _deadline = after(patienceMs, late.resolve);
        await Promise.race([discarded, late.promise]);
      }
    } catch {
      // The outbox has closed the connection with its own reason.
    }
    this.#close(code, error);
  }

  /** Reads and throws away until the peer's FIN; gives up reading, not waiting, past a bound. */
  async discard(): Promise<void> {
    if (this.#discarding === null) {
      this.#discarding = { from: this.bytesRead, end: Promise.withResolvers() };
      this.stop();
      if (!this.#running) this.#run();
    }
    await Promise.race([this.#discarding.end.promise, this.closed]);
  }

  get #discards(): boolean {
    return this.#discarding !== null && this.bytesRead - this.#discarding.from < maxDiscardedBytes;
  }

  /** Cuts the connection now. */
  abort(error: unknown, code: CloseCode = "aborted"): void {
    this.#close(code, error);
  }

  /** Cuts the connection for a limit that it reached. */
  exceed(what: string, limit: LimitName, value: number): void {
    this.#close("limit", new LimitError(what, limit, value));
  }

  /** Holds the limits in time against the clock. `busy` says that something is under way besides bytes. */
  tick(now: number, busy: boolean): void {
    const { acceptedBytes, pendingBytes } = this.out, { ticker, limits } = this.#options;
    if (pendingBytes === 0 || acceptedBytes !== this.#acceptedAtTick) {
      this.#acceptedAtTick = acceptedBytes;
      this.#writeDeadline = ticker.after(limits.writeTimeoutMs);
    } else if (now >= this.#writeDeadline) {
      const what = `The peer accepts none of the ${pendingBytes} bytes that are pending`;
      return this.exceed(what, "writeTimeoutMs", limits.writeTimeoutMs);
    }
    if (this.#heldBytes > 0 && !this.#stopped) {
      // A frame does not grow old while it is this side that does not read.
      if (!this.#reading) this.#frameStart++;
      const allowanceMs = Math.floor(this.#frameLength / frameAllowance.bytes) * frameAllowance.ms;
      if (now >= this.#frameStart + ticker.ticks(limits.frameTimeoutMs + allowanceMs)) {
        const what = `The peer has sent ${this.#heldBytes} bytes of a frame and not the rest`;
        return this.exceed(what, "frameTimeoutMs", limits.frameTimeoutMs);
      }
    }
    const moved = this.bytesRead + acceptedBytes;
    if (busy || pendingBytes > 0 || moved !== this.#movedAtTick) {
      this.#movedAtTick = moved;
      this.#idleDeadline = ticker.after(limits.idleTimeoutMs);
    } else if (now >= this.#idleDeadline) {
      this.exceed(
        "Nothing moves either way, and nothing is under way",
        "idleTimeoutMs",
        limits.idleTimeoutMs,
      );
    }
  }

  /** Notes how much of an incomplete frame is held, and since when. */
  #hold({ heldBytes, heldFrameLength, count }: FrameBatch): void {
    if (!this.#open) return; // it has given back what it held
    const before = this.#heldBytes;
    // Dripping bytes do not make a frame younger; only its predecessor's end does.
    if (before === 0 || count > 0) this.#frameStart = this.#options.ticker.now;
    this.#heldBytes = heldBytes;
    this.#frameLength = heldFrameLength;
    this.#options.budget?.changed(this, before, heldBytes);
  }

  /** What made reading fail, where it was no FIN. */
  get readError(): unknown {
    return this.#readError;
  }

  /** Closes after the socket failed. */
  #fail(error: unknown): void {
    this.#close(isGone(error) ? "reset" : "failed", error);
  }

  /** Closes because reading failed. */
  failRead(): void {
    this.#fail(this.#readError);
  }

  #stopping(): Promise<void> {
    return new Promise((resolve) => this.#wake = resolve);
  }

  #close(code: CloseCode, error: unknown): void {
    if (!this.#open) return;
    this.#open = false;
    this.#closeError = error;
    // First of all: what is told below may close others, and the budget must not count on this one any more.
    const held = this.#heldBytes;
    this.#heldBytes = 0;
    this.#options.budget?.changed(this, held, 0);
    this.stop();
    this.#caughtUp?.resolve();
    this.#socket[Symbol.dispose]();
    if (!this.#running) this.#inbox.close();
    this.out.fail(error ?? new Deno.errors.BadResource("The connection is closed"));
    this.#abort?.abort(error ?? undefined);
    this.out.quiet().then(() =>
      this.#closed.resolve({
        code,
        error,
        limit: error instanceof LimitError ? error.limit : null,
        bytesRead: this.bytesRead,
        bytesWritten: this.out.acceptedBytes,
      })
    );
  }
}
