// The memory that reads, writes and straddling frames lie in: what is lent, what is kept, and what is given up.

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { SlabPool } from "../transport/slab.ts";

const mib = 1_048_576;

Deno.test("SlabPool.lease() lends the next power of two, and beyond a MiB what was asked for", () => {
  const pool = new SlabPool();
  const lengths = [0, 1, 1024, 1025, 2048, 2049, 65_536, 65_537, mib - 1, mib, mib + 1, 5_000_000];
  const slabs = lengths.map((length) => pool.lease(length));
  const lent = slabs.map(({ bytes }) => bytes.length);
  assertEquals(lent, [
    ...[1024, 1024, 1024, 2048, 2048, 4096, 65_536, 131_072],
    ...[mib, mib, mib + 1, 5_000_000],
  ]);
  assertEquals(pool.leasedBytes, lent.reduce((sum, length) => sum + length));
  for (const slab of slabs) pool.release(slab);
  assertEquals(pool.leasedBytes, 0);
});

Deno.test("SlabPool.lease() lends again what came back, but what is longer than a MiB", () => {
  const pool = new SlabPool();
  for (const length of [1000, 300_000, mib]) {
    const slab = pool.lease(length);
    pool.release(slab);
    assertStrictEquals(pool.lease(length), slab);
  }
  const long = pool.lease(mib + 1);
  pool.release(long);
  assert(pool.lease(mib + 1) !== long);
});

Deno.test("SlabPool.release() keeps 16 MiB at most, and the longest go first", () => {
  const pool = new SlabPool();
  const long = Array.from({ length: 20 }, () => pool.lease(mib)), short = pool.lease(8192);
  for (const slab of long) pool.release(slab);
  pool.release(short);
  assertStrictEquals(pool.lease(8192), short);
  const again = new Set(Array.from({ length: 20 }, () => pool.lease(mib)));
  assertEquals(long.filter((slab) => again.has(slab)).length, 15);
});

Deno.test("SlabPool.release() waits for the last user, and tells it", () => {
  const pool = new SlabPool({ poison: true }), slab = pool.lease(1);
  let freed = 0;
  slab.onFree = () => freed++;
  slab.users++;
  pool.release(slab);
  assertEquals([freed, pool.leasedBytes, slab.bytes[0]], [0, 1024, 0]);
  pool.release(slab);
  assertEquals([freed, pool.leasedBytes, slab.bytes[0]], [1, 0, 0xdb]);
  pool.release(pool.lease(1)); // somebody else's loan
  assertEquals(freed, 1);
});

Deno.test("SlabPool.release() leaves an abandoned slab as it is, and lends it to nobody", () => {
  const pool = new SlabPool({ poison: true }), slab = pool.lease(1);
  slab.bytes.fill(7);
  slab.abandoned = true;
  pool.release(slab);
  assertEquals([pool.leasedBytes, slab.bytes[0]], [0, 7]);
  assert(pool.lease(1) !== slab);
});
