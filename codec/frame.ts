// Bytes to frames and back. The decoder is the one place that finds where a frame ends.

import { FrameError } from "./errors.ts";
import { FrameFormat, type FrameFormatOptions } from "./format.ts";

/**
 * Makes a frame: `bytes` is the whole frame without its length field, which is inserted at
 * `lengthFieldOffset`. The result is a copy that the caller owns.
 *
 * @throws {FrameError} If no frame of this format may be that long, or that short.
 *
 * @example
 * ```ts
 * import { encodeFrame } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encodeFrame(new Uint8Array([1, 2, 3])), new Uint8Array([0, 0, 0, 3, 1, 2, 3]));
 * ```
 */
export function encodeFrame(bytes: Uint8Array, format?: FrameFormatOptions): Uint8Array {
  const valid = FrameFormat.from(format);
  const frameLength = bytes.length + valid.lengthFieldLength;
  // Refuse before allocating: a frame over the limit must cost nothing.
  valid.fieldValueFor(frameLength);
  const frame = new Uint8Array(frameLength);
  encodeFrameInto(bytes, frame, 0, valid);
  return frame;
}

/**
 * Writes a frame into `target` at `at`, as {@linkcode encodeFrame} would make it, and returns where it
 * ends. A refused frame leaves `target` untouched.
 *
 * @throws {FrameError} If no frame of this format may be that long, or that short.
 * @throws {RangeError} If `target` has no room for it.
 *
 * @example
 * ```ts
 * import { encodeFrameInto } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const target = new Uint8Array(8);
 * const end = encodeFrameInto(new Uint8Array([9]), target, 0, { lengthFieldLength: 1 });
 * encodeFrameInto(new Uint8Array([8, 7]), target, end, { lengthFieldLength: 1 });
 * assertEquals(target, new Uint8Array([1, 9, 2, 8, 7, 0, 0, 0]));
 * ```
 */
export function encodeFrameInto(
  bytes: Uint8Array,
  target: Uint8Array,
  at: number,
  format?: FrameFormatOptions,
): number {
  const valid = FrameFormat.from(format);
  const { lengthFieldOffset, lengthFieldLength } = valid;
  const frameLength = bytes.length + lengthFieldLength;
  const value = valid.fieldValueFor(frameLength);
  if (!(Number.isInteger(at) && at >= 0 && frameLength <= target.length - at)) {
    throw new RangeError(
      `Cannot encode frame: its ${frameLength} bytes do not fit at ${at} of a target of ${target.length}`,
    );
  }
  target.set(lengthFieldOffset === 0 ? bytes : bytes.subarray(lengthFieldOffset), at + valid.headerLength);
  if (lengthFieldOffset > 0) target.set(bytes.subarray(0, lengthFieldOffset), at);
  valid.writeField(new DataView(target.buffer, target.byteOffset), at + lengthFieldOffset, value);
  return at + frameLength;
}

/** Bytes, and a view that begins where they do and is at least as long. */
export interface FrameMemory {
  /** The bytes. */
  readonly bytes: Uint8Array;
  /** The view. */
  readonly view: DataView;
}

/** Where a decoder gathers the frames that straddle chunks. */
export interface FrameLender<Loan extends FrameMemory = FrameMemory> {
  /** Lends at least `length` bytes. */
  lease(length: number): Loan;
  /** Takes a loan back: the decoder, and its batch, look at it no more. */
  release(loan: Loan): void;
}

/**
 * The frames that one chunk completed, as offsets, and the error that they ran into. The decoder fills
 * one batch again for each chunk: what it says holds until the next chunk is pushed, while bytes got
 * from it live as long as the chunk's, or as the loan that they lie in.
 */
export interface FrameBatch<Loan extends FrameMemory = FrameMemory> {
  /** How many frames. */
  readonly count: number;
  /** The chunk itself; every frame but a straddling first one lies in it. */
  readonly chunk: Uint8Array;
  /** What is wrong behind the last frame. Nothing after it can be delimited. */
  readonly error: FrameError | null;
  /** Bytes of an incomplete frame that the decoder holds back, copied out of the chunk. */
  readonly heldBytes: number;
  /** The length of that incomplete frame, in bytes; 0 where there is none, or its header is incomplete too. */
  readonly heldFrameLength: number;
  /** What frame 0 was gathered in where it straddles chunks, else null. Goes back with {@linkcode FrameBatch.clear}. */
  readonly loan: Loan | null;
  /** The bytes that frame `index` lies in: the chunk, or those of the loan where it straddles chunks. */
  bytesOf(index: number): Uint8Array;
  /** A view of {@linkcode FrameBatch.bytesOf}. */
  viewOf(index: number): DataView;
  /** Where frame `index` begins, `initialBytesToStrip` left out. */
  startOf(index: number): number;
  /** Where frame `index` ends. */
  endOf(index: number): number;
  /** Frame `index` as a view of its bytes. */
  frame(index: number): Uint8Array;
  /** Forgets the chunk and the frames, so that nothing keeps their memory until the next chunk comes; gives back the loan. */
  clear(): void;
}

/** A batch of its own, with nothing but an error. */
export function errorBatch(error: FrameError): FrameBatch<never> {
  const batch = new Batch<never>(0, heap as FrameLender<never>);
  batch.error = error;
  return batch;
}

/**
 * Finds the frames in a sequence of chunks, however they are cut.
 *
 * Equivalent to this loop, without its copies:
 *
 * ```text
 * buffer += chunk
 * while buffer holds a header, and the length in it is allowed, and buffer holds that many bytes:
 *   take that many bytes off the buffer's front and emit them, less initialBytesToStrip
 * ```
 *
 * A frame that lies within a chunk aliases the chunk; one that straddles chunks is gathered in memory of
 * its own. That grows with the bytes that were received, never with the length that a header announces.
 *
 * @example Two frames, cut anywhere
 * ```ts
 * import { FrameDecoder } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const decoder = new FrameDecoder({ lengthFieldLength: 1, initialBytesToStrip: 1 });
 * assertEquals(decoder.push(new Uint8Array([2, 10])), []);
 * assertEquals(decoder.bytesNeeded, 1);
 * assertEquals(decoder.push(new Uint8Array([11, 1, 12])), [new Uint8Array([10, 11]), new Uint8Array([12])]);
 * decoder.finish(); // would throw in mid-frame
 * ```
 */
export class FrameDecoder<Loan extends FrameMemory = FrameMemory> {
  /** The format that this decoder was made with, validated. */
  readonly format: FrameFormat;
  readonly #lender: FrameLender<Loan>;
  readonly #batch: Batch<Loan>;
  // The frame that straddles chunks: #held bytes of it lie in #carry. #frameLength is 0 until its header
  // is whole.
  #carry: Loan | null = null;
  #held = 0;
  #frameLength = 0;
  #error: FrameError | null = null;

  /**
   * Takes the format, validated or not, and who lends memory for frames that straddle chunks. Without a lender each has
   * fresh memory, which is whoever's who looks at it. A lender is for those who use batches.
   *
   * @throws {RangeError} If the format is not valid.
   */
  constructor(format?: FrameFormatOptions, lender?: FrameLender<Loan>) {
    this.format = FrameFormat.from(format);
    this.#lender = lender ?? heap as FrameLender<Loan>;
    this.#batch = new Batch(this.format.initialBytesToStrip, this.#lender);
  }

  /** The error that ended the stream, as soon as it is known; null while all is well. */
  get error(): FrameError | null {
    return this.#error;
  }

  /** How many more bytes, at least, the frame under way needs; its header first, then all of it. */
  get bytesNeeded(): number {
    return (this.#frameLength || this.format.headerLength) - this.#held;
  }

  /**
   * Takes the next chunk and returns the frames that it completes, in order.
   *
   * Frames before a bad one are never lost: they are returned, {@linkcode FrameDecoder.error} is set at
   * once, and the next call throws it. Where no frame comes before, this call throws.
   *
   * @throws {FrameError} If a header is not allowed; from then on always the same one.
   */
  push(chunk: Uint8Array): Uint8Array[] {
    const batch = this.pushBatch(chunk);
    if (batch.count === 0 && batch.error) throw batch.error;
    const frames = new Array<Uint8Array>(batch.count);
    for (let i = 0; i < frames.length; i++) frames[i] = batch.frame(i);
    batch.clear();
    return frames;
  }

  /**
   * The same as a batch of offsets, for those to whom an array of views is too slow. Never throws: the
   * error is in the batch, behind its frames, and a decoder with an error ignores what else it is given.
   * A chunk may come with a view that is there already: to make one takes V8 longer than to find a frame.
   */
  pushBatch(chunk: Uint8Array | FrameMemory): FrameBatch<Loan> {
    const batch = this.#batch;
    if (chunk instanceof Uint8Array) batch.reset(chunk, viewOf(chunk));
    else batch.reset(chunk.bytes, chunk.view);
    if (this.#error === null) {
      try {
        const at = this.#held > 0 ? this.#complete(batch.chunk) : 0;
        this.#scan(at);
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        this.#fail(error);
      }
    }
    batch.error = this.#error;
    batch.heldBytes = this.#held;
    batch.heldFrameLength = this.#frameLength;
    return batch;
  }

  /**
   * Says that no chunk follows. Judged by the decoder's state: an end right after a length field is a
   * truncation as much as one in mid-body.
   *
   * @throws {FrameError} `truncated` in mid-frame, or the error that was met before.
   */
  finish(): void {
    if (this.#error) throw this.#error;
    if (this.#held === 0) return;
    const need = this.#held + this.bytesNeeded, part = this.#frameLength ? "" : " of its header";
    const message = `Cannot decode frame: the stream ended after ${this.#held} of ${need} bytes${part}`;
    throw this.#fail(new FrameError("truncated", message, this.#held, need));
  }

  /** Forgets the frame under way, and gives back what it was gathered in: no chunk follows, and nobody asks. */
  discard(): void {
    if (this.#carry !== null) this.#lender.release(this.#carry);
    this.#carry = null;
    this.#held = this.#frameLength = 0;
  }

  /** The frames that lie in the chunk from `at` on; keeps the rest. */
  #scan(at: number): void {
    const { format } = this, batch = this.#batch, { chunk, view } = batch, { headerLength } = format;
    const end = chunk.length;
    while (end - at >= headerLength) {
      const length = format.frameLengthAt(view, at);
      if (end - at < length) {
        this.#frameLength = length;
        break;
      }
      batch.add(at += length);
    }
    if (at < end) this.#hold(chunk, at, end);
  }

  /** Adds to the frame under way, and returns how much of the chunk went into it. */
  #complete(chunk: Uint8Array): number {
    let at = 0;
    if (this.#frameLength === 0) {
      at = Math.min(this.bytesNeeded, chunk.length);
      this.#hold(chunk, 0, at);
      if (this.#held < this.format.headerLength) return at;
      this.#frameLength = this.format.frameLengthAt(this.#carry!.view, 0);
    }
    const rest = Math.min(this.bytesNeeded, chunk.length - at);
    this.#hold(chunk, at, at + rest);
    if (this.#held === this.#frameLength) {
      this.#batch.addGathered(this.#carry!, this.#held, at + rest);
      this.#carry = null; // it is the batch's now
      this.discard();
    }
    return at + rest;
  }

  #hold(chunk: Uint8Array, from: number, to: number): void {
    const needed = this.#held + to - from;
    if (this.#carry === null || needed > this.#carry.bytes.length) this.#grow(needed);
    const carry = this.#carry!.bytes;
    // A view costs more than a few bytes do.
    if (to - from > 32) carry.set(chunk.subarray(from, to), this.#held);
    else for (let at = this.#held; from < to;) carry[at++] = chunk[from++]!;
    this.#held = needed;
  }

  #grow(needed: number): void {
    const old = this.#carry;
    // Doubling keeps it linear; the frame's length, once it is known, caps it. What was announced and not received
    // buys at most as much again as what was received, or the few bytes that save a short frame in short chunks from
    // growing again and again.
    const doubled = Math.max(needed, old === null ? shortFrame : old.bytes.length * 2);
    this.#carry = this.#lender.lease(Math.min(doubled, this.#frameLength || doubled));
    if (old === null) return;
    this.#carry.bytes.set(old.bytes.subarray(0, this.#held));
    this.#lender.release(old);
  }

  #fail(error: FrameError): FrameError {
    this.discard();
    return this.#error = error;
  }
}

const nothing = new Uint8Array(0);
const noView = new DataView(nothing.buffer);

/** Fresh memory, which the garbage collector takes back. */
const heap: FrameLender = { lease: (length) => new HeapLoan(length), release: () => {} };

class HeapLoan implements FrameMemory {
  readonly bytes: Uint8Array;
  // Most frames are looked at as bytes alone.
  #view: DataView | null = null;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
  }

  get view(): DataView {
    return this.#view ??= viewOf(this.bytes);
  }
}

class Batch<Loan extends FrameMemory> implements FrameBatch<Loan> {
  count = 0;
  chunk: Uint8Array = nothing;
  view: DataView = noView;
  error: FrameError | null = null;
  heldBytes = 0;
  heldFrameLength = 0;
  loan: Loan | null = null;
  readonly #strip: number;
  readonly #lender: FrameLender<Loan>;
  // Where in the chunk each frame ends, so where the next one begins.
  readonly #ends: number[] = [];
  // How much of the loan is frame 0.
  #gathered = 0;

  constructor(strip: number, lender: FrameLender<Loan>) {
    this.#strip = strip;
    this.#lender = lender;
  }

  reset(chunk: Uint8Array, view: DataView): void {
    this.clear();
    this.chunk = chunk;
    this.view = view;
    this.error = null;
  }

  clear(): void {
    this.count = 0;
    this.chunk = nothing;
    this.view = noView;
    if (this.loan !== null) this.#lender.release(this.loan);
    this.loan = null;
    // A burst of tiny frames must not keep its offsets for as long as the connection lives.
    if (this.#ends.length > maxKeptOffsets) this.#ends.length = 0;
  }

  add(end: number): void {
    this.#ends[this.count++] = end;
  }

  /** Adds the frame that was gathered in the first `length` bytes of a loan; in the chunk, it ends at `end`. */
  addGathered(loan: Loan, length: number, end: number): void {
    this.loan = loan;
    this.#gathered = length;
    this.add(end);
  }

  bytesOf(index: number): Uint8Array {
    return index === 0 && this.loan !== null ? this.loan.bytes : this.chunk;
  }

  viewOf(index: number): DataView {
    return index === 0 && this.loan !== null ? this.loan.view : this.view;
  }

  startOf(index: number): number {
    return (index === 0 ? 0 : this.#ends[index - 1]!) + this.#strip;
  }

  endOf(index: number): number {
    return index === 0 && this.loan !== null ? this.#gathered : this.#ends[index]!;
  }

  frame(index: number): Uint8Array {
    return this.bytesOf(index).subarray(this.startOf(index), this.endOf(index));
  }
}

const maxKeptOffsets = 1024;
const shortFrame = 256;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
