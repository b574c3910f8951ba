// The connection door: frames to read, frames to send, half-close, and a reason at the end.

import { encodeFrameInto, type FrameBatch, type FrameFormat } from "../codec/mod.ts";
import { FrameQueue } from "../codec/frame_stream.ts";
import type { CloseReason, Connection, ConnectionOptions, FrameConsumer } from "./connection.ts";
import { copyLimit, type Outbox } from "./outbox.ts";
import type { Slab } from "./slab.ts";

/**
 * A socket with frames on it, as `connectFrames` and `serveConnections` hand it out.
 *
 * @example Both ends of one
 * ```ts
 * import { connectFrames, serveConnections } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serveConnections({ port: 0 }, async (connection) => {
 *   for await (const frame of connection.frames) await connection.send(frame.subarray(4).reverse());
 * });
 * await using connection = await connectFrames({ port: server.addr.port });
 * await connection.send(new Uint8Array([1, 2, 3]));
 * await connection.end(); // half-close: the answer still comes
 * assertEquals(await Array.fromAsync(connection.frames), [new Uint8Array([0, 0, 0, 3, 3, 2, 1])]);
 * ```
 */
export class FrameConnection implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #format: FrameFormat;
  readonly #frames: FrameQueue;
  #reading: Promise<void> | null = null;

  /** Made by `connectFrames` and `serveConnections`. */
  constructor(connection: Connection, options: ConnectionOptions) {
    this.#connection = connection;
    this.#format = options.format;
    this.#frames = new FrameQueue(() => connection.stop());
  }

  /** Where the peer is. */
  get remoteAddr(): Deno.Addr {
    return this.#connection.remoteAddr;
  }

  /**
   * The peer's frames. Nothing is read from the socket before a frame is asked for, beyond one chunk ahead.
   * Frames of one chunk share its memory, which is theirs for good. Ends at the peer's FIN; fails, after the last
   * good frame, with a {@linkcode FrameError} where the framing is broken or cut short, and with the socket's
   * error where the connection is lost. Cancelling it stops reading, not the connection.
   */
  get frames(): ReadableStream<Uint8Array> {
    this.#reading ??= this.#read();
    return this.#frames.readable;
  }

  /** Resolves, never rejects, with the reason why the connection is no more. */
  get closed(): Promise<CloseReason> {
    return this.#connection.closed;
  }

  /** Aborted when the connection is no more. */
  get signal(): AbortSignal {
    return this.#connection.signal;
  }

  /**
   * Sends a frame, given without its length field; resolves when the socket has accepted all of it. The bytes must
   * not change until then. Calls need not wait for each other: frames leave in the order of the calls, each whole.
   * Wait for the promises to be slowed down by a slow peer. A failure of the socket is also the reason that
   * {@linkcode FrameConnection.closed} gives, so a promise that nobody waits for harms nobody.
   *
   * @throws {FrameError} If the frame is too long or too short for the format; nothing of it is sent.
   */
  send(bytes: Uint8Array): Promise<void> {
    const sent = this.#send(bytes);
    sent.catch(() => {});
    return sent;
  }

  async #send(bytes: Uint8Array): Promise<void> {
    const { out } = this.#connection;
    if (out.ended) throw out.error ?? new Deno.errors.BrokenPipe("Cannot send frame: this side has ended");
    putFrame(out, bytes, this.#format);
    out.flush();
    await out.accepted();
  }

  /** Says that nothing more will be sent, once all that was sent is accepted. Reading goes on. */
  end(): Promise<void> {
    const ended = this.#connection.end();
    ended.catch(() => {});
    return ended;
  }

  /**
   * Closes: what was sent still goes out, the peer is told, and has a second to read it and to close too, while
   * what it sends is thrown away.
   */
  async close(): Promise<CloseReason> {
    this.#frames.end(null);
    await this.#connection.finish("closed");
    return await this.closed;
  }

  /** Cuts the connection now; what was not accepted yet is lost. */
  abort(reason: unknown = new DOMException("The connection was aborted", "AbortError")): void {
    this.#connection.abort(reason);
  }

  /** The same as {@linkcode FrameConnection.close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #read(): Promise<void> {
    const consumer: FrameConsumer = {
      ready: () => this.#frames.wanted(),
      take: (batch, from) => this.#take(batch, from),
    };
    try {
      await this.#connection.pump(consumer);
      const { readError, closeError } = this.#connection;
      this.#frames.end(closeError ?? readError);
      if (readError !== null) this.#connection.failRead();
    } catch (error) {
      this.#frames.end(error);
    }
  }

  #take(batch: FrameBatch<Slab>, from: number): number {
    // What is handed out for good is not used again: of the chunk it is a copy, and the loan is given away.
    let copy: Uint8Array | null = null;
    if (batch.loan !== null) batch.loan.abandoned = true;
    for (let i = from; i < batch.count; i++) {
      const bytes = batch.bytesOf(i) === batch.chunk ? copy ??= batch.chunk.slice() : batch.bytesOf(i);
      this.#frames.give(bytes.subarray(batch.startOf(i), batch.endOf(i)));
    }
    return batch.count;
  }
}

/**
 * Puts a frame into an outbox, given without its length field: copied where it is short, else as it lies. A
 * refused frame leaves the outbox untouched.
 */
export function putFrame(out: Outbox, bytes: Uint8Array, format: FrameFormat): void {
  const frameLength = bytes.length + format.lengthFieldLength;
  const value = format.fieldValueFor(frameLength);
  if (frameLength < copyLimit) {
    const at = out.reserve(frameLength);
    encodeFrameInto(bytes, out.bytes, at, format);
    return;
  }
  const { lengthFieldOffset, headerLength } = format, front = bytes.subarray(0, lengthFieldOffset);
  if (headerLength < copyLimit) {
    const at = out.reserve(headerLength);
    out.bytes.set(front, at);
    format.writeField(out.view, at + lengthFieldOffset, value);
  } else {
    const field = new Uint8Array(format.lengthFieldLength);
    format.writeField(new DataView(field.buffer), 0, value);
    out.put(front);
    out.put(field);
  }
  out.put(bytes.subarray(lengthFieldOffset));
}
