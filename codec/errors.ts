// What can be wrong with the bytes: a frame that ends the stream, a packet that is refused.

/** Why a {@linkcode FrameError} was thrown. */
export type FrameErrorCode =
  /** The frame is longer than `maxFrameLength`: `length`, rounded above 2^53, against `limit`. */
  | "too-long"
  /** The length is below the frame's own fixed part: `length` against `limit`. */
  | "too-short"
  /** An 8-byte length field above 2^53−1: `length`, rounded, against `limit`. */
  | "unsafe-length"
  /** The stream ended inside a frame: `length` bytes of `limit` had arrived. */
  | "truncated";

/**
 * The framing is broken. It is fatal to the stream: nothing that follows can be delimited.
 *
 * `length` is the number that was met, `limit` the number that it was held against, both in bytes.
 *
 * @example
 * ```ts
 * import { FrameDecoder, FrameError } from "@framewire/framewire/codec";
 * import { assertThrows } from "@std/assert";
 *
 * const decoder = new FrameDecoder({ maxFrameLength: 100 });
 * const error = assertThrows(() => decoder.push(new Uint8Array([0, 0, 1, 0])), FrameError);
 * console.assert(error.code === "too-long" && error.length === 260 && error.limit === 100);
 * ```
 */
export class FrameError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "FrameError";
  /** What is wrong. */
  readonly code: FrameErrorCode;
  /** The number of bytes that was met; for `truncated` the bytes of the frame that had arrived. */
  readonly length: number;
  /** The number that `length` was held against; for `truncated` the bytes that were needed. */
  readonly limit: number;

  /** Takes the code, the sentence, and the two numbers in it. */
  constructor(code: FrameErrorCode, message: string, length: number, limit: number) {
    super(message);
    this.code = code;
    this.length = length;
    this.limit = limit;
  }
}

/** Why a {@linkcode PacketError} was thrown. */
export type PacketErrorCode =
  /** Shorter than the packet's fixed part: `value` bytes against `limit`. */
  | "too-short"
  /** Longer than a packet of fixed length: `value` bytes against `limit`. */
  | "too-long"
  /** A command that the protocol does not have: `value`. */
  | "unknown-command"
  /** A command that this side never receives: `value`. */
  | "unexpected-command"
  /** A command of the other dialect: `value`. */
  | "other-dialect"
  /** An id that is not eight bytes: `value` is its length against 8, or a character's code against 255. */
  | "bad-id"
  /** A result that is no integer from 0 to 255: `value`, `limit` is 255. */
  | "bad-result";

/**
 * A frame is whole, and what it holds is no packet that is allowed here.
 *
 * @example
 * ```ts
 * import { decodePacket, PacketError } from "@framewire/framewire/codec";
 * import { assertThrows } from "@std/assert";
 *
 * const error = assertThrows(() => decodePacket(new Uint8Array([0x02, 0x31])), PacketError);
 * console.assert(error.code === "too-short" && error.value === 2 && error.limit === 9);
 * ```
 */
export class PacketError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "PacketError";
  /** What is wrong. */
  readonly code: PacketErrorCode;
  /** The number that was met: a length in bytes, a command, a result. */
  readonly value: number;
  /** The number that `value` was held against, where there is one. */
  readonly limit: number | undefined;

  /** Takes the code, the sentence, and the numbers in it. */
  constructor(code: PacketErrorCode, message: string, value: number, limit?: number) {
    super(message);
    this.code = code;
    this.value = value;
    this.limit = limit;
  }
}
