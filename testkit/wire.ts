// One TCP connection seen as raw bytes: what was sent and came when, how it ended, and whether the peer still reads.
// Nothing of the codec is used here, so that a mistake in the codec cannot hide itself; and it is made of node:net,
// whose sockets alone can be reset.

import { connect as connectNode, type Socket } from "node:net";
import { concat } from "@std/bytes/concat";

/** How the other side ended: not yet, in order, or by a reset (also one behind a FIN). */
export type WireEnd = "open" | "fin" | "reset";

/** What happened on a {@linkcode Wire}. */
export interface WireEvent {
  /** When, in milliseconds since the wire was made. */
  readonly atMs: number;
  /** Who did it. */
  readonly by: "us" | "them";
  /** What it was. A FIN of ours is logged when it is asked for, behind all bytes before it. */
  readonly what: "bytes" | "fin" | "reset";
  /** The first of the bytes, a copy; only so many are kept as the log's bound leaves room for. */
  readonly bytes: Uint8Array;
  /** How many bytes there were. */
  readonly length: number;
}

/** A read of a {@linkcode Wire} did not get what it waited for. */
export class WireError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "WireError";
  /** Why: the other side ended, or was reset, or the time was up. */
  readonly code: "ended" | "reset" | "timeout";
  /** The bytes that had come; they are not lost to later reads. */
  readonly bytes: Uint8Array;

  /** Takes the code, the sentence and the bytes. */
  constructor(code: WireError["code"], message: string, bytes: Uint8Array) {
    super(message);
    this.code = code;
    this.bytes = bytes;
  }
}

/** Options of {@linkcode Wire.connect}. */
export interface WireConnectOptions {
  /** Where to connect to. @default {"127.0.0.1"} */
  hostname?: string;
  /** The port to connect to. */
  port: number;
  /** Gives up connecting. It does nothing to a wire that is connected. */
  signal?: AbortSignal;
}

/** Options of the reads of a {@linkcode Wire}. */
export interface WireReadOptions {
  /** When to give up, in milliseconds. @default {5000} */
  timeoutMs?: number;
}

/**
 * One side of a real TCP connection, as raw bytes. Reading goes on by itself into a buffer, so that the end of the
 * other side is seen when it comes; {@linkcode Wire.pause} stops that, and then the connection's windows fill up.
 *
 * @example Send a frame in two segments, and see how the other side ends
 * ```ts
 * import { Wire } from "@framewire/framewire/testkit";
 * import { serve } from "@framewire/framewire/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => {});
 * await using wire = await Wire.connect({ port: server.addr.port });
 * const submit = new Uint8Array([0, 0, 0, 13, 2, 48, 48, 48, 48, 48, 48, 48, 49]);
 * await wire.sendChunked([submit.subarray(0, 6), submit.subarray(6)]);
 * assertEquals((await wire.readFrame())[4], 0x82);
 * wire.fin();
 * assertEquals(await wire.readToEnd(), { bytes: new Uint8Array(0), end: "fin" });
 * ```
 */
export class Wire implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #startedAt = performance.now();
  readonly #log: WireEvent[] = [];
  readonly #gone: Promise<void>;
  #loggedBytes = 0;
  #chunks: Uint8Array[] = [];
  #buffered = 0;
  #end: WireEnd = "open";
  #bytesSent = 0;
  #bytesReceived = 0;
  #finished = false;
  /** Whether the socket can do no more, in either direction. */
  #dead = false;
  /** Who waits for something to happen. */
  readonly #waiting: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    this.#gone = new Promise((resolve) => {
      if (socket.closed) resolve();
      else socket.once("close", () => resolve());
    });
    socket.on("data", ({ buffer, byteOffset, length }: Uint8Array<ArrayBuffer>) => {
      // No Buffer: its slice() is no copy, and it equals no Uint8Array.
      const chunk = new Uint8Array(buffer, byteOffset, length);
      this.#bytesReceived += chunk.length;
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#note("them", "bytes", chunk);
      this.#wake();
    });
    socket.on("end", () => this.#ended("fin"));
    socket.on("error", (error: Error & { code?: string }) => {
      if (error.code === "ECONNRESET" || error.code === "EPIPE" || error.code === "ECONNABORTED") {
        this.#ended("reset");
      }
      this.#dead = true;
      this.#wake();
    });
    socket.on("close", () => {
      this.#dead = true;
      this.#wake();
    });
  }

  /**
   * Connects.
   *
   * @throws {Error} What the system says, with its `code`, if there is no connection to be had, or the signal's
   * reason.
   */
  static async connect({ hostname = "127.0.0.1", port, signal }: WireConnectOptions): Promise<Wire> {
    signal?.throwIfAborted();
    const socket = connectNode({ host: hostname, port, allowHalfOpen: true });
    const connected = Promise.withResolvers<void>();
    const abort = () => {
      socket.destroy();
      connected.reject(signal!.reason);
    };
    socket.once("connect", connected.resolve);
    socket.once("error", connected.reject);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      await connected.promise;
    } catch (error) {
      if (!socket.closed) await new Promise<void>((resolve) => socket.once("close", () => resolve()));
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
      socket.off("error", connected.reject);
    }
    return new Wire(socket);
  }

  /** Takes a socket that was accepted, by a server made with `allowHalfOpen`. It is the wire's from then on. */
  static over(socket: Socket): Wire {
    return new Wire(socket);
  }

  /** What happened so far. Beyond a bound, bytes are only counted, and then events are not kept at all. */
  get log(): readonly WireEvent[] {
    return this.#log;
  }

  /** How the other side ended. */
  get end(): WireEnd {
    return this.#end;
  }

  /**
   * Bytes that the kernel has taken to send, counted in pieces of {@linkcode Wire.send}'s. Where it stands still
   * although more is to be sent, the other side does not read.
   */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /** Bytes that came, read or not. */
  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /**
   * Sends bytes, which must not change before it resolves: when the kernel has taken all of them, or never will. It
   * does not throw where the other side is gone: {@linkcode Wire.end} and {@linkcode Wire.bytesSent} tell.
   *
   * @throws {Error} If this side has ended already.
   */
  async send(bytes: Uint8Array): Promise<void> {
    if (this.#finished) throw new Error("Cannot send: this side of the wire has ended");
    if (this.#dead || bytes.length === 0) return;
    this.#note("us", "bytes", bytes);
    const pieces: Promise<void>[] = [];
    // In pieces, because the socket tells only of whole writes.
    for (let at = 0; at < bytes.length; at += pieceLength) {
      const piece = bytes.subarray(at, at + pieceLength);
      pieces.push(
        new Promise((resolve) =>
          this.#socket.write(piece, (error) => {
            if (!error) this.#bytesSent += piece.length;
            resolve();
          })
        ),
      );
    }
    await Promise.race([Promise.all(pieces), this.#gone]);
  }

  /**
   * Sends each chunk by itself, the next one when the kernel has taken the one before. Nothing can make the network
   * keep them apart, but on one machine they mostly arrive as they are.
   */
  async sendChunked(chunks: Iterable<Uint8Array>): Promise<void> {
    for (const chunk of chunks) {
      await this.send(chunk);
      // A turn of the event loop, in which the other side may read.
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  /** Ends this side, behind all that was sent; the other side can go on. */
  fin(): void {
    if (this.#finished || this.#dead) return;
    this.#finished = true;
    this.#note("us", "fin", nothing);
    this.#socket.end();
  }

  /** Resets the connection: what is under way either way may be lost. */
  reset(): void {
    if (this.#dead) return;
    this.#finished = true;
    this.#note("us", "reset", nothing);
    this.#socket.resetAndDestroy();
  }

  /** Stops reading, so that the other side can send no more than the windows take: a few MiB on one machine. */
  pause(): void {
    this.#socket.pause();
  }

  /** Reads again. */
  resume(): void {
    this.#socket.resume();
  }

  /**
   * Reads exactly `length` bytes, which are the caller's.
   *
   * @throws {WireError} If the other side ends before, or the time is up; then nothing is taken.
   */
  async readExactly(length: number, options: WireReadOptions = {}): Promise<Uint8Array> {
    await this.#wait(
      () => this.#buffered >= length,
      options,
      () => `${this.#buffered} of ${length} bytes came`,
    );
    return this.#take(length);
  }

  /**
   * Reads one frame of the submit protocol, its length included: four bytes, big-endian, that count themselves.
   *
   * @throws {WireError} If the other side ends before, or the time is up; then nothing is taken.
   */
  async readFrame(options: WireReadOptions = {}): Promise<Uint8Array> {
    const endAt = performance.now() + (options.timeoutMs ?? defaultTimeoutMs);
    await this.#wait(
      () => this.#buffered >= 4,
      options,
      () => `${this.#buffered} of a length's 4 bytes came`,
    );
    const [a, b, c, d] = this.#merged() as unknown as [number, number, number, number];
    const length = Math.max(4, a * 0x1_00_00_00 + b * 0x1_00_00 + c * 0x1_00 + d);
    const timeoutMs = Math.max(0, endAt - performance.now());
    return await this.readExactly(length, { timeoutMs });
  }

  /**
   * Reads to the other side's end, or until the time is up: `end` says which. Never throws.
   */
  async readToEnd(options: WireReadOptions = {}): Promise<{ bytes: Uint8Array; end: WireEnd }> {
    try {
      await this.#wait(() => this.#end !== "open", options, () => "");
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
    }
    return { bytes: this.#take(this.#buffered), end: this.#end };
  }

  /** Closes the socket, whatever is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#dead = true;
    this.#socket.destroy();
    await this.#gone;
  }

  /** Waits until `ready`; where the other side has ended without, or the time is up, fails with what had come. */
  async #wait(ready: () => boolean, { timeoutMs = defaultTimeoutMs }: WireReadOptions, came: () => string) {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#wake();
    }, timeoutMs);
    try {
      while (!ready()) {
        const ended = this.#end !== "open" || this.#dead;
        if (ended || late) {
          const code = !ended ? "timeout" : this.#end === "fin" ? "ended" : "reset";
          const why = code === "timeout"
            ? `${Math.round(timeoutMs)} ms were over`
            : code === "ended"
            ? "the other side ended"
            : "the connection was reset";
          throw new WireError(code, `Cannot read: ${why} when ${came()}`, this.#merged().slice());
        }
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #merged(): Uint8Array {
    if (this.#chunks.length > 1) this.#chunks = [concat(this.#chunks)];
    return this.#chunks[0] ?? nothing;
  }

  #take(length: number): Uint8Array {
    const bytes = this.#merged();
    this.#chunks = bytes.length > length ? [bytes.subarray(length)] : [];
    this.#buffered -= length;
    return bytes.slice(0, length);
  }

  #ended(end: "fin" | "reset"): void {
    if (this.#end === end) return;
    this.#end = end;
    this.#note("them", end, nothing);
    this.#wake();
  }

  #note(by: WireEvent["by"], what: WireEvent["what"], bytes: Uint8Array): void {
    // Ends are always kept: there are few, and they matter most.
    if (what === "bytes" && this.#log.length >= maxLogEvents) return;
    const kept = bytes.slice(0, Math.min(maxLogBytesEach, maxLogBytes - this.#loggedBytes));
    this.#loggedBytes += kept.length;
    this.#log.push({
      atMs: performance.now() - this.#startedAt,
      by,
      what,
      bytes: kept,
      length: bytes.length,
    });
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

const nothing = new Uint8Array(0);
const defaultTimeoutMs = 5000;
const pieceLength = 16_384;
const maxLogEvents = 2000;
const maxLogBytes = 65_536;
const maxLogBytesEach = 4096;
