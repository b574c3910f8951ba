// What becomes of a SUBMIT? An answer, or a failure that says whether it is safe to send it again.

import { Result } from "../codec/mod.ts";
import { serialId } from "../codec/packet.ts";

/**
 * What became of a request.
 *
 * - `accepted`: the server answered 0.
 * - `refused`: the server answered something else.
 * - `unsent`: the server has not handled it: its last byte was never accepted by the socket, or it was answered 4,
 *   shutting down. Safe to send again.
 * - `unknown`: it was sent and no answer came. The server may have handled it or not.
 */
export type Outcome = "accepted" | "refused" | "unsent" | "unknown";

/** What became of a request, and the answer, if any. */
export interface Answer {
  /** The request's id. */
  readonly id: string;
  /** What became of it. */
  readonly outcome: Outcome;
  /** What the server answered, from 0 to 255; null where it did not. */
  readonly result: number | null;
  /** Why there is no answer, where there is none. */
  readonly error?: Error;
}

/**
 * A `submit` got no answer that counts.
 *
 * @example
 * ```ts
 * import { connect, SubmitError } from "@framewire/framewire";
 * import { assertRejects } from "@std/assert";
 *
 * const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
 * const client = await connect({ port: listener.addr.port, reconnect: false });
 * (await listener.accept()).close(); // a server that hangs up
 * await client.closed;
 * listener.close();
 * const error = await assertRejects(() => client.submit("lost"), SubmitError);
 * console.assert(error.outcome === "unsent"); // safe to send again
 * ```
 */
export class SubmitError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "SubmitError";
  /** The request's id; empty where it never got one. */
  readonly id: string;
  /** `unsent` where it is safe to send it again, `unknown` where the server may have handled it. */
  readonly outcome: "unsent" | "unknown";

  /** Takes the request's id, what became of it, and why. */
  constructor(id: string, outcome: "unsent" | "unknown", why: string, cause?: unknown) {
    super(`Cannot submit${id && ` ${id}`}: ${why}; ${says[outcome]}`, { cause });
    this.id = id;
    this.outcome = outcome;
  }
}

const says = {
  unsent: "it was not handled and is safe to send again",
  unknown: "it was sent, and whether it was handled is unknown",
};

/** A request under way. */
export abstract class Request {
  serial = 0;
  /** How many bytes the socket must have accepted for the whole of it to be sent; Infinity where it is unsent. */
  sentAt = Infinity;
  /** The tick at which it was sent. */
  sentTick = 0;
  /** Whether nobody waits any more. */
  over = false;
  /** Whether an earlier connection may have taken it to the server, so that it is unknown for ever. */
  tainted = false;
  /** The tick at which it has waited too long. */
  deadline = Infinity;
  readonly payload: Uint8Array;
  /** Whether to send it again although it may have been handled. */
  readonly idempotent: boolean;

  constructor(payload: Uint8Array, idempotent: boolean) {
    this.payload = payload;
    this.idempotent = idempotent;
  }

  /** The answer came. */
  abstract answered(answer: Answer): void;

  /** No answer will come. */
  abstract failed(error: SubmitError): void;
}

/** A request that somebody waits for by itself. */
export class SingleRequest extends Request {
  /** Stops to listen to the signal that may cancel it. */
  detach: (() => void) | null = null;
  readonly #resolve: (answer: Answer) => void;
  readonly #reject: (reason: unknown) => void;

  constructor(
    payload: Uint8Array,
    idempotent: boolean,
    resolve: (answer: Answer) => void,
    reject: (reason: unknown) => void,
  ) {
    super(payload, idempotent);
    this.#resolve = resolve;
    this.#reject = reject;
  }

  override answered(answer: Answer): void {
    if (answer.outcome === "unsent") {
      return this.failed(new SubmitError(answer.id, "unsent", "the server is shutting down"));
    }
    this.over = true;
    this.detach?.();
    this.#resolve(answer);
  }

  override failed(error: unknown): void {
    this.over = true;
    this.detach?.();
    this.#reject(error);
  }
}

/** The answers to one stream of bulk work. */
export class Bulk {
  controller!: TransformStreamDefaultController<Answer[]>;
  readonly #idempotent: boolean;
  #answers: Answer[] = [];
  #pending = 0;
  #idle: (() => void) | null = null;

  constructor(idempotent: boolean) {
    this.#idempotent = idempotent;
  }

  /** Adds a request. */
  request(payload: Uint8Array): Request {
    this.#pending++;
    return new BulkRequest(payload, this.#idempotent, this);
  }

  /** Takes an answer; all that come in one turn leave as one array. */
  answered(answer: Answer): void {
    this.#pending--;
    if (this.#answers.push(answer) === 1) queueMicrotask(() => this.#deliver());
  }

  /** Resolves when every answer was delivered. */
  async idle(): Promise<void> {
    while (this.#pending > 0 || this.#answers.length > 0) {
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
  }

  #deliver(): void {
    const answers = this.#answers;
    this.#answers = [];
    try {
      this.controller.enqueue(answers);
    } catch {
      // The stream was cancelled or aborted: nobody wants the answers.
    }
    this.#idle?.();
  }
}

class BulkRequest extends Request {
  readonly #bulk: Bulk;

  constructor(payload: Uint8Array, idempotent: boolean, bulk: Bulk) {
    super(payload, idempotent);
    this.#bulk = bulk;
  }

  override answered(answer: Answer): void {
    this.#bulk.answered(answer);
  }

  override failed(error: SubmitError): void {
    this.#bulk.answered({ id: error.id, outcome: error.outcome, result: null, error });
  }
}

/** What an answer with `result` to request `serial` means. */
export function answerTo(serial: number, result: number): Answer {
  const outcome = result === Result.accepted
    ? "accepted"
    : result === Result.shuttingDown
    ? "unsent"
    : "refused";
  return { id: serialId(serial), outcome, result };
}
