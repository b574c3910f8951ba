// What do these bytes look like? Rows of hex with the frames' boundaries marked, one dump or two side by side.

import { AssertionError } from "@std/assert";
import { FrameError } from "../codec/errors.ts";
import { FrameFormat, type FrameFormatOptions } from "../codec/format.ts";

/** Options of {@linkcode hexDump}. */
export interface HexDumpOptions {
  /** What the frames look like; without it, no boundaries are marked. */
  format?: FrameFormatOptions;
  /** How many bytes are shown; of the rest only the number is said. @default {65_536} */
  maxBytes?: number;
}

/**
 * Bytes as text: rows of 16 with their offset, in hex and as characters. Where a format is given, `|` stands before
 * the first byte of each frame, the lengths of the frames that begin in a row stand at its end, and every byte from
 * a broken length on has a `!` before it.
 *
 * @throws {RangeError} If the format is not valid.
 *
 * @example
 * ```ts
 * import { hexDump } from "@framewire/framewire/testkit";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = new Uint8Array([2, 0x68, 0x69, 1, 0x21, 9]);
 * assertEquals(
 *   hexDump(bytes, { format: { lengthFieldLength: 1 } }),
 *   "00000000 |02 68 69|01 21|09                                .hi.!.            3 B, 2 B, 1 of 10 B",
 * );
 * ```
 */
export function hexDump(bytes: Uint8Array, options: HexDumpOptions = {}): string {
  const { format, maxBytes = 65_536 } = options;
  const marks = format === undefined ? noMarks : new FrameMarker(format).mark(bytes, true);
  return dumpRows(bytes.subarray(0, maxBytes), marks, bytes.length).join("\n");
}

/** Options of {@linkcode assertBytesEqual}. */
export interface BytesEqualOptions {
  /** What the frames look like; without it, no boundaries are marked. */
  format?: FrameFormatOptions;
  /** What to say before the dump. */
  message?: string;
}

/**
 * Asserts that the bytes are the same. Where they are not, it fails with both side by side around the differences,
 * the boundaries of frames marked as in {@linkcode hexDump}, and the first difference pointed at.
 *
 * @throws {AssertionError} If they differ, in a byte or in length.
 *
 * @example
 * ```ts
 * import { assertBytesEqual } from "@framewire/framewire/testkit";
 * import { assertThrows } from "@std/assert";
 *
 * assertBytesEqual(new Uint8Array([1, 7]), new Uint8Array([1, 7]));
 * const differ = () => assertBytesEqual(new Uint8Array([1, 7]), new Uint8Array([1, 8]));
 * assertThrows(differ, Error, "first difference at byte 1: 08 was expected, and 07 came");
 * ```
 */
export function assertBytesEqual(
  actual: Uint8Array,
  expected: Uint8Array,
  options: BytesEqualOptions = {},
): void {
  const first = firstDifference(actual, expected);
  if (first === -1) return;
  const { format, message = "the bytes differ" } = options;
  const at = (bytes: Uint8Array) => first < bytes.length ? hexOf(bytes[first]!) : "the end";
  throw new AssertionError([
    `${message}: ${actual.length} bytes came, ${expected.length} were expected`,
    `first difference at byte ${first}: ${at(expected)} was expected, and ${at(actual)} came`,
    "",
    ...sideBySide(actual, expected, first, format),
  ].join("\n"));
}

/** Where frames begin in a chunk. */
export interface FrameMarks {
  /** Where each frame begins that begins in the chunk, with what is to be said of it. */
  readonly frames: readonly { readonly at: number; label: string }[];
  /** From where on nothing can be delimited; Infinity where all is well. */
  readonly brokenFrom: number;
}

/** Finds the boundaries of frames in chunks that follow one another. */
export class FrameMarker {
  readonly #format: FrameFormat;
  readonly #header: Uint8Array;
  readonly #view: DataView;
  #held = 0;
  /** Bytes of the frame under way that are still to come behind its header. */
  #rest = 0;
  #broken = false;

  constructor(format: FrameFormatOptions) {
    this.#format = FrameFormat.from(format);
    this.#header = new Uint8Array(this.#format.headerLength);
    this.#view = new DataView(this.#header.buffer);
  }

  /** The boundaries in the next chunk. `last` says that no other follows, so that a cut frame is one. */
  mark(chunk: Uint8Array, last = false): FrameMarks {
    const frames: { at: number; label: string }[] = [];
    let at = 0, length = 0;
    while (!this.#broken && at < chunk.length) {
      if (this.#rest > 0) {
        const taken = Math.min(this.#rest, chunk.length - at);
        this.#rest -= taken;
        at += taken;
        continue;
      }
      if (this.#held === 0) frames.push({ at, label: "header cut" });
      this.#header[this.#held++] = chunk[at++]!;
      if (this.#held < this.#header.length) continue;
      const begun = frames.at(-1), start = at - this.#held;
      this.#held = 0;
      try {
        length = this.#format.frameLengthAt(this.#view, 0);
        this.#rest = length - this.#header.length;
        if (begun !== undefined) begun.label = `${length} B`;
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        this.#broken = true;
        const from = Math.max(0, start), label = error.message.replace("Cannot decode frame: ", "broken: ");
        if (begun !== undefined && begun.at === from) begun.label = label;
        else frames.push({ at: from, label });
        return { frames, brokenFrom: from };
      }
    }
    const open = frames.at(-1);
    if (last && this.#rest > 0 && open !== undefined) {
      open.label = `${length - this.#rest} of ${length} B`;
    }
    return { frames, brokenFrom: this.#broken ? 0 : Infinity };
  }
}

/** The rows of a dump. `length` is how many bytes there were before a bound cut them, `width` how many a row has. */
export function dumpRows(
  bytes: Uint8Array,
  marks: FrameMarks = noMarks,
  length = bytes.length,
  width = rowLength,
): string[] {
  const rows: string[] = [];
  const { frames } = marks;
  let next = 0;
  for (let start = 0; start < bytes.length; start += width) {
    const labels: string[] = [];
    const end = Math.min(start + width, bytes.length), from = next;
    for (; next < frames.length && frames[next]!.at < end; next++) labels.push(frames[next]!.label);
    const begins = new Set(frames.slice(from, next).map(({ at }) => at));
    const cells = cellsOf(bytes, start, width, begins, marks.brokenFrom);
    const offset = start.toString(16).padStart(8, "0");
    const text = charactersOf(bytes.subarray(start, end)).padEnd(width);
    rows.push(`${offset} ${cells} ${text}  ${shortened(labels)}`.trimEnd());
  }
  if (length > bytes.length) rows.push(`… and ${length - bytes.length} more bytes`);
  return rows;
}

const rowLength = 16;
const sideLength = 8;
/** Rows that are shown before and behind one that differs. */
const contextRows = 2;
const maxSideRows = 40;
const noMarks: FrameMarks = { frames: [], brokenFrom: Infinity };

function sideBySide(
  actual: Uint8Array,
  expected: Uint8Array,
  first: number,
  format: FrameFormatOptions | undefined,
): string[] {
  const side = (bytes: Uint8Array) => {
    const { frames, brokenFrom } = format === undefined ? noMarks : new FrameMarker(format).mark(bytes);
    const begins = new Set(frames.map(({ at }) => at));
    return (start: number) => {
      const text = charactersOf(bytes.subarray(start, start + sideLength)).padEnd(sideLength);
      return `${cellsOf(bytes, start, sideLength, begins, brokenFrom)} ${text}`;
    };
  };
  const [left, right] = [side(expected), side(actual)];
  const differs = (start: number) =>
    firstDifference(
      actual.subarray(Math.max(0, start), Math.max(0, start + sideLength)),
      expected.subarray(Math.max(0, start), Math.max(0, start + sideLength)),
    ) !== -1;
  const near = (start: number) => {
    for (let row = -contextRows; row <= contextRows; row++) {
      if (differs(start + row * sideLength)) return true;
    }
    return false;
  };
  const width = sideLength * 3 + 2 + sideLength;
  const rows = [`           ${"expected".padEnd(width)}   came`];
  let skipped = 0;
  const longest = Math.max(actual.length, expected.length);
  for (let start = 0; start < longest; start += sideLength) {
    if (rows.length > maxSideRows) {
      rows.push(`… and ${longest - start} more bytes`);
      break;
    }
    if (!near(start)) {
      skipped++;
      continue;
    }
    if (skipped > 0) rows.push(`… ${skipped * sideLength} bytes are the same`);
    skipped = 0;
    const sign = differs(start) ? "≠" : " ";
    rows.push(
      `${start.toString(16).padStart(8, "0")} ${sign} ${left(start)} ${sign} ${right(start)}`.trimEnd(),
    );
    if (first >= start && first < start + sideLength) {
      const arrow = `${" ".repeat((first - start) * 3 + 1)}^^`.padEnd(width);
      rows.push(`           ${arrow}   ${arrow}`.trimEnd());
    }
  }
  if (skipped > 0) rows.push(`… ${skipped * sideLength} bytes are the same`);
  return rows;
}

/** Bytes in hex, each behind the sign of what begins with it, padded to `width` bytes. */
function cellsOf(
  bytes: Uint8Array,
  start: number,
  width: number,
  begins: ReadonlySet<number>,
  brokenFrom: number,
): string {
  let cells = "";
  for (let at = start; at < start + width; at++) {
    if (at >= bytes.length) cells += "   ";
    else cells += (at >= brokenFrom ? "!" : begins.has(at) ? "|" : " ") + hexOf(bytes[at]!);
  }
  return `${cells} `;
}

/** Labels with those that repeat said once. */
function shortened(labels: readonly string[]): string {
  const runs: { label: string; count: number }[] = [];
  for (const label of labels) {
    const last = runs.at(-1);
    if (last?.label === label) last.count++;
    else runs.push({ label, count: 1 });
  }
  return runs.map(({ label, count }) => count > 1 ? `${count} × ${label}` : label).join(", ");
}

function charactersOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".").join("");
}

function hexOf(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}

function firstDifference(one: Uint8Array, another: Uint8Array): number {
  const common = Math.min(one.length, another.length);
  for (let at = 0; at < common; at++) if (one[at] !== another[at]) return at;
  return one.length === another.length ? -1 : common;
}
