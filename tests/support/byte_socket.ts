// A socket without a kernel, for what a real one cannot be made to do at will.

import type { ByteSocket } from "../../mod.ts";

/** What a call of the socket does: a number of bytes, null for the end, a promise of these. */
type Step = number | null | Promise<number | null>;

/** A step that lasts until the socket is closed. */
export const forever = new Promise<never>(() => {});

/** Reads from `source` and writes into `sink`, call by call; closing it fails what is under way. */
export class ScriptedSocket implements ByteSocket {
  reads = 0;
  bytesRead = 0;
  bytesWritten = 0;
  halfClosed = false;
  readonly #source: (buffer: Uint8Array) => Step;
  readonly #sink: (bytes: Uint8Array) => number | Promise<number>;
  readonly #closed = Promise.withResolvers<never>();

  constructor(source: (buffer: Uint8Array) => Step, sink: (bytes: Uint8Array) => number | Promise<number>) {
    this.#source = source;
    this.#sink = sink;
    this.#closed.promise.catch(() => {});
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    this.reads++;
    const count = await Promise.race([this.#closed.promise, this.#source(buffer)]);
    this.bytesRead += count ?? 0;
    return count;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const count = await Promise.race([this.#closed.promise, this.#sink(bytes)]);
    this.bytesWritten += count;
    return count;
  }

  closeWrite(): Promise<void> {
    this.halfClosed = true;
    return Promise.resolve();
  }

  [Symbol.dispose](): void {
    this.#closed.reject(new Deno.errors.BadResource("The socket was closed"));
  }
}

/** A source that fills each buffer with the same frame, again and again, cut wherever a buffer ends. */
export function endless(frame: Uint8Array): (buffer: Uint8Array) => number {
  let at = 0;
  return (buffer) => {
    for (let i = 0; i < buffer.length; i++, at = (at + 1) % frame.length) buffer[i] = frame[at]!;
    return buffer.length;
  };
}
