// Framing as web streams: a frame a chunk for simple composition, a batch a chunk for speed.

import type { FrameError } from "./errors.ts";
import { FrameFormat, type FrameFormatOptions } from "./format.ts";
import {
  encodeFrame,
  errorBatch,
  type FrameBatch,
  FrameDecoder,
  type FrameLender,
  type FrameMemory,
} from "./frame.ts";

/**
 * Chunks in, frames out, one frame a chunk: the shape of a `TransformStream`.
 *
 * A framing error, a truncation at the end too, is shown by the readable side after its last good frame,
 * and by the writable side at once. (A real TransformStream that errors drops the frames it has queued.)
 * Frames within a chunk alias it: write chunks that are not used again.
 *
 * @example
 * ```ts
 * import { FrameDecoderStream } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const chunks = ReadableStream.from([new Uint8Array([1, 7, 2, 8]), new Uint8Array([9])]);
 * const format = { lengthFieldLength: 1, initialBytesToStrip: 1 } as const;
 * const frames = await Array.fromAsync(chunks.pipeThrough(new FrameDecoderStream(format)));
 * assertEquals(frames, [new Uint8Array([7]), new Uint8Array([8, 9])]);
 * ```
 */
export class FrameDecoderStream {
  /** The frames. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Takes the chunks; a write resolves when its frames can be read. */
  readonly writable: WritableStream<Uint8Array>;

  /** Takes the format, validated or not. @throws {RangeError} If it is not valid. */
  constructor(format?: FrameFormatOptions) {
    const decoder = new FrameDecoder(format);
    let chunks: WritableStreamDefaultController;
    const frames = new FrameQueue((reason) => chunks.error(reason));
    this.readable = frames.readable;
    this.writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        chunks = controller;
        // An abort must not wait for a write that waits for a reader.
        controller.signal.addEventListener("abort", () => frames.end(controller.signal.reason));
      },
      async write(chunk) {
        await frames.wanted();
        try {
          const batch = decoder.pushBatch(chunk);
          for (let i = 0; i < batch.count; i++) frames.give(batch.frame(i));
          if (batch.error !== null) throw batch.error;
          batch.clear();
        } catch (error) {
          frames.end(error);
          throw error;
        }
      },
      close() {
        try {
          decoder.finish();
          frames.end(null);
        } catch (error) {
          frames.end(error);
          throw error;
        }
      },
    });
  }
}

/**
 * A readable side of frames that shows an error only after its last frame has been read, and asks for frames
 * only when a reader waits for one.
 */
export class FrameQueue {
  readonly readable: ReadableStream<Uint8Array>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #end: { readonly error: unknown } | null = null;
  // Set while a reader waits: resolved to let the stream ask again.
  #pulled: PromiseWithResolvers<void> | null = null;
  // Set while somebody waits for a reader.
  #wanted: PromiseWithResolvers<void> | null = null;

  constructor(onCancel: (reason: unknown) => void) {
    this.readable = new ReadableStream<Uint8Array>({
      start: (controller) => void (this.#controller = controller),
      pull: () => {
        // Pulled with nothing queued: all frames have been read, now the error may be shown.
        if (this.#end) return this.#controller.error(this.#end.error);
        this.#wanted?.resolve();
        this.#wanted = null;
        this.#pulled = Promise.withResolvers();
        return this.#pulled.promise;
      },
      cancel: (reason) => {
        this.#end = { error: reason };
        this.#wanted?.resolve();
        onCancel(reason);
      },
    }, { highWaterMark: 0 });
  }

  /** Null where a reader waits, or nothing is read any more; else resolves when that is so. */
  wanted(): Promise<void> | null {
    if (this.#pulled !== null || this.#end !== null) return null;
    this.#wanted ??= Promise.withResolvers();
    return this.#wanted.promise;
  }

  /** Queues a frame; for nobody after the end. */
  give(frame: Uint8Array): void {
    if (this.#end !== null) return;
    this.#controller.enqueue(frame);
    this.#pulled?.resolve();
    this.#pulled = null;
  }

  /** No frame follows: the stream ends behind those that are queued, or fails where there is an error. */
  end(error: unknown): void {
    if (this.#end !== null) return;
    this.#end = { error };
    if (error === null) this.#controller.close();
    else if (this.#pulled !== null) this.#controller.error(error);
    this.#pulled?.resolve();
    this.#pulled = null;
    this.#wanted?.resolve();
  }
}

/**
 * Frames in, chunks out: puts the length field into each. Takes the whole frame without its length field,
 * as {@linkcode encodeFrame} does.
 *
 * A frame that is refused errors the stream with its {@linkcode FrameError}, and nothing of it is written.
 *
 * @example
 * ```ts
 * import { FrameEncoderStream } from "@framewire/framewire/codec";
 * import { toBytes } from "@std/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const frames = ReadableStream.from([new Uint8Array([7]), new Uint8Array([8, 9])]);
 * const bytes = await toBytes(frames.pipeThrough(new FrameEncoderStream({ lengthFieldLength: 1 })));
 * assertEquals(bytes, new Uint8Array([1, 7, 2, 8, 9]));
 * ```
 */
export class FrameEncoderStream extends TransformStream<Uint8Array, Uint8Array> {
  /** Takes the format, validated or not. @throws {RangeError} If it is not valid. */
  constructor(format?: FrameFormatOptions) {
    const valid = FrameFormat.from(format);
    super({ transform: (frame, controller) => controller.enqueue(encodeFrame(frame, valid)) });
  }
}

/**
 * Chunks in, one {@linkcode FrameBatch} out for each: what the server runs on. A web stream costs
 * microseconds a chunk, so a chunk that holds five hundred frames should stay one.
 *
 * Errors travel in band: a batch carries the error behind its frames, a truncation comes as a last batch
 * with no frames, and the stream itself never errors for what the bytes say. Behind an error, batches are
 * empty: reading on discards.
 *
 * The same batch object is filled again for the next chunk, which is pulled only when a batch is asked for:
 * use a batch before asking for the next one.
 *
 * @example
 * ```ts
 * import { FrameBatchStream } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const chunks = ReadableStream.from([new Uint8Array([1, 7, 2, 8]), new Uint8Array([9, 200])]);
 * const seen: string[] = [];
 * for await (const batch of chunks.pipeThrough(new FrameBatchStream({ lengthFieldLength: 1 }))) {
 *   for (let i = 0; i < batch.count; i++) seen.push(batch.frame(i).join());
 *   if (batch.error) seen.push(batch.error.code);
 * }
 * assertEquals(seen, ["1,7", "2,8,9", "truncated"]);
 * ```
 */
export class FrameBatchStream<Loan extends FrameMemory = FrameMemory>
  extends TransformStream<Uint8Array | FrameMemory, FrameBatch<Loan>> {
  /**
   * Takes the format, validated or not, and how many batches may wait to be read: none, unless whoever writes the
   * chunks reads the batch of each before writing the next. A lender gets back what frames were gathered in as batches
   * are cleared, and when the readable side is cancelled.
   *
   * @throws {RangeError} If the format is not valid.
   */
  constructor(
    format?: FrameFormatOptions,
    readableStrategy?: QueuingStrategy<FrameBatch<Loan>>,
    lender?: FrameLender<Loan>,
  ) {
    const decoder = new FrameDecoder(format, lender);
    super(
      {
        transform: (chunk, controller) => controller.enqueue(decoder.pushBatch(chunk)),
        flush: (controller) => {
          if (decoder.error) return;
          try {
            decoder.finish();
          } catch (error) {
            // Its own batch: this is called at once when the source closes, and the decoder's may be in use.
            controller.enqueue(errorBatch(error as FrameError));
          }
        },
        cancel: () => decoder.discard(),
      },
      undefined,
      readableStrategy,
    );
  }
}
