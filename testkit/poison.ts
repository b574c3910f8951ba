// Who keeps a payload after its handler has settled? Payloads that die with their handler's promise, and who holds them.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { AssertionError } from "@std/assert";
import type { FrameHandler, FrameReply } from "../server/frames.ts";
import type { Submit, SubmitHandler, SubmitResult } from "../server/packets.ts";

/**
 * Catches payloads that are used or kept after their handler has settled: in production such a view shows the bytes
 * of some later request.
 *
 * A guarded handler is given each payload as a copy, whose memory is taken away when the handler settles. From then
 * on a view of it, or a part of it, has length 0, and its methods throw a TypeError at the place of the mistake; only
 * an index (undefined) and a `TextDecoder` (an empty string) are silent. {@linkcode PoisonGuard.check} also finds what
 * is kept and was never used. A handler that never settles keeps its payload rightly, and bytes that were copied
 * cannot be mistaken. What it costs is a copy of each payload: for tests.
 *
 * @example A handler that forgets the copy
 * ```ts
 * import { PoisonGuard } from "@framewire/framewire/testkit";
 * import { connect, serve } from "@framewire/framewire";
 * import { assertRejects, assertThrows } from "@std/assert";
 *
 * const guard = new PoisonGuard(), kept: Uint8Array[] = [];
 * await using server = serve({ port: 0 }, guard.submits(({ payload }) => void kept.push(payload)));
 * await using client = await connect({ port: server.addr.port });
 * await client.submit("21.5");
 * assertThrows(() => kept[0]!.slice(), TypeError, "detached");
 * await assertRejects(() => guard.check(), Error, "00000001");
 * ```
 */
export class PoisonGuard {
  readonly #loans: { readonly name: string; readonly memory: WeakRef<ArrayBuffer> }[] = [];
  #frames = 0;

  /** Guards a handler of `serve`. {@linkcode PoisonGuard.check} names its requests by their ids. */
  submits<Session = Uint8Array>(handler: SubmitHandler<Session>): SubmitHandler<Session> {
    return (submit, peer) => {
      const name = `request ${submit.id} of connection ${peer.number}`, payload = submit.payload.slice();
      const lent: Submit = {
        id: submit.id,
        // As the server's own: once the handler has settled, asking throws.
        get payload() {
          return submit.payload && payload;
        },
        get signal() {
          return submit.signal;
        },
      };
      return this.#lend<SubmitResult>(name, payload, () => handler(lent, peer), (result) => result);
    };
  }

  /** Guards a handler of `serveFrames`. {@linkcode PoisonGuard.check} names its frames by their number, from 1 on. */
  frames(handler: FrameHandler): FrameHandler {
    return (frame, peer) => {
      const name = `frame ${++this.#frames} (connection ${peer.number})`, copy = frame.slice();
      // A reply may be a part of the frame: it is sent before the loan ends.
      const own = (reply: FrameReply) =>
        reply instanceof Uint8Array && reply.buffer === copy.buffer ? reply.slice() : reply;
      return this.#lend<FrameReply>(name, copy, () => handler(copy, peer), own);
    };
  }

  /**
   * Asserts that no payload of a handler that has settled is still reachable. Collects all garbage of the process to
   * find out, so call it once, at the end of a test, when its requests are answered. A local variable
   * of a function that is still running holds what is in it too.
   *
   * @throws {AssertionError} If some are; it names their requests.
   */
  async check(): Promise<void> {
    // What was looked at in this turn of the event loop counts as reachable until its end.
    await new Promise((resolve) => setTimeout(resolve, 0));
    collectGarbage();
    const kept = this.#loans.filter(({ memory }) => memory.deref() !== undefined).map(({ name }) => name);
    if (kept.length === 0) return;
    const more = kept.length > maxNamed ? `, and ${kept.length - maxNamed} more` : "";
    throw new AssertionError(
      `The payload was kept after its handler settled: ${kept.slice(0, maxNamed).join(", ")}${more}`,
    );
  }

  #lend<Result>(
    name: string,
    payload: Uint8Array<ArrayBuffer>,
    call: () => Result | PromiseLike<Result>,
    own: (result: Result) => Result,
  ): Result | PromiseLike<Result> {
    const over = () => {
      this.#loans.push({ name, memory: new WeakRef(payload.buffer) });
      if (!payload.buffer.detached) payload.buffer.transfer(0);
    };
    const settled = (result: Result) => {
      try {
        return own(result);
      } finally {
        over();
      }
    };
    let outcome: Result | PromiseLike<Result>;
    try {
      outcome = call();
    } catch (error) {
      over();
      throw error;
    }
    if (!isPromiseLike(outcome)) return settled(outcome);
    return outcome.then(settled, (error) => {
      over();
      throw error;
    });
  }
}

const maxNamed = 8;

function isPromiseLike<T>(value: T | PromiseLike<T>): value is PromiseLike<T> {
  return typeof (value as PromiseLike<T> | null | undefined)?.then === "function";
}

function collectGarbage(): void {
  // Contexts that are made from now on have it.
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}
