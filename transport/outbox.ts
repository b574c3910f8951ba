// Bytes to a socket: in order, coalesced, bounded, and counted, so that it is known what was accepted.

import type { ByteSocket } from "./duplex.ts";
import { Fifo } from "./fifo.ts";
import type { Slab, SlabPool } from "./slab.ts";

/** From this length on, bytes are written from where they lie instead of being copied. */
export const copyLimit = 16_384;
/** A slab that is full and smaller than this is replaced by a larger one rather than written first. */
const coalesceLimit = 65_536;

interface Segment {
  readonly bytes: Uint8Array;
  readonly length: number;
  readonly slab: Slab | null;
}

interface Waiter {
  readonly offset: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The one writer of a socket. What is put in while a write is under way leaves with the next one: a batch of
 * answers costs one write.
 */
export class Outbox {
  /** Bytes put in since the beginning. */
  queuedBytes = 0;
  /** Bytes that the socket accepted since the beginning. */
  acceptedBytes = 0;
  /** Bytes that were given to the socket since the beginning, those of the write under way included. */
  offeredBytes = 0;
  /** What made writing fail; it stays failed. */
  error: unknown = null;

  readonly #socket: ByteSocket;
  readonly #slabs: SlabPool;
  readonly #onError: (error: unknown) => void;
  readonly #queue = new Fifo<Segment>();
  #slab: Slab | null = null;
  #used = 0;
  #nextLength = 0;
  #writing = false;
  // What is being written, and how much of it was accepted.
  #segment: Segment | undefined = undefined;
  #at = 0;
  #ending: Promise<void> | null = null;
  // In order of their offsets, since they wait for the end of what was queued when they came.
  readonly #waiters = new Fifo<Waiter>();
  readonly #low: { readonly bytes: number; readonly resolve: () => void }[] = [];
  #quiet: PromiseWithResolvers<void> | null = null;

  constructor(socket: ByteSocket, slabs: SlabPool, onError: (error: unknown) => void) {
    this.#socket = socket;
    this.#slabs = slabs;
    this.#onError = onError;
  }

  /** Bytes that wait to be accepted. */
  get pendingBytes(): number {
    return this.queuedBytes - this.acceptedBytes;
  }

  /** Whether {@linkcode Outbox.end} was called or writing failed: what is put in now goes nowhere. */
  get ended(): boolean {
    return this.#ending !== null || this.error !== null;
  }

  /**
   * Makes room for `length` bytes, at most {@linkcode copyLimit}, and returns where in {@linkcode Outbox.bytes}
   * they are to be filled in, at once.
   */
  reserve(length: number): number {
    let slab = this.#slab;
    if (slab === null || slab.bytes.length - this.#used < length) slab = this.#grow(length);
    const at = this.#used;
    this.#used = at + length;
    this.queuedBytes += length;
    return at;
  }

  /** Where the place that was reserved last lies. */
  get bytes(): Uint8Array {
    return this.#slab!.bytes;
  }

  /** A view of {@linkcode Outbox.bytes}. */
  get view(): DataView {
    return this.#slab!.view;
  }

  /** Puts in bytes: short ones as a copy, long ones as they are, which must not change until they are accepted. */
  put(bytes: Uint8Array): void {
    const { length } = bytes;
    if (length === 0) return;
    if (length < copyLimit) {
      const at = this.reserve(length);
      this.bytes.set(bytes, at);
    } else {
      this.#seal();
      this.#queue.push({ bytes, length, slab: null });
      this.queuedBytes += length;
    }
  }

  /** Starts to write what was put in, unless a write is under way, which goes on with it. */
  flush(): void {
    if (this.#writing || this.error !== null || this.queuedBytes === this.acceptedBytes) return;
    this.#writing = true;
    this.#write();
  }

  /** Resolves when all that was put in so far is accepted; rejects with what made that impossible. */
  accepted(): Promise<void> {
    if (this.error !== null) return Promise.reject(this.error);
    if (this.pendingBytes === 0) return Promise.resolve();
    return new Promise((resolve, reject) =>
      this.#waiters.push({ offset: this.queuedBytes, resolve, reject })
    );
  }

  /** Resolves when at most `bytes` are pending, or writing failed. */
  below(bytes: number): Promise<void> {
    if (this.error !== null || this.pendingBytes <= bytes) return Promise.resolve();
    return new Promise((resolve) => this.#low.push({ bytes, resolve }));
  }

  /** Writes all that was put in, then half-closes. Later calls wait for the same. */
  end(): Promise<void> {
    return this.#ending ??= this.#end();
  }

  async #end(): Promise<void> {
    this.flush();
    await this.accepted();
    await this.#socket.closeWrite();
  }

  /**
   * Resolves when no write is under way: then {@linkcode Outbox.acceptedBytes} is the whole truth. A write that the
   * closing of the socket interrupts may have been done, and says so only now.
   */
  quiet(): Promise<void> {
    if (!this.#writing) return Promise.resolve();
    this.#quiet ??= Promise.withResolvers();
    return this.#quiet.promise;
  }

  /** Fails whatever waits, and gives back the slabs. */
  fail(error: unknown): void {
    if (this.error !== null) return;
    this.error = error;
    for (let waiter; (waiter = this.#waiters.shift()) !== undefined;) waiter.reject(error);
    for (const { resolve } of this.#low.splice(0)) resolve();
    // A segment that a write still looks at is given back when that write ends.
    if (this.#writing) return;
    this.#seal();
    for (let segment; (segment = this.#queue.shift()) !== undefined;) this.#release(segment);
  }

  // Callbacks rather than an async function: one is entered for each write, and the write is all there is to a batch
  // of answers.
  #write(): void {
    const segment = this.#next();
    this.#segment = segment;
    this.#at = 0;
    if (segment === undefined) this.#rest();
    else this.#offer(segment);
  }

  /** Gives the socket what is left of a segment. */
  #offer({ bytes, length }: Segment): void {
    const at = this.#at;
    this.offeredBytes = this.acceptedBytes + length - at;
    const whole = at === 0 && length === bytes.length;
    this.#socket.write(whole ? bytes : bytes.subarray(at, length)).then(this.#written, this.#failed);
  }

  readonly #written = (count: number): void => {
    const segment = this.#segment!;
    this.#at += count;
    this.acceptedBytes += count;
    if (this.#waiters.length > 0 || this.#low.length > 0) this.#wake();
    if (this.error !== null) return this.#failed(this.error);
    if (this.#at < segment.length) return this.#offer(segment);
    this.#release(segment);
    this.#write();
  };

  readonly #failed = (error: unknown): void => {
    const cause = this.error ?? error;
    if (this.#segment !== undefined) this.#release(this.#segment);
    this.#segment = undefined;
    this.#rest();
    this.error = null; // lets fail() give back the slabs that waited behind this write
    this.fail(cause);
    this.#onError(cause);
  };

  #rest(): void {
    this.#writing = false;
    this.#quiet?.resolve();
  }

  #next(): Segment | undefined {
    return this.#queue.length > 0 ? this.#queue.shift() : this.#sealed();
  }

  /** Closes the slab under way to further bytes, and queues it. */
  #seal(): void {
    const segment = this.#sealed();
    if (segment !== undefined) this.#queue.push(segment);
  }

  #sealed(): Segment | undefined {
    const slab = this.#slab;
    if (slab === null) return undefined;
    const length = this.#used;
    this.#nextLength = length;
    this.#slab = null;
    this.#used = 0;
    return { bytes: slab.bytes, length, slab };
  }

  #grow(length: number): Slab {
    const old = this.#slab;
    if (old === null) return this.#slab = this.#slabs.lease(Math.max(length, this.#nextLength));
    if (old.bytes.length >= coalesceLimit) {
      this.#seal();
      return this.#slab = this.#slabs.lease(coalesceLimit);
    }
    const next = Math.min(old.bytes.length * 8, coalesceLimit);
    const larger = this.#slabs.lease(Math.max(next, this.#used + length));
    larger.bytes.set(old.bytes.subarray(0, this.#used));
    this.#slabs.release(old);
    return this.#slab = larger;
  }

  #release({ slab }: Segment): void {
    if (slab !== null) this.#slabs.release(slab);
  }

  #wake(): void {
    for (let waiter; (waiter = this.#waiters.first) !== undefined && waiter.offset <= this.acceptedBytes;) {
      this.#waiters.shift();
      waiter.resolve();
    }
    for (let i = this.#low.length - 1; i >= 0; i--) {
      if (this.pendingBytes <= this.#low[i]!.bytes) this.#low.splice(i, 1)[0]!.resolve();
    }
  }
}
