// The accept loop: survives what fails for a while, and ends only when it is told to.

import { after } from "./deadline.ts";

/** The first pause after an accept that failed; doubled each time, up to the last. */
const firstPauseMs = 5;
const lastPauseMs = 1000;
/** A server that is stormed must be able to stop. */
const maxSettleTurns = 100;

/** Accepts the connections of one listener. */
export class Acceptor {
  readonly #listener: Deno.Listener<Deno.TcpConn, Deno.NetAddr>;
  #accepted = 0;
  #closed = false;
  #pause: (() => void) | null = null;

  constructor(listener: Deno.Listener<Deno.TcpConn, Deno.NetAddr>) {
    this.#listener = listener;
  }

  /** Hands out connections until {@linkcode Acceptor.close}; never rejects. */
  async run(onConnection: (socket: Deno.TcpConn) => void, onError: (error: unknown) => void): Promise<void> {
    let pauseMs = firstPauseMs;
    while (!this.#closed) {
      try {
        const socket = await this.#listener.accept();
        this.#accepted++;
        pauseMs = firstPauseMs;
        onConnection(socket);
      } catch (error) {
        if (this.#closed) return;
        // Out of descriptors, or reset before it was accepted: the listener lives, so wait and go on.
        onError(error);
        await new Promise<void>((resolve) => {
          const timer = after(pauseMs, resolve);
          this.#pause = () => {
            timer[Symbol.dispose]();
            resolve();
          };
        });
        pauseMs = Math.min(pauseMs * 2, lastPauseMs);
      }
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
}
