// Where do the bytes of reads and writes lie, and the frames that straddle reads? In slabs that are used again: fresh
// buffers cost half the speed.

/** Slabs come in powers of two, from a KiB to a MiB. A longer one is made for its loan, and not used again. */
const smallest = 1024;
const tiers = 11;
const longest = smallest << (tiers - 1);

/** A buffer on loan from a {@linkcode SlabPool}. */
export class Slab {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The power of two. */
  readonly tier: number;
  /** How many still look at the bytes; at 0 the slab goes back. */
  users = 1;
  /** Somebody may look at the bytes for ever: not to be used again. */
  abandoned = false;
  /** Called when the slab goes back. */
  onFree: (() => void) | null = null;

  constructor(tier: number, length: number) {
    this.tier = tier;
    this.bytes = new Uint8Array(length);
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
  readonly #free: Slab[][] = Array.from({ length: tiers }, () => []);
  #freeBytes = 0;
  #leasedBytes = 0;

  constructor({ poison = false }: SlabPoolOptions = {}) {
    this.#poison = poison;
  }

  /** Bytes of all slabs on loan. */
  get leasedBytes(): number {
    return this.#leasedBytes;
  }

  /** Lends a slab of at least `length` bytes. */
  lease(length: number): Slab {
    const tier = tierOf(length), slab = this.#free[tier]?.pop();
    if (slab === undefined) {
      const fresh = new Slab(tier, tier < tiers ? smallest << tier : length);
      this.#leasedBytes += fresh.bytes.length;
      return fresh;
    }
    const bytes = slab.bytes.length;
    this.#leasedBytes += bytes;
    this.#freeBytes -= bytes;
    slab.users = 1;
    return slab;
  }

  /** Says that one user less looks at the slab. */
  release(slab: Slab): void {
    if (--slab.users > 0) return;
    const { tier, bytes, onFree } = slab;
    this.#leasedBytes -= bytes.length;
    if (!slab.abandoned) {
      if (this.#poison) bytes.fill(poisonByte);
      if (tier < tiers) this.#keep(slab);
    }
    slab.onFree = null;
    onFree?.();
  }

  #keep(slab: Slab): void {
    this.#free[slab.tier]!.push(slab);
    this.#freeBytes += slab.bytes.length;
    // The longest go first: they are the cheapest for what they hold, and must not keep out the short ones for ever.
    for (let tier = tiers - 1; this.#freeBytes > maxFreeBytes;) {
      const dropped = this.#free[tier]!.pop();
      if (dropped === undefined) tier--;
      else this.#freeBytes -= dropped.bytes.length;
    }
  }
}

/** The first tier whose slabs hold `length` bytes; one more than there are where none does. */
function tierOf(length: number): number {
  if (length <= smallest) return 0;
  return length > longest ? tiers : Math.clz32(smallest - 1) - Math.clz32(length - 1);
}

/** What a poisoned slab is full of. */
const poisonByte = 0xdb;
/** What a pool keeps for the next burst; the rest is left to the garbage collector. */
const maxFreeBytes = 16 * 1_048_576;
/** Above this, a read that will probably wait does so with the smallest slab. */
const maxWaitingBytes = 16 * 1_048_576;
/** The lengths of slabs to read into. An idle connection waits with the shortest. */
const readLengths = [1024, 8192, 65_536, 262_144] as const;

/**
 * Chooses the size of a connection's next slab by what its reads bring.
 *
 * A read that filled its slab is followed at once by a larger one, which will hardly wait. One that did not
 * fill it is followed by one that waits, perhaps for hours: that one keeps a large slab only while all of
 * the pool's slabs on loan are few. So a thousand connections that each had a burst do not keep their buffers.
 */
export class SlabSizing {
  #size = 0;

  /** Lends the slab for the next read. */
  next(pool: SlabPool): Slab {
    return pool.lease(readLengths[this.#size]!);
  }

  /** Takes note of what the read into the last slab brought. */
  learn(pool: SlabPool, count: number): void {
    const size = this.#size;
    if (count === readLengths[size]) this.#size = Math.min(size + 1, readLengths.length - 1);
    else if (pool.leasedBytes > maxWaitingBytes) this.#size = 0;
    else if (size > 0 && count <= readLengths[size - 1]! / 2) this.#size = size - 1;
  }
}
