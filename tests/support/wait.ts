// Waiting in tests: for a fact, never for a time; the time is only when to give up.

/** The promise's value; fails with `what` when it takes longer than `ms`. */
export async function within<T>(promise: Promise<T>, what: string, ms = 10_000): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when the condition holds, looked at again and again; fails with `what` when that takes too long. */
export async function until(condition: () => boolean, what: string, ms = 10_000): Promise<void> {
  const end = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Resolves with a value that has stayed the same for a while: what has come to rest. */
export async function settled(value: () => number, quietMs = 150, ms = 20_000): Promise<number> {
  const end = performance.now() + ms;
  for (let last = value(), since = performance.now(); performance.now() < end;) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const now = value();
    if (now !== last) [last, since] = [now, performance.now()];
    else if (performance.now() - since > quietMs) return now;
  }
  throw new Error(`did not come to rest within ${ms} ms`);
}

/** A list that can be waited on. */
export class Recorder<T> {
  readonly items: T[] = [];

  /** Adds an item. */
  readonly record = (item: T): void => void this.items.push(item);

  /** Resolves with the first item that fits. */
  async first<U extends T>(fits: (item: T) => item is U, what: string): Promise<U> {
    await until(() => this.items.some(fits), what);
    return this.items.find(fits)!;
  }
}
