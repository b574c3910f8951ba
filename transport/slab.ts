// Where do the bytes of reads and writes lie? In slabs that are used again: fresh buffers cost half the speed.

/** The sizes that slabs come in, in bytes. An idle connection waits with the smallest. */
const sizes = [1024, 8192, 65_536, 262_144] as const;
const largest = sizes.length - 1;

/** A buffer on loan from a {@linkcode SlabPool}. */
export class Slab {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Index into the pool's sizes. */
  readonly tier: number;
  /** How many still look at the bytes; at 0 the slab goes back. */
  users = 1;
  /** Somebody may look at the bytes for ever: not to be used again. */
  abandoned = false;

  constructor(tier: number) {
    this.tier = tier;
    this.bytes = new Uint8Array(sizes[tier]!);
    this.view = new DataView(this.bytes.buffer);
  }
}

/** Options of a {@linkcode SlabPool}. */
export interface SlabPoolOptions {
  /** Overwrite slabs as they come back, so that whoever kept a view sees it at once. */
  poison?: boolean;
}

/** The slabs of one server or client. */
export class SlabPool {
  readonly #poison: boolean;
  readonly #free: Slab[][] = sizes.map(() => []);
  #freeBytes = 0;
  #leasedBytes = 0;

  constructor({ poison = false }: SlabPoolOptions = {}) {
    this.#poison = poison;
  }

  /** Bytes of all slabs on loan. */
  get leasedBytes(): number {
    return this.#leasedBytes;
  }

  /** Lends a slab of at least `length` bytes, or of the largest size. */
  lease(length: number): Slab {
    let tier = 0;
    while (tier < largest && sizes[tier]! < length) tier++;
    return this.leaseTier(tier);
  }

  /** Lends a slab of a tier. */
  leaseTier(tier: number): Slab {
    const slab = this.#free[tier]!.pop();
    this.#leasedBytes += sizes[tier]!;
    if (slab === undefined) return new Slab(tier);
    this.#freeBytes -= slab.bytes.length;
    slab.users = 1;
    return slab;
  }

  /** Says that one user less looks at the slab; true where it was the last one. */
  release(slab: Slab): boolean {
    if (--slab.users > 0) return false;
    const { length } = slab.bytes;
    this.#leasedBytes -= length;
    if (slab.abandoned) return true;
    if (this.#poison) slab.bytes.fill(poisonByte);
    if (this.#freeBytes + length <= maxFreeBytes) {
      this.#free[slab.tier]!.push(slab);
      this.#freeBytes += length;
    }
    return true;
  }
}

/** What a poisoned slab is full of. */
const poisonByte = 0xdb;
/** What a pool keeps for the next burst; the rest is left to the garbage collector. */
const maxFreeBytes = 16 * 1_048_576;
/** Above this, a read that will probably wait does so with the smallest slab. */
const maxWaitingBytes = 16 * 1_048_576;

/**
 * Chooses the size of a connection's next slab by what its reads bring.
 *
 * A read that filled its slab is followed at once by a larger one, which will hardly wait. One that did not
 * fill it is followed by one that waits, perhaps for hours: that one keeps a large slab only while all of
 * the pool's slabs on loan are few. So a thousand connections that each had a burst do not keep their buffers.
 */
export class SlabSizing {
  #tier = 0;

  /** Lends the slab for the next read. */
  next(pool: SlabPool): Slab {
    return pool.leaseTier(this.#tier);
  }

  /** Takes note of a read of `count` bytes into `slab`. */
  learn(pool: SlabPool, slab: Slab, count: number): void {
    const { tier } = slab;
    if (count === slab.bytes.length) this.#tier = Math.min(tier + 1, largest);
    else if (pool.leasedBytes > maxWaitingBytes) this.#tier = 0;
    else if (tier > 0 && count <= sizes[tier - 1]! / 2) this.#tier = tier - 1;
    else this.#tier = tier;
  }
}
