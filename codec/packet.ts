// What do the frames of the submit protocol hold? The layout of every packet is known here alone.
//
//   request   command:u8  id:8 bytes  payload
//   response  command:u8  id:8 bytes  result:u8

import { PacketError } from "./errors.ts";
import { FrameFormat } from "./format.ts";

/**
 * How the two sides number the answers' commands: `spec` is what the protocol says, `legacy` what the
 * widely copied Go teaching server sends (docs/protocol.md, section 6).
 */
export type Dialect = "spec" | "legacy";

/** A request: `conn` opens a session, `submit` asks for work (docs/protocol.md, section 3). */
export interface RequestPacket {
  /** The command. */
  readonly type: "conn" | "submit";
  /** Eight bytes that the answer repeats, as characters U+0000 to U+00FF; usually digits. */
  readonly id: string;
  /** All that follows the id; may be empty. */
  readonly payload: Uint8Array;
}

/** An answer (docs/protocol.md, section 4). */
export interface ResponsePacket {
  /** The command. */
  readonly type: "conn-ack" | "submit-ack";
  /** The id of the request that is answered. */
  readonly id: string;
  /** 0 where the request was accepted, 1 to 255 where it was not; see {@linkcode Result}. */
  readonly result: number;
}

/** Any packet of the submit protocol. */
export type Packet = RequestPacket | ResponsePacket;

/** The results that have a name (docs/protocol.md, section 5); any other one but 0 means refused. */
export const Result = {
  /** The request was accepted. */
  accepted: 0,
  /** The request was refused. */
  refused: 1,
  /** A SUBMIT came before the CONN that the server demands. */
  notConnected: 2,
  /** The server has too much to do. */
  tooBusy: 3,
  /** The server is stopping. The request was never handled: it is safe to send again. */
  shuttingDown: 4,
  /** The handler failed. */
  handlerFailed: 5,
  /** The handler took too long. */
  handlerTimeout: 6,
} as const;

/**
 * The frame format of the submit protocol (docs/protocol.md, section 2): a big-endian length of four
 * bytes that counts itself.
 *
 * @throws {RangeError} If not even an answer fits `maxFrameLength`.
 *
 * @example
 * ```ts
 * import { encodeFrame, encodePacket, submitFormat } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const packet = encodePacket({ type: "submit-ack", id: "00000001", result: 0 });
 * assertEquals(encodeFrame(packet, submitFormat(1024)).length, 14);
 * ```
 */
export function submitFormat(maxFrameLength = 1_048_576): FrameFormat {
  if (!(maxFrameLength >= ackFrameLength)) {
    throw new RangeError(
      `maxFrameLength must be at least the ${ackFrameLength} bytes of an answer, and is ${maxFrameLength}`,
    );
  }
  return new FrameFormat({
    lengthFieldLength: 4,
    lengthAdjustment: -4,
    initialBytesToStrip: 4,
    maxFrameLength,
  });
}

/**
 * Makes a packet: the body of a frame.
 *
 * @throws {PacketError} If the id is not eight bytes, or the result no integer from 0 to 255.
 *
 * @example
 * ```ts
 * import { encodePacket } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const packet = encodePacket({ type: "submit", id: "00000001", payload: new Uint8Array([0xff]) });
 * assertEquals(packet, new Uint8Array([2, 48, 48, 48, 48, 48, 48, 48, 49, 0xff]));
 * ```
 */
export function encodePacket(packet: Packet, dialect: Dialect = "spec"): Uint8Array {
  const payload = "payload" in packet ? packet.payload : null;
  const bytes = new Uint8Array(payloadOffset + (payload === null ? 1 : payload.length));
  bytes[0] = commandCode(packet.type, dialect);
  writeId(packet.id, bytes);
  if (payload === null) bytes[resultOffset] = validResult((packet as ResponsePacket).result);
  else bytes.set(payload, payloadOffset);
  return bytes;
}

/**
 * Reads a packet from the body of a frame. The payload is a view of it.
 *
 * @throws {PacketError} If it is shorter than its fixed part, or its command is not one of this dialect.
 *
 * @example
 * ```ts
 * import { decodePacket } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const body = new Uint8Array([0x82, 48, 48, 48, 48, 48, 48, 48, 49, 0]);
 * assertEquals(decodePacket(body), { type: "submit-ack", id: "00000001", result: 0 });
 * ```
 */
export function decodePacket(frame: Uint8Array, dialect: Dialect = "spec"): Packet {
  const type = packetType(frame, 0, frame.length, dialect), id = readId(frame, 0);
  return type === "conn" || type === "submit"
    ? { type, id, payload: frame.subarray(payloadOffset) }
    : { type, id, result: frame[resultOffset]! };
}

// What follows works in place on the packet at `start`, for the paths that must not make an object each.

/** Where the id lies in a packet. */
const idOffset = 1;
/** Where the payload of a request lies in a packet, so also the length of an empty one. */
export const payloadOffset = 9;
const resultOffset = 9;
const responseLength = 10;
/** The length of a framed answer, in bytes. */
export const ackFrameLength = 4 + responseLength;
/** Bytes before the payload of a framed request. */
export const requestHeaderLength = 4 + payloadOffset;

// Both dialects number requests alike.
const connCode = 0x01;
const submitCode = 0x02;
const codes: Record<Dialect, Record<Packet["type"], number>> = {
  spec: { conn: connCode, submit: submitCode, "conn-ack": 0x81, "submit-ack": 0x82 },
  legacy: { conn: connCode, submit: submitCode, "conn-ack": 0x80, "submit-ack": 0x81 },
};

/** The command byte of a packet type in a dialect. */
export function commandCode(type: Packet["type"], dialect: Dialect): number {
  return codes[dialect][type];
}

/**
 * Says what the packet in `bytes` from `start` to `end` is, once its length fits that.
 *
 * @throws {PacketError} If it is shorter than its fixed part, or its command is not one of this dialect.
 */
export function packetType(bytes: Uint8Array, start: number, end: number, dialect: Dialect): Packet["type"] {
  const length = end - start;
  if (length < payloadOffset) throw tooShort("packet", length, payloadOffset);
  const command = bytes[start]!;
  if (command === submitCode) return "submit";
  if (command === connCode) return "conn";
  const code = codes[dialect];
  if (command !== code["submit-ack"] && command !== code["conn-ack"]) throw unknownCommand(command, dialect);
  const type = command === code["submit-ack"] ? "submit-ack" : "conn-ack";
  if (length < responseLength) throw tooShort(type, length, responseLength);
  if (length > responseLength) {
    throw new PacketError(
      "too-long",
      `Cannot decode ${type}: its length ${length} exceeds the ${responseLength} bytes of an answer`,
      length,
      responseLength,
    );
  }
  return type;
}

/** Reads the result of the answer at `start`. */
export function readResult(bytes: Uint8Array, start: number): number {
  return bytes[start + resultOffset]!;
}

/** Reads the id of the packet at `start`. */
export function readId(bytes: Uint8Array, start: number): string {
  return String.fromCharCode(...bytes.subarray(start + idOffset, start + payloadOffset));
}

/** Reads the id of the packet at `start` as the number that its digits say; -1 where they are no digits. */
export function readSerial(bytes: Uint8Array, start: number): number {
  let serial = 0;
  for (let at = start + idOffset; at < start + payloadOffset; at++) {
    const digit = bytes[at]! - 0x30;
    if (digit < 0 || digit > 9) return -1;
    serial = serial * 10 + digit;
  }
  return serial;
}

/** A serial number as the eight digits of an id. */
export function serialId(serial: number): string {
  return String(serial).padStart(8, "0");
}

/** Writes a framed answer of {@linkcode ackFrameLength} bytes at `at`, to the request at `start` of `request`. */
export function writeAck(
  target: DataView,
  at: number,
  command: number,
  request: DataView,
  start: number,
  result: number,
): void {
  target.setUint32(at, ackFrameLength);
  target.setUint8(at + 4, command);
  target.setUint32(at + 5, request.getUint32(start + idOffset));
  target.setUint32(at + 9, request.getUint32(start + idOffset + 4));
  target.setUint8(at + 13, result);
}

/** Writes the {@linkcode requestHeaderLength} bytes before the payload of a framed request at `at`. */
export function writeRequestHeader(
  target: DataView,
  at: number,
  command: number,
  serial: number,
  payloadLength: number,
): void {
  target.setUint32(at, requestHeaderLength + payloadLength);
  target.setUint8(at + 4, command);
  for (let digit = at + requestHeaderLength - 1; digit > at + 4; digit--) {
    target.setUint8(digit, 0x30 + serial % 10);
    serial = serial / 10 | 0;
  }
}

/** Gives a result back as it is. @throws {PacketError} If it is no integer from 0 to 255. */
function validResult(result: number): number {
  if (Number.isInteger(result) && result >= 0 && result <= 255) return result;
  throw new PacketError(
    "bad-result",
    `Cannot encode answer: its result must be an integer from 0 to 255, and is ${result}`,
    result,
    255,
  );
}

function writeId(id: string, bytes: Uint8Array): void {
  if (id.length !== 8) throw badId(id, id.length, 8);
  for (let i = 0; i < 8; i++) {
    const code = id.charCodeAt(i);
    if (code > 0xff) throw badId(id, code, 0xff);
    bytes[idOffset + i] = code;
  }
}

function badId(id: string, value: number, limit: number): PacketError {
  const message = `Cannot encode packet: its id must be 8 characters up to U+00FF, and is ${
    JSON.stringify(id)
  }`;
  return new PacketError("bad-id", message, value, limit);
}

function tooShort(what: string, length: number, limit: number): PacketError {
  const message = `Cannot decode ${what}: its length ${length} is below the ${limit} bytes of its fixed part`;
  return new PacketError("too-short", message, length, limit);
}

function unknownCommand(command: number, dialect: Dialect): PacketError {
  const hex = `0x${command.toString(16).padStart(2, "0")}`, other = dialect === "spec" ? "legacy" : "spec";
  const named = Object.entries(codes[other]).find(([, code]) => code === command)?.[0];
  return named === undefined
    ? new PacketError("unknown-command", `Cannot decode packet: ${hex} is no command`, command)
    : new PacketError(
      "other-dialect",
      `Cannot decode packet: ${hex} is no command of dialect ${dialect}, but ${named} in dialect ${other}`,
      command,
    );
}
