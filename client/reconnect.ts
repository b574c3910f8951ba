// When and where is a lost connection made again?

import type { ServerAddress } from "../transport/dial.ts";

/** How a client reconnects. */
export interface ReconnectOptions {
  /** How often to try in a row before it is given up. @default {Infinity} */
  maxAttempts?: number;
  /** The pause before the second try; doubled for each further one. @default {100} */
  minDelayMs?: number;
  /** The longest pause. @default {30_000} */
  maxDelayMs?: number;
}

/**
 * The tries of one client: round the servers, with pauses that double, each drawn at random from its upper half, so
 * that the clients of a server that comes back do not come all at once.
 */
export class Tries {
  readonly #servers: readonly ServerAddress[];
  readonly #maxAttempts: number;
  readonly #minDelayMs: number;
  /** The longest pause. */
  readonly maxDelayMs: number;
  #server = 0;
  #attempts = 0;

  /** @throws {RangeError} If an option is out of range. */
  constructor(servers: readonly ServerAddress[], options: ReconnectOptions | false) {
    const { maxAttempts = Infinity, minDelayMs = 100, maxDelayMs = 30_000 } = options || { maxAttempts: 0 };
    if (servers.length === 0) throw new RangeError("servers must hold at least one server, and is empty");
    if (!(maxAttempts >= 0)) throw new RangeError(`maxAttempts must be at least 0, and is ${maxAttempts}`);
    if (!(minDelayMs >= 1)) throw new RangeError(`minDelayMs must be at least 1, and is ${minDelayMs}`);
    if (!(maxDelayMs >= minDelayMs)) {
      throw new RangeError(`maxDelayMs must be at least minDelayMs ${minDelayMs}, and is ${maxDelayMs}`);
    }
    this.#servers = servers;
    this.#maxAttempts = maxAttempts;
    this.#minDelayMs = minDelayMs;
    this.maxDelayMs = maxDelayMs;
  }

  /** Whether it reconnects at all. */
  get any(): boolean {
    return this.#maxAttempts > 0;
  }

  /** How many servers there are to try. */
  get serverCount(): number {
    return this.#servers.length;
  }

  /** The server whose turn it is. */
  get server(): ServerAddress {
    return this.#servers[this.#server % this.#servers.length]!;
  }

  /** The server whose turn it was is not to be had: the next one's turn. */
  failed(): void {
    this.#server++;
  }

  /** A connection was made: the next loss begins anew. */
  succeeded(): void {
    this.#attempts = 0;
  }

  /** The next try: its number, and the pause before it; null where there is none. The first comes at once. */
  next(): { attempt: number; delayMs: number } | null {
    if (this.#attempts >= this.#maxAttempts) return null;
    const attempt = ++this.#attempts,
      most = Math.min(this.maxDelayMs, this.#minDelayMs * 2 ** (attempt - 2));
    return { attempt, delayMs: attempt === 1 ? 0 : Math.round(most * (0.5 + Math.random() / 2)) };
  }
}
