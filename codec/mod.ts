/**
 * The codec: bytes to frames to packets and back. Pure: no sockets, no timers, nothing asynchronous but
 * the streams.
 *
 * ```text
 *  chunks as read        frames as delimited                 packets as meant
 *  ..07 31 | 00 00 ..    [00 00 00 0e 82 30 .. 31 00]        { type: "submit-ack", id: "00000001", result: 0 }
 *            FrameDecoder --->          decodePacket --->
 *            <--- encodeFrame           <--- encodePacket
 * ```
 *
 * @example A packet to bytes and back
 * ```ts
 * import { decodePacket, encodeFrame, encodePacket, FrameDecoder, submitFormat } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const format = submitFormat();
 * const packet = { type: "submit", id: "00000001", payload: new Uint8Array([1, 2, 3]) } as const;
 * const bytes = encodeFrame(encodePacket(packet), format);
 * const [frame] = new FrameDecoder(format).push(bytes);
 * assertEquals(decodePacket(frame!), packet);
 * ```
 *
 * @module
 */

export { FrameError, type FrameErrorCode, PacketError, type PacketErrorCode } from "./errors.ts";
export { FrameFormat, type FrameFormatOptions } from "./format.ts";
export {
  encodeFrame,
  encodeFrameInto,
  type FrameBatch,
  FrameDecoder,
  type FrameLender,
  type FrameMemory,
} from "./frame.ts";
export { FrameBatchStream, FrameDecoderStream, FrameEncoderStream } from "./frame_stream.ts";
export {
  decodePacket,
  type Dialect,
  encodePacket,
  type Packet,
  type RequestPacket,
  type ResponsePacket,
  Result,
  submitFormat,
} from "./packet.ts";
