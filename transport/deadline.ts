// The only timers of the library.

/** The longest time that a timer can wait: 24 days. */
export const maxTimerMs = 2_147_483_647;

/** What a {@linkcode Ticker} calls. */
export interface Ticking {
  /** `now` counts ticks, from 1 on. */
  tick(now: number): void;
}

/**
 * One coarse timer for many deadlines: a deadline costs a comparison per connection and tick, and nothing per
 * frame. Time is counted in ticks that the event loop lived through, so neither a clock that jumps nor a loop
 * that stood still makes everything expire at once.
 */
export class Ticker {
  /** The time between two ticks. */
  readonly tickMs: number;
  /** The number of the last tick. */
  now = 0;
  readonly #ticking = new Set<Ticking>();
  // Not setInterval: what the first one makes Deno load takes 4 ms, an eighth of a server's start. An alarm cannot be
  // called off, so one that is under way is taken up again by whoever comes before it rings.
  #alarm: AbortSignal | null = null;
  readonly #ring = () => {
    this.#wait();
    this.now++;
    for (const each of this.#ticking) each.tick(this.now);
  };

  /** Ticks in a quarter of the shortest limit, at most each second: a deadline is met two or three ticks late. */
  constructor(shortestLimitMs: number) {
    this.tickMs = Math.min(1000, Math.max(5, Math.ceil(shortestLimitMs / 4)));
  }

  /** The tick at which `limitMs` from now is over. The tick under way is not counted: never too early. */
  after(limitMs: number): number {
    return this.now + this.ticks(limitMs);
  }

  /** The number of ticks in which `limitMs` has passed for sure. */
  ticks(limitMs: number): number {
    return Math.ceil(limitMs / this.tickMs) + 1;
  }

  /** Starts to tick for `ticking`. */
  add(ticking: Ticking): void {
    this.#ticking.add(ticking);
    this.#wait();
  }

  /** Ticks no more for `ticking`. */
  delete(ticking: Ticking): void {
    this.#ticking.delete(ticking);
    // Without a listener it keeps no process alive.
    if (this.#ticking.size === 0) this.#alarm?.removeEventListener("abort", this.#ring);
  }

  #wait(): void {
    if (this.#alarm === null || this.#alarm.aborted) this.#alarm = AbortSignal.timeout(this.tickMs);
    this.#alarm.addEventListener("abort", this.#ring);
  }
}

/** Calls `action` once after `ms` unless it is disposed before; never where that is longer than a timer can wait. */
export function after(ms: number, action: () => void): Disposable {
  const timer = ms <= maxTimerMs ? setTimeout(action, ms) : undefined;
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}
