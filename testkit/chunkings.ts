// How can a network cut these bytes? Every way up to a bound, then some of the others.

import { concat } from "@std/bytes/concat";
import { type Random, randomFrom } from "./random.ts";

/** Options of {@linkcode chunkings}. */
export interface ChunkingsOptions {
  /** How many ways are given before the random ones; there are 2 to the power of the bytes less one. @default {1024} */
  maxAll?: number;
  /** Random ways to give behind them: how many, from which seed. */
  random?: { readonly seed: number; readonly count: number };
}

/**
 * The ways to cut bytes into chunks: whole, every byte alone, then with one cut, with two, and so on from the front to
 * the back; then the random ones. The same options give the same ways in the same order. Every chunk is a copy, which
 * is the caller's, and none is empty; together they are always the bytes.
 *
 * @throws {RangeError} If a number of ways is not a whole number from 0 on.
 *
 * @example A decoder that does not mind
 * ```ts
 * import { chunkings } from "@framewire/framewire/testkit";
 * import { FrameDecoder } from "@framewire/framewire/codec";
 * import { assertEquals } from "@std/assert";
 *
 * const wire = new Uint8Array([0, 0, 0, 2, 0x68, 0x69]);
 * let ways = 0;
 * for (const chunks of chunkings(wire, { random: { seed: 7, count: 3 } })) {
 *   const decoder = new FrameDecoder();
 *   assertEquals(chunks.flatMap((chunk) => decoder.push(chunk)), [wire]);
 *   decoder.finish();
 *   ways++;
 * }
 * assertEquals(ways, 2 ** 5 + 3);
 * ```
 */
export function* chunkings(
  bytes: Uint8Array,
  { maxAll = 1024, random }: ChunkingsOptions = {},
): Generator<Uint8Array<ArrayBuffer>[]> {
  from0("maxAll", maxAll);
  if (random !== undefined) from0("random.count", random.count);
  let left = maxAll;
  for (const cuts of allCuts(bytes.length)) {
    if (left-- === 0) break;
    yield cutAt(bytes, cuts);
  }
  if (random === undefined) return;
  const draw = randomFrom(random.seed);
  for (let i = 0; i < random.count; i++) yield cutAt(bytes, randomCuts(draw, bytes.length));
}

function* allCuts(length: number): Generator<number[]> {
  const places = Math.max(0, length - 1);
  yield [];
  if (places > 1) yield Array.from({ length: places }, (_, i) => i + 1);
  // Every byte alone is also the way with the most cuts: it was given, unless there is but one place.
  for (let count = 1; count < Math.max(places, 2) && count <= places; count++) {
    yield* combinations(count, 1, places);
  }
}

/** The ways to choose `count` places from `first` to `last`, in rising order. */
function* combinations(count: number, first: number, last: number): Generator<number[]> {
  const chosen = Array.from({ length: count }, (_, i) => first + i);
  while (true) {
    yield [...chosen];
    let at = count - 1;
    while (at >= 0 && chosen[at]! === last - (count - 1 - at)) at--;
    if (at < 0) return;
    chosen[at]!++;
    for (let i = at + 1; i < count; i++) chosen[i] = chosen[i - 1]! + 1;
  }
}

/** A share of the places that is itself drawn: few cuts are as likely as many. */
function randomCuts(random: Random, length: number): number[] {
  const share = random(), cuts: number[] = [];
  for (let at = 1; at < length; at++) if (random() < share) cuts.push(at);
  return cuts;
}

function cutAt(bytes: Uint8Array, cuts: readonly number[]): Uint8Array<ArrayBuffer>[] {
  if (bytes.length === 0) return [];
  return [...cuts, bytes.length].map((end, i) => concat([bytes.subarray(cuts[i - 1] ?? 0, end)]));
}

function from0(field: string, count: number): void {
  if (!Number.isInteger(count) || count < 0) {
    throw new RangeError(`${field} must be a whole number from 0 on, and is ${count}`);
  }
}
