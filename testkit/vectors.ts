// What should become of these bytes? The golden vectors, as published data. testkit/vectors/README.md tells the fields.

import type { Dialect } from "../codec/packet.ts";
import type { FrameFormatOptions } from "../codec/format.ts";
import formats from "./vectors/formats.json" with { type: "json" };
import submits from "./vectors/submit.json" with { type: "json" };

/** Whether all is well, there is an error, or the bytes end inside a frame. */
export type VectorKind = "valid" | "invalid" | "truncated";

/** The first error that a receiver must find, with its numbers. */
export type VectorError =
  | {
    readonly class: "FrameError";
    readonly code: string;
    readonly length: number;
    readonly limit: number;
  }
  | {
    readonly class: "PacketError";
    readonly code: string;
    readonly value: number;
    readonly limit: number | null;
  };

/** A packet; its bytes are hex. */
export type VectorPacket =
  | { readonly type: "conn" | "submit"; readonly id: string; readonly payload: string }
  | { readonly type: "conn-ack" | "submit-ack"; readonly id: string; readonly result: number };

/** What all vectors have. */
export interface Vector {
  /** What is special about it; unique. */
  readonly name: string;
  /** How it ends. */
  readonly kind: VectorKind;
  /** All of the stream's bytes, in hex; the stream ends behind them. */
  readonly wire: string;
  /** The first error; absent where it is valid. */
  readonly error?: VectorError;
}

/** Bytes of the submit protocol. */
export interface SubmitVector extends Vector {
  /** The numbers of the answers' commands. */
  readonly dialect: Dialect;
  /** The receiver's limit, in bytes. */
  readonly maxFrameLength: number;
  /** The packets before the error, in order. */
  readonly packets: readonly VectorPacket[];
}

/** Bytes in some frame format. */
export interface FormatVector extends Vector {
  /** The format, whole. */
  readonly format: FrameFormatOptions;
  /** What an encoder takes for each frame before the error, in hex. */
  readonly contents: readonly string[];
  /** What a decoder gives for each frame before the error, in hex. */
  readonly frames: readonly string[];
}

/**
 * The vectors of the submit protocol, each with its limit.
 *
 * @example
 * ```ts
 * import { submitVectors } from "@framewire/framewire/testkit";
 * import { FrameDecoder, submitFormat } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * for (const { name, kind, wire, packets, maxFrameLength } of submitVectors) {
 *   if (kind !== "valid") continue;
 *   const decoder = new FrameDecoder(submitFormat(maxFrameLength));
 *   assertEquals(decoder.push(Uint8Array.fromHex(wire)).length, packets.length, name);
 * }
 * ```
 */
export const submitVectors: readonly SubmitVector[] = submits.vectors.map((vector) => ({
  maxFrameLength: submits.maxFrameLength,
  ...vector as Omit<SubmitVector, "maxFrameLength">,
}));

/**
 * The vectors of frame formats, in Netty's terms, each with its whole format.
 *
 * @example
 * ```ts
 * import { formatVectors } from "@framewire/framewire/testkit";
 * import { FrameDecoder } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const netty = formatVectors.find(({ name }) => name.startsWith("Netty 1"))!;
 * const frames = new FrameDecoder(netty.format).push(Uint8Array.fromHex(netty.wire));
 * assertEquals(frames.map((frame) => frame.toHex()), netty.frames);
 * ```
 */
export const formatVectors: readonly FormatVector[] = formats.vectors.map((vector) => ({
  ...vector as FormatVector,
  format: { ...formats.defaults, ...vector.format } as FrameFormatOptions,
}));
