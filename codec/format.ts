// What do the frames of a protocol look like? A format is data, validated once, when it is made.

import { FrameError } from "./errors.ts";

/**
 * The layout of a length-prefixed frame, in the terms of Netty's `LengthFieldBasedFrameDecoder`.
 *
 * ```text
 *  0         lengthFieldOffset                                       frame length
 *  |---------|------------------|-----------------------------------|
 *            | length field: L  |
 *            frame length = L + lengthAdjustment + lengthFieldOffset + lengthFieldLength
 * ```
 */
export interface FrameFormatOptions {
  /** Bytes before the length field. @default {0} */
  lengthFieldOffset?: number;
  /** Bytes of the length field. @default {4} */
  lengthFieldLength?: 1 | 2 | 3 | 4 | 8;
  /** The order of the length field's bytes. @default {"big"} */
  byteOrder?: "big" | "little";
  /** What to add to the field's value to get the number of bytes that follow the field. @default {0} */
  lengthAdjustment?: number;
  /** Bytes that a decoder takes off the front of each frame. @default {0} */
  initialBytesToStrip?: number;
  /**
   * The longest frame that is accepted, in bytes: the whole of it as on the wire, on decode and on
   * encode alike. A value beyond what the length field can say is clipped to that.
   *
   * @default {1_048_576}
   */
  maxFrameLength?: number;
}

/**
 * A validated frame format. Make one to validate early and to share it; whatever takes a format also
 * takes plain {@linkcode FrameFormatOptions}.
 *
 * @example The length field counts itself and is not shown to the reader
 * ```ts
 * import { encodeFrame, FrameFormat } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const format = new FrameFormat({ lengthFieldLength: 2, lengthAdjustment: -2, initialBytesToStrip: 2 });
 * assertEquals(format.maxFrameLength, 65535); // clipped to what two bytes can say
 * assertEquals(encodeFrame(new Uint8Array([7, 8]), format), new Uint8Array([0, 4, 7, 8]));
 * ```
 */
export class FrameFormat implements Required<FrameFormatOptions> {
  /** Bytes before the length field. */
  readonly lengthFieldOffset: number;
  /** Bytes of the length field. */
  readonly lengthFieldLength: 1 | 2 | 3 | 4 | 8;
  /** The order of the length field's bytes. */
  readonly byteOrder: "big" | "little";
  /** What to add to the field's value to get the number of bytes that follow the field. */
  readonly lengthAdjustment: number;
  /** Bytes that a decoder takes off the front of each frame. */
  readonly initialBytesToStrip: number;
  /** The longest frame that is accepted, in bytes, header included. */
  readonly maxFrameLength: number;
  /** Bytes up to the end of the length field: no frame is shorter. */
  readonly headerLength: number;
  // What the decoder needs of these for each frame: with it worked out beforehand, one of 16 bytes costs a tenth less.
  readonly #plain: boolean;
  readonly #unsaid: number;
  readonly #shortest: number;

  /**
   * Validates the options.
   *
   * @throws {RangeError} If a field is out of its range; names the field, the limit and the value.
   */
  constructor(options: FrameFormatOptions = {}) {
    const {
      lengthFieldOffset = 0,
      lengthFieldLength = 4,
      byteOrder = "big",
      lengthAdjustment = 0,
      initialBytesToStrip = 0,
      maxFrameLength = 1_048_576,
    } = options;
    integer("lengthFieldOffset", lengthFieldOffset, 0);
    if (![1, 2, 3, 4, 8].includes(lengthFieldLength)) {
      throw new RangeError(
        `Cannot make a frame format: lengthFieldLength must be 1, 2, 3, 4 or 8, and is ${lengthFieldLength}`,
      );
    }
    if (byteOrder !== "big" && byteOrder !== "little") {
      throw new RangeError(
        `Cannot make a frame format: byteOrder must be "big" or "little", and is ${
          JSON.stringify(byteOrder)
        }`,
      );
    }
    integer("lengthAdjustment", lengthAdjustment, -Number.MAX_SAFE_INTEGER);
    integer("initialBytesToStrip", initialBytesToStrip, 0);
    integer("maxFrameLength", maxFrameLength, 1);

    const headerLength = lengthFieldOffset + lengthFieldLength;
    const sayable = maxFieldValue(lengthFieldLength) + lengthAdjustment + headerLength;
    if (sayable < headerLength) {
      throw new RangeError(
        `Cannot make a frame format: lengthAdjustment must be at least -${
          maxFieldValue(lengthFieldLength)
        }, ` +
          `the most that the length field can say, and is ${lengthAdjustment}`,
      );
    }
    const clipped = Math.min(maxFrameLength, sayable),
      shortest = headerLength + Math.max(0, lengthAdjustment);
    if (clipped < shortest) {
      throw new RangeError(
        `Cannot make a frame format: maxFrameLength must be at least the ${shortest} bytes of the shortest ` +
          `frame, and is ${clipped}`,
      );
    }
    if (initialBytesToStrip > clipped) {
      throw new RangeError(
        `Cannot make a frame format: initialBytesToStrip must be at most maxFrameLength ${clipped}, ` +
          `and is ${initialBytesToStrip}`,
      );
    }
    this.lengthFieldOffset = lengthFieldOffset;
    this.lengthFieldLength = lengthFieldLength;
    this.byteOrder = byteOrder;
    this.lengthAdjustment = lengthAdjustment;
    this.initialBytesToStrip = initialBytesToStrip;
    this.maxFrameLength = clipped;
    this.headerLength = headerLength;
    this.#plain = lengthFieldLength === 4 && byteOrder === "big";
    this.#unsaid = lengthAdjustment + headerLength;
    this.#shortest = Math.max(headerLength, initialBytesToStrip);
    Object.freeze(this);
  }

  /** Gives back a format as it is, and validates plain options. */
  static from(options?: FrameFormatOptions): FrameFormat {
    return options instanceof FrameFormat ? options : new FrameFormat(options);
  }

  /**
   * Reads the length of the frame that begins at `at`: the whole of it as on the wire, in bytes. The
   * view must hold `headerLength` bytes from there.
   *
   * @throws {FrameError} If no frame of this format may have that length.
   */
  frameLengthAt(view: DataView, at: number): number {
    const field = at + this.lengthFieldOffset;
    const length = (this.#plain ? view.getUint32(field) : this.#valueAt(view, field)) + this.#unsaid;
    if (length > this.maxFrameLength) throw this.#tooLong("decode", length);
    if (length < this.#shortest) {
      throw tooShort("decode", length, length < this.headerLength ? this.headerLength : this.#shortest);
    }
    return length;
  }

  #valueAt(view: DataView, field: number): number {
    const little = this.byteOrder === "little";
    switch (this.lengthFieldLength) {
      case 4:
        return view.getUint32(field, little);
      case 2:
        return view.getUint16(field, little);
      case 1:
        return view.getUint8(field);
      case 3:
        return little
          ? view.getUint16(field, true) + view.getUint8(field + 2) * 0x1_0000
          : view.getUint8(field) * 0x1_0000 + view.getUint16(field + 1);
      case 8: {
        const high = view.getUint32(little ? field + 4 : field, little);
        const low = view.getUint32(little ? field : field + 4, little);
        const value = high * 0x1_0000_0000 + low;
        if (high > 0x1f_ffff) throw unsafeLength(value);
        return value;
      }
    }
  }

  /**
   * Says what the length field of a frame must hold. `frameLength` is the whole frame as on the wire,
   * in bytes.
   *
   * @throws {FrameError} If no frame of this format may have that length.
   */
  fieldValueFor(frameLength: number): number {
    if (frameLength > this.maxFrameLength) throw this.#tooLong("encode", frameLength);
    const shortest = Math.max(
      this.headerLength + Math.max(0, this.lengthAdjustment),
      this.initialBytesToStrip,
    );
    if (frameLength < shortest) throw tooShort("encode", frameLength, shortest);
    return frameLength - this.headerLength - this.lengthAdjustment;
  }

  /** Writes a length field that begins at `at`, with a value from {@linkcode fieldValueFor}. */
  writeField(view: DataView, at: number, value: number): void {
    const little = this.byteOrder === "little";
    switch (this.lengthFieldLength) {
      case 4:
        view.setUint32(at, value, little);
        break;
      case 2:
        view.setUint16(at, value, little);
        break;
      case 1:
        view.setUint8(at, value);
        break;
      case 3:
        view.setUint16(little ? at : at + 1, value & 0xffff, little);
        view.setUint8(little ? at + 2 : at, value >>> 16);
        break;
      case 8:
        view.setUint32(little ? at + 4 : at, Math.floor(value / 0x1_0000_0000), little);
        view.setUint32(little ? at : at + 4, value % 0x1_0000_0000, little);
    }
  }

  #tooLong(action: string, length: number): FrameError {
    return new FrameError(
      "too-long",
      `Cannot ${action} frame: its length ${length} exceeds maxFrameLength ${this.maxFrameLength}`,
      length,
      this.maxFrameLength,
    );
  }
}

function tooShort(action: string, length: number, limit: number): FrameError {
  return new FrameError(
    "too-short",
    `Cannot ${action} frame: its length ${length} is below the ${limit} bytes of its fixed part`,
    length,
    limit,
  );
}

function unsafeLength(length: number): FrameError {
  return new FrameError(
    "unsafe-length",
    `Cannot decode frame: its length field says about ${length}, above 2^53-1`,
    length,
    Number.MAX_SAFE_INTEGER,
  );
}

function maxFieldValue(lengthFieldLength: number): number {
  return lengthFieldLength === 8 ? Number.MAX_SAFE_INTEGER : 2 ** (8 * lengthFieldLength) - 1;
}

function integer(field: string, value: number, minimum: number): void {
  if (Number.isSafeInteger(value) && value >= minimum) return;
  const range = minimum < 0 ? "a safe integer" : `a safe integer of at least ${minimum}`;
  throw new RangeError(`Cannot make a frame format: ${field} must be ${range}, and is ${value}`);
}
