// Which handlers are running? Bounded in number and in time; each may hold a slab in place.

import type { Connection } from "../transport/connection.ts";
import type { Ticker } from "../transport/deadline.ts";
import type { Slab } from "../transport/slab.ts";

/** One handler that was called and has not settled. */
export abstract class Call {
  /** Links of the list of {@linkcode Calls}; the order of calling, so also of the deadlines. */
  previous: Call | null = null;
  next: Call | null = null;
  /** The tick at which it takes too long. */
  deadline = 0;
  /** The slab that its bytes lie in; null where they are its own. */
  slab: Slab | null = null;
  /** Whether it is in a list. */
  running = false;

  /** Tells the handler that its answer is not waited for any more. */
  abstract cut(reason: unknown): void;
}

/** The calls of one connection. */
export class Calls {
  count = 0;
  readonly #connection: Connection;
  readonly #ticker: Ticker;
  readonly #handlerTimeoutMs: number;
  readonly #counts: { inFlight: number; cut: number };
  readonly #onTimeout: (call: Call) => void;
  #lost: { readonly reason: unknown } | null = null;
  #first: Call | null = null;
  #last: Call | null = null;
  #changed: PromiseWithResolvers<void> | null = null;
  #idle: PromiseWithResolvers<void> | null = null;

  constructor(
    connection: Connection,
    ticker: Ticker,
    handlerTimeoutMs: number,
    counts: { inFlight: number; cut: number },
    onTimeout: (call: Call) => void,
  ) {
    this.#connection = connection;
    this.#ticker = ticker;
    this.#handlerTimeoutMs = handlerTimeoutMs;
    this.#counts = counts;
    this.#onTimeout = onTimeout;
  }

  /** Takes in a call whose handler did not settle at once, and holds the slab that its bytes lie in, if any. */
  add(call: Call, slab: Slab | null): void {
    if (slab !== null) slab.users++;
    call.slab = slab;
    this.#counts.inFlight++;
    call.deadline = this.#ticker.after(this.#handlerTimeoutMs);
    call.running = true;
    call.previous = this.#last;
    if (this.#last === null) this.#first = call;
    else this.#last.next = call;
    this.#last = call;
    this.count++;
    if (this.#lost !== null) this.cutAll(this.#lost.reason);
  }

  /** The handler is not waited for any more, and its place is free. Its bytes stay until {@linkcode Calls.settled}. */
  remove(call: Call): void {
    if (!call.running) return;
    call.running = false;
    if (call.previous === null) this.#first = call.next;
    else call.previous.next = call.next;
    if (call.next === null) this.#last = call.previous;
    else call.next.previous = call.previous;
    call.previous = call.next = null;
    this.count--;
    this.#counts.inFlight--;
    this.#changed?.resolve();
    this.#changed = null;
    if (this.count > 0) return;
    this.#idle?.resolve();
    this.#idle = null;
  }

  /** The handler looks at its bytes no more. */
  settled(call: Call): void {
    const { slab } = call;
    if (slab === null) return;
    call.slab = null;
    this.#connection.release(slab);
  }

  /** Resolves when the next call is removed. */
  changed(): Promise<void> {
    this.#changed ??= Promise.withResolvers();
    return this.#changed.promise;
  }

  /** Resolves when no handler runs. */
  async idle(): Promise<void> {
    while (this.count > 0) {
      this.#idle ??= Promise.withResolvers();
      await this.#idle.promise;
    }
  }

  /** Cuts the calls that take too long. */
  tick(now: number): void {
    while (this.#first !== null && this.#first.deadline <= now) {
      const call = this.#first;
      this.#cut(
        call,
        new DOMException(`The handler took longer than ${this.#handlerTimeoutMs} ms`, "TimeoutError"),
      );
      this.#onTimeout(call);
    }
  }

  /** Cuts all calls: nobody is left to be answered. */
  cutAll(reason: unknown): void {
    this.#lost ??= { reason };
    this.#counts.cut += this.count;
    while (this.#first !== null) this.#cut(this.#first, reason);
  }

  #cut(call: Call, reason: unknown): void {
    const { slab } = call;
    if (slab !== null) {
      // The handler may look at its bytes for ever: they are left to it and to the garbage collector.
      slab.abandoned = true;
      this.settled(call);
    }
    this.remove(call);
    call.cut(reason);
  }
}

/** Tells a promise, or what behaves like one, from a plain result. */
export function isPromiseLike<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof value === "object" && value !== null && typeof (value as PromiseLike<T>).then === "function";
}
