// The decoder of the textbooks, to compare with.

import { concat } from "@std/bytes/concat";

/** Concatenate, slice, enqueue. A big-endian length of four bytes, which may count itself. */
export class TextbookDecoderStream extends TransformStream<Uint8Array, Uint8Array> {
  constructor({ countsItself = false } = {}) {
    const own = countsItself ? 0 : 4;
    let buffer: Uint8Array = new Uint8Array(0);
    super({
      transform(chunk, controller) {
        buffer = concat([buffer, chunk]);
        let at = 0;
        while (buffer.length - at >= 4) {
          const length = new DataView(buffer.buffer, buffer.byteOffset + at).getUint32(0) + own;
          if (buffer.length - at < length) break;
          controller.enqueue(buffer.slice(at, at + length));
          at += length;
        }
        buffer = buffer.slice(at);
      },
    });
  }
}
