// Random numbers that can be had again: whoever draws some says the seed.

/** A generator of numbers from 0 up to 1. */
export type Random = () => number;

/**
 * The generator of a seed (mulberry32): the same seed gives the same numbers, on every machine.
 *
 * @example
 * ```ts
 * import { between, randomFrom } from "@framewire/framewire/testkit";
 * import { assertEquals } from "@std/assert";
 *
 * const [one, another] = [randomFrom(7), randomFrom(7)];
 * assertEquals(between(one, 1, 6), between(another, 1, 6));
 * ```
 */
export function randomFrom(seed: number): Random {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A new seed, of 31 bits. */
export function newSeed(): number {
  return Math.floor(Math.random() * 2 ** 31);
}

/** One of the items. */
export function oneOf<T>(random: Random, items: readonly T[]): T {
  return items[Math.floor(random() * items.length)]!;
}

/** An integer from `low` to `high`, both included. */
export function between(random: Random, low: number, high: number): number {
  return low + Math.floor(random() * (high - low + 1));
}
