// A socket as streams that know half-close. (Deno's own `conn.readable` closes the whole connection at EOF, and
// `conn.writable.close()` does too: a framing pipeline whose peer half-closes loses the replies still due.)

import { SlabPool, SlabSizing } from "./slab.ts";

/** What is used of a socket: a `Deno.TcpConn`, `Deno.TlsConn` or `Deno.UnixConn` has it. */
export interface ByteSocket extends Disposable {
  /** Reads into `buffer`; the number of bytes, or null at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Writes the front of `bytes`; the number of bytes that were accepted. */
  write(bytes: Uint8Array): Promise<number>;
  /** Says that nothing more will be written; reading goes on. */
  closeWrite(): Promise<void>;
}

/** Both directions of a socket. */
export interface Duplex {
  /** The chunks as read; ends when the peer ends, while writing goes on. Each chunk is its reader's own. */
  readonly readable: ReadableStream<Uint8Array>;
  /** Chunks to write; closing it half-closes once all are written, while reading goes on. */
  readonly writable: WritableStream<Uint8Array>;
}

/**
 * Wraps a socket in streams with an honest half-close, for pipelines of one's own.
 *
 * The socket is closed when both directions are done (the readable ended or cancelled, the writable closed), and
 * at once when either fails or the writable is aborted. A chunk given to the writable must not change until its
 * write resolves.
 *
 * @example An echo server that loses nothing when its peer half-closes
 * ```ts
 * import { duplex, FrameDecoderStream } from "@framewire/framewire";
 * import { toText } from "@std/streams";
 * import { assertEquals } from "@std/assert";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const client = duplex(await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }));
 * const server = duplex(await listener.accept());
 * listener.close();
 *
 * const echoed = server.readable.pipeThrough(new FrameDecoderStream()).pipeTo(server.writable);
 * const writer = client.writable.getWriter();
 * await writer.write(new Uint8Array([0, 0, 0, 2, 0x68, 0x69]));
 * await writer.close();
 * assertEquals(await toText(client.readable), "\0\0\0\x02hi");
 * await echoed;
 * ```
 */
export function duplex(socket: ByteSocket): Duplex {
  let open = 2, cancelled = false;
  const done = () => void (--open === 0 && socket[Symbol.dispose]());
  let failWritable: (error: unknown) => void;
  let failReadable: (error: unknown) => void;
  const slabs = new SlabPool(), sizing = new SlabSizing();
  const fail = (error: unknown) => {
    open = 0;
    socket[Symbol.dispose]();
    failReadable(error);
    failWritable(error);
  };
  const readable = new ReadableStream<Uint8Array>({
    start: (controller) => void (failReadable = (error) => controller.error(error)),
    pull: (controller) => {
      const slab = sizing.next(slabs);
      return socket.read(slab.bytes).then((count) => {
        // A read that was under way when the readable was cancelled brings what nobody wants.
        if (cancelled) return;
        if (count === null) {
          controller.close();
          done();
        } else {
          controller.enqueue(slab.bytes.slice(0, count));
          sizing.learn(slabs, count);
        }
        slabs.release(slab);
      }).catch(fail);
    },
    cancel: () => {
      cancelled = true;
      done();
    },
  }, { highWaterMark: 0 });
  const writable = new WritableStream<Uint8Array>({
    start: (controller) => {
      failWritable = (error) => controller.error(error);
      // The sink's abort() would wait for a write that is blocked.
      controller.signal.addEventListener("abort", () => fail(controller.signal.reason));
    },
    async write(chunk) {
      try {
        for (let at = 0; at < chunk.length;) at += await socket.write(chunk.subarray(at));
      } catch (error) {
        fail(error);
        throw error;
      }
    },
    async close() {
      try {
        await socket.closeWrite();
        done();
      } catch (error) {
        fail(error);
        throw error;
      }
    },
  });
  return { readable, writable };
}

/** Whether an error of a socket says that its peer is gone. */
export function isGone(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionAborted || error instanceof Deno.errors.NotConnected ||
    error instanceof Deno.errors.TimedOut;
}
