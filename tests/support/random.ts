// Random numbers that can be had again: a test prints its seed, and takes one from the environment.

/** A generator of numbers from 0 up to 1: mulberry32. */
export type Random = () => number;

/** The generator of a seed. */
export function randomFrom(seed: number): Random {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A seed: the one that SEED names, or a new one. */
export function newSeed(): number {
  return Number(Deno.env.get("SEED") ?? Math.floor(Math.random() * 2 ** 31));
}

/** One of the items. */
export function oneOf<T>(random: Random, items: readonly T[]): T {
  return items[Math.floor(random() * items.length)]!;
}

/** An integer from `low` to `high`. */
export function between(random: Random, low: number, high: number): number {
  return low + Math.floor(random() * (high - low + 1));
}
