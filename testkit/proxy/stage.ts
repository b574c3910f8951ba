// How does a toxic sit in a stream? As a stage of a chain: bytes and the end are pushed in, in order, and pushed on.

import type { Random } from "../random.ts";

/** How a stream ends. */
export type End = "fin" | "reset";

/** Where bytes go on: the next stage, or the socket. Never rejects. */
export interface Sink {
  /** Takes bytes, which are the caller's again when this resolves; they may have been changed. */
  push(bytes: Uint8Array): Promise<void>;
  /** Says how the stream ended. Nothing follows. */
  end(how: End): Promise<void>;
}

/** What a stage may know of its connection, and do to it. */
export interface Host {
  /** Numbers of this toxic on this connection alone, so that other traffic changes none of them. */
  readonly random: Random;
  /** Whether {@linkcode Host.reset} sends RST. */
  readonly resettable: boolean;
  /** Closes both sides, once what was written has left. */
  close(): void;
  /** Resets both sides. */
  reset(): void;
  /** The end of the stream is never told: as far as the connection is concerned, this direction is over. */
  over(): void;
  /** Counts and tells a fault: what was done to how many bytes, at which offset of the stream or on which frame. */
  struck(what: string, bytes: number, where: { offset?: number; frame?: number }): void;
  /** Counts bytes that the stage keeps. */
  keeps(bytes: number): void;
}

/**
 * A toxic on one stream of one connection.
 *
 * Pushes, the end, and comings and goings of the toxic take turns, so that a toxic which goes while bytes are under
 * way lets go of what it keeps before anything overtakes that.
 */
export abstract class Stage<Attributes> implements Sink {
  /** Where this stage pushes to. */
  next: Sink;
  /** What the toxic says now. */
  protected attributes: Attributes;
  /** The connection. */
  protected readonly host: Host;
  #wanted = false;
  #active = false;
  #gone = false;
  #turn: Promise<void> = Promise.resolve();
  #wakes = new Set<() => void>();

  constructor(attributes: Attributes, host: Host, next: Sink) {
    this.attributes = attributes;
    this.host = host;
    this.next = next;
  }

  /** Whether the toxic is to act; where it is not, waits end at once and what is kept goes out. */
  protected get acting(): boolean {
    return this.#wanted;
  }

  /** Whether the toxic was taken away: it does not act again. */
  protected get gone(): boolean {
    return this.#gone;
  }

  push(bytes: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#active ? this.take(bytes) : this.pass(bytes));
  }

  end(how: End): Promise<void> {
    return this.#inTurn(() => this.finish(how));
  }

  /** Changes the attributes, and whether the toxic acts; resolves when nothing is kept that is not to be. */
  set(attributes: Attributes, acts: boolean): Promise<void> {
    this.attributes = attributes;
    const changes = acts !== this.#wanted;
    this.#wanted = acts;
    this.#wake();
    if (!changes) return this.#turn;
    return this.#inTurn(async () => {
      // It may have changed again before its turn came.
      if (this.#active === this.#wanted) return;
      this.#active = this.#wanted;
      if (this.#active) this.start();
      else await this.flush();
    });
  }

  /** The toxic is taken away; resolves when the chain can do without the stage. */
  async remove(): Promise<void> {
    const acted = this.#wanted;
    this.set(this.attributes, false);
    if (acted) this.removed();
    await this.#inTurn(() => {
      this.#gone = true;
      return this.leave();
    });
    await this.left();
  }

  /** Bytes, in their turn. */
  protected abstract take(bytes: Uint8Array): Promise<void>;

  /** Bytes in their turn, while the toxic does not act. */
  protected pass(bytes: Uint8Array): Promise<void> {
    return this.next.push(bytes);
  }

  /** The end, in its turn, whether the toxic acts or not. */
  protected async finish(how: End): Promise<void> {
    await this.flush();
    await this.next.end(how);
  }

  /** The toxic begins to act. */
  protected start(): void {}

  /** The toxic acts no more: pushes on what is kept. */
  protected flush(): Promise<void> {
    return Promise.resolve();
  }

  /** The stage is to leave the chain: pushes on the rest of what is kept, as far as it can. */
  protected leave(): Promise<void> {
    return Promise.resolve();
  }

  /** Resolves when nothing is kept that {@linkcode Stage.leave} could not push on. */
  protected left(): Promise<void> {
    return Promise.resolve();
  }

  /** What the toxic does as it is taken away. */
  protected removed(): void {}

  /** Waits for a time, in milliseconds of `performance.now()`, which is asked again when the attributes change. */
  protected async until(due: () => number): Promise<void> {
    for (let ms; this.acting && (ms = due() - performance.now()) > 0;) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, Math.min(ms, longestTimerMs));
      // The timer goes at once: the connection may be over, and nothing of it is to be left.
      const wake = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#wakes.add(wake);
      await promise;
      this.#wakes.delete(wake);
    }
  }

  #wake(): void {
    for (const wake of this.#wakes) wake();
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    return this.#turn = this.#turn.then(task);
  }
}

/** What setTimeout can wait. */
const longestTimerMs = 2 ** 31 - 1;
