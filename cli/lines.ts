// Bytes to lines, an array for each chunk, with a bound: a line without an end must not fill the memory.

import { concat } from "@std/bytes/concat";

/** A line was too long, and was skipped. */
export class LongLineError extends Error {
  override readonly name = "LongLineError";

  constructor(line: number, maxLength: number) {
    super(`line ${line} is longer than the ${maxLength} bytes that fit a frame, and is skipped`);
  }
}

/**
 * The lines of a stream of bytes, without their ends (LF or CR LF). Each array holds the lines that one chunk
 * completed. A line over `maxLength` bytes stands as an error where the line would.
 */
export async function* linesOf(
  bytes: ReadableStream<Uint8Array>,
  maxLength: number,
): AsyncGenerator<(Uint8Array | LongLineError)[]> {
  let parts: Uint8Array[] = [], length = 0, number = 0;
  const finish = (end: Uint8Array): Uint8Array | LongLineError => {
    number++;
    const line = parts.length === 0 ? end : concat([...parts, end]);
    const whole = length + end.length > maxLength + 1 ? null : withoutReturn(line);
    parts = [];
    length = 0;
    return whole === null || whole.length > maxLength ? new LongLineError(number, maxLength) : whole;
  };
  for await (const chunk of bytes) {
    const lines: (Uint8Array | LongLineError)[] = [];
    let start = 0;
    for (let end; (end = chunk.indexOf(lineFeed, start)) !== -1; start = end + 1) {
      lines.push(finish(chunk.subarray(start, end)));
    }
    if (start < chunk.length) {
      length += chunk.length - start;
      // Past the limit only the length is of interest. One byte more, for a CR.
      if (length <= maxLength + 1) parts.push(chunk.slice(start));
      else parts = [];
    }
    if (lines.length > 0) yield lines;
  }
  if (length > 0) yield [finish(new Uint8Array(0))];
}

function withoutReturn(line: Uint8Array): Uint8Array {
  return line.at(-1) === carriageReturn ? line.subarray(0, -1) : line;
}

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
