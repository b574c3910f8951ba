// The accept loop: survives what fails for a while, and ends only when it is told to.

import { after } from "./deadline.ts";
import { isGone } from "./duplex.ts";

/** The first pause after an accept that failed; doubled each time, up to the last. */
const firstPauseMs = 5;
const lastPauseMs = 1000;
/** A server that is stormed must be able to stop. */
const maxSettleTurns = 100;

/** Accepts the connections of one listener. */
export class Acceptor<Socket extends Deno.Conn = Deno.Conn> {
  readonly #listener: Pick<Deno.Listener<Socket>, "accept" | "close">;
  #accepted = 0;
  #closed = false;
  #pause: (() => void) | null = null;

  constructor(listener: Pick<Deno.Listener<Socket>, "accept" | "close">) {
    this.#listener = listener;
  }

  /**
   * Hands out connections until {@linkcode Acceptor.close}; never rejects. Where `onConnection` returns a promise,
   * the next connection is left in the kernel's queue until it resolves.
   */
  async run(
    onConnection: (socket: Socket) => Promise<void> | void,
    onError: (error: unknown) => void,
  ): Promise<void> {
    let pauseMs = firstPauseMs;
    while (!this.#closed) {
      let socket: Socket;
      try {
        socket = await this.#listener.accept();
      } catch (error) {
        if (this.#closed) return;
        onError(error);
        // One that was reset before it was accepted is gone; the next one need not wait for that.
        if (isGone(error)) continue;
        // Out of descriptors, say: the listener lives, and goes on when there are some again.
        await this.#wait(pauseMs);
        pauseMs = Math.min(pauseMs * 2, lastPauseMs);
        continue;
      }
      this.#accepted++;
      pauseMs = firstPauseMs;
      await onConnection(socket);
    }
  }

  /** Waits until what the kernel has queued is accepted: until a turn of the event loop brings nothing. */
  async settle(): Promise<void> {
    for (
      let turn = 0, before = -1;
      turn < maxSettleTurns && before !== this.#accepted && !this.#closed;
      turn++
    ) {
      before = this.#accepted;
      await new Promise<void>((resolve) => void after(1, resolve));
    }
  }

  /** Closes the listener. Connections that the kernel still has queued are reset by it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pause?.();
    this.#listener.close();
  }

  async #wait(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#pause = resolve;
    using _timer = after(ms, resolve);
    await promise;
  }
}
