// The submit protocol's bytes, put together and taken apart by hand: nothing of the codec that is judged is used.

import type { Dialect } from "../../codec/mod.ts";

/** A frame around a body: four bytes of length that count themselves. `totalLength` may lie. */
export function frame(body: Uint8Array, totalLength = body.length + 4): Uint8Array {
  return joined(uint32(totalLength), body);
}

/** Four bytes, big-endian. */
export function uint32(value: number): Uint8Array {
  return new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);
}

/** A request's frame. An id is eight bytes, as characters U+0000 to U+00FF; a number is made eight digits. */
export function request(command: number, id: string | number, payload: Uint8Array | string = ""): Uint8Array {
  return frame(
    joined(new Uint8Array([command]), idBytes(id), typeof payload === "string" ? utf8(payload) : payload),
  );
}

/** A SUBMIT's frame. */
export function submit(id: string | number, payload?: Uint8Array | string): Uint8Array {
  return request(0x02, id, payload);
}

/** An answer's frame. */
export function answer(command: number, id: string | number, result = 0): Uint8Array {
  return request(command, id, new Uint8Array([result]));
}

/** The SUBMITs from one serial number to another, one behind the other. */
export function submits(from: number, to: number, payload?: Uint8Array | string): Uint8Array {
  const first = submit(from, payload), all = new Uint8Array(first.length * (to - from + 1));
  for (let serial = from, at = 0; serial <= to; serial++, at += first.length) {
    all.set(first, at);
    all.set(idBytes(serial), at + 5);
  }
  return all;
}

/** The numbers from one to another. */
export function serials(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** An id of eight digits. */
export function idOf(serial: number): string {
  return String(serial).padStart(8, "0");
}

/** How a dialect numbers its answers. */
export const answerCommands: Readonly<Record<Dialect, { readonly conn: number; readonly submit: number }>> = {
  spec: { conn: 0x81, submit: 0x82 },
  legacy: { conn: 0x80, submit: 0x81 },
};

/** An answer as it came. */
export interface Answer {
  readonly command: number;
  /** The eight bytes, as characters U+0000 to U+00FF. */
  readonly id: string;
  readonly result: number;
}

/** The length of an answer's frame. */
export const answerLength = 14;

/** Takes an answer's frame apart; null where it is none. */
export function answerAt(bytes: Uint8Array, at = 0): Answer | null {
  if (bytes[at] !== 0 || bytes[at + 1] !== 0 || bytes[at + 2] !== 0 || bytes[at + 3] !== answerLength) {
    return null;
  }
  return {
    command: bytes[at + 4]!,
    id: String.fromCharCode(...bytes.subarray(at + 5, at + 13)),
    result: bytes[at + 13]!,
  };
}

/** All of the parts in one. */
export function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The bytes in pieces of a length. */
export function pieces(bytes: Uint8Array, length: number): Uint8Array[] {
  return Array.from(
    { length: Math.ceil(bytes.length / length) },
    (_, index) => bytes.subarray(index * length, (index + 1) * length),
  );
}

/** An id as it is shown: quoted, what is not printable in hex. */
export function shownId(id: string): string {
  return `"${id.replace(/[^\x20-\x7e]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)}"`;
}

/** A byte as it is written: 0x0a. */
export function shownByte(byte: number): string {
  return `0x${byte.toString(16).padStart(2, "0")}`;
}

function idBytes(id: string | number): Uint8Array {
  return Uint8Array.from(typeof id === "number" ? idOf(id) : id, (character) => character.charCodeAt(0));
}

/** A text's bytes. */
export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
