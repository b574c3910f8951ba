// Two ends of a connection without a network: what is written on one is read on the other, cut, stalled and reset at will.

import type { ByteSocket } from "../transport/duplex.ts";
import { between, type Random } from "./random.ts";

/**
 * How many bytes a call moves at most: each of the numbers in turn, over and over, or a random share of what it could
 * move.
 */
export type CallSizes = readonly number[] | Random;

/** Options of {@linkcode socketPair}. They hold for both directions. */
export interface SocketPairOptions {
  /** Bytes that a direction holds between its ends; a write waits while it is full. @default {65_536} */
  bufferBytes?: number;
  /** How many bytes a read brings at most; without it, as many as there are. */
  readSizes?: CallSizes;
  /** How many bytes a write accepts at most; without it, as many as there is room for. */
  writeSizes?: CallSizes;
}

/**
 * Makes two sockets that are connected with each other, without a port and without a timer: for `openSocket` of a
 * client, `handle` of a server, `duplex`, and whatever else takes a {@linkcode ByteSocket}.
 *
 * They behave as a kernel's: a write accepts what there is room for, `closeWrite` ends one direction behind its bytes
 * and lets the other go on, and an end that is closed with bytes unread resets the other. Unlike a kernel's, the
 * first write to an end that is closed fails already.
 *
 * @throws {RangeError} If a size is not a whole number above 0.
 *
 * @example A server and a client without ports, one byte at a time
 * ```ts
 * import { socketPair } from "@framewire/framewire/testkit";
 * import { connect, serve } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * const [near, far] = socketPair({ readSizes: [1], writeSizes: [1] });
 * await using server = serve({ port: 0 }, ({ payload }) => payload.length);
 * server.handle(far);
 * await using client = await connect({ openSocket: () => near });
 * assertEquals((await client.submit("abc")).result, 3);
 * ```
 */
export function socketPair(options: SocketPairOptions = {}): [PairedSocket, PairedSocket] {
  const [there, back] = [new Direction(options), new Direction(options)];
  return [new End(there, back), new End(back, there)];
}

/**
 * One of two sockets that are connected with each other; see {@linkcode socketPair}. Its calls fail with Deno's errors:
 * `ConnectionReset` where the connection was reset, `BrokenPipe` where this side has ended or the other end is closed,
 * `BadResource` where this end was closed, and `Interrupted` where that happens meanwhile.
 */
export interface PairedSocket extends ByteSocket {
  /** Bytes that were written here and not read there. */
  readonly unreadBytes: number;
  /** Lets nothing that is written here arrive, an end neither, until {@linkcode PairedSocket.resume}. */
  stall(): void;
  /** Lets what is written here arrive again. */
  resume(): void;
  /** Resets the connection: what was not read is lost, and every call of both ends fails. */
  reset(): void;
}

class End implements PairedSocket {
  readonly #out: Direction;
  readonly #in: Direction;
  #closed = false;

  constructor(out: Direction, into: Direction) {
    this.#out = out;
    this.#in = into;
  }

  get unreadBytes(): number {
    return this.#out.bytes;
  }

  read(buffer: Uint8Array): Promise<number | null> {
    return this.#closed ? Promise.reject(badResource()) : this.#in.read(buffer);
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.#closed ? Promise.reject(badResource()) : this.#out.write(bytes);
  }

  closeWrite(): Promise<void> {
    return this.#closed ? Promise.reject(badResource()) : this.#out.end();
  }

  stall(): void {
    this.#out.stall(true);
  }

  resume(): void {
    this.#out.stall(false);
  }

  reset(): void {
    this.#out.fail(reset);
    this.#in.fail(reset);
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    const interrupted = () => new Deno.errors.Interrupted("The socket was closed");
    this.#out.interruptWrites(interrupted);
    this.#in.interruptReads(interrupted);
    if (this.#in.bytes > 0) return this.reset();
    this.#out.end().catch(() => {}); // it was reset: there is nothing to end
    this.#in.refuse();
  }
}

interface Waiting<Result> {
  readonly bytes: Uint8Array;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

/** The bytes on their way from one end to the other. Calls are served in their order. */
class Direction {
  readonly #ring: Uint8Array;
  readonly #readSize: (most: number) => number;
  readonly #writeSize: (most: number) => number;
  readonly #reads: Waiting<number | null>[] = [];
  readonly #writes: Waiting<number>[] = [];
  #start = 0;
  #bytes = 0;
  #stalled = false;
  #ended = false;
  /** Makes the error of a connection that was reset. */
  #failure: (() => Error) | null = null;

  constructor({ bufferBytes = 65_536, readSizes, writeSizes }: SocketPairOptions) {
    above0("bufferBytes", bufferBytes);
    this.#ring = new Uint8Array(bufferBytes);
    this.#readSize = sizer("readSizes", readSizes);
    this.#writeSize = sizer("writeSizes", writeSizes);
  }

  get bytes(): number {
    return this.#bytes;
  }

  read(bytes: Uint8Array): Promise<number | null> {
    return new Promise((resolve, reject) => {
      this.#reads.push({ bytes, resolve, reject });
      this.#move();
    });
  }

  write(bytes: Uint8Array): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#writes.push({ bytes, resolve, reject });
      this.#move();
    });
  }

  end(): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure());
    this.refuse();
    return Promise.resolve();
  }

  /** Accepts nothing more. */
  refuse(): void {
    this.#ended = true;
    this.#move();
  }

  stall(stalled: boolean): void {
    this.#stalled = stalled;
    this.#move();
  }

  fail(failure: () => Error): void {
    this.#failure ??= failure;
    this.#bytes = 0;
    this.#move();
  }

  interruptReads(error: () => Error): void {
    for (const { reject } of this.#reads.splice(0)) reject(error());
  }

  interruptWrites(error: () => Error): void {
    for (const { reject } of this.#writes.splice(0)) reject(error());
  }

  /** Serves all calls that can be. */
  #move(): void {
    if (this.#failure !== null) {
      this.interruptReads(this.#failure);
      this.interruptWrites(this.#failure);
    }
    if (this.#ended) this.interruptWrites(() => new Deno.errors.BrokenPipe("This direction has ended"));
    for (let moved = true; moved;) {
      moved = false;
      const write = this.#writes[0], room = this.#ring.length - this.#bytes;
      if (write !== undefined && (room > 0 || write.bytes.length === 0)) {
        this.#writes.shift();
        write.resolve(this.#accept(write.bytes, room));
        moved = true;
      }
      const read = this.#reads[0], arrived = this.#stalled ? 0 : this.#bytes;
      if (read !== undefined && (arrived > 0 || read.bytes.length === 0)) {
        this.#reads.shift();
        read.resolve(this.#deliver(read.bytes, arrived));
        moved = true;
      }
    }
    if (this.#ended && !this.#stalled && this.#bytes === 0) {
      for (const { resolve } of this.#reads.splice(0)) resolve(null);
    }
  }

  #accept(bytes: Uint8Array, room: number): number {
    const most = Math.min(bytes.length, room), count = most === 0 ? 0 : this.#writeSize(most);
    for (let i = 0, at = this.#start + this.#bytes; i < count; i++, at++) {
      this.#ring[at % this.#ring.length] = bytes[i]!;
    }
    this.#bytes += count;
    return count;
  }

  #deliver(buffer: Uint8Array, arrived: number): number {
    const most = Math.min(buffer.length, arrived), count = most === 0 ? 0 : this.#readSize(most);
    for (let i = 0; i < count; i++) buffer[i] = this.#ring[(this.#start + i) % this.#ring.length]!;
    this.#start = (this.#start + count) % this.#ring.length;
    this.#bytes -= count;
    return count;
  }
}

/** How many bytes the next call moves, of those that it could. */
function sizer(field: string, sizes: CallSizes | undefined): (most: number) => number {
  if (sizes === undefined) return (most) => most;
  if (typeof sizes === "function") return (most) => between(sizes, 1, most);
  if (sizes.length === 0) throw new RangeError(`${field} must hold at least one size, and is empty`);
  for (const size of sizes) above0(field, size);
  let call = 0;
  const list = [...sizes];
  return (most) => Math.min(most, list[call++ % list.length]!);
}

function above0(field: string, size: number): void {
  if (!Number.isInteger(size) || size < 1) {
    throw new RangeError(`${field} must be a whole number of bytes above 0, and is ${size}`);
  }
}

function reset(): Error {
  return new Deno.errors.ConnectionReset("The connection was reset");
}

function badResource(): Error {
  return new Deno.errors.BadResource("The socket was closed");
}
