// What drives a target: when requests are sent, what is counted, and when it ends.

import { setImmediate } from "node:timers";
import type { Dialect } from "../../codec/mod.ts";
import { LoadConnection } from "./connection.ts";

/** What the engine does. */
export interface EngineOptions {
  readonly hostname: string;
  readonly port: number;
  readonly connections: number;
  readonly window: number;
  /** Length of a request's payload, in bytes. */
  readonly payload: number;
  /** Requests a second over all connections; null sends whenever a window has room. */
  readonly rate: number | null;
  readonly durationMs: number;
  /** Ends the run when so many are answered; null leaves that to the time. */
  readonly requests: number | null;
  /** Runs before what is measured. */
  readonly warmUpMs: number;
  readonly timeoutMs: number;
  readonly dialect: Dialect;
  /** What the CONN holds that opens each connection's session; null sends none. */
  readonly session: Uint8Array | null;
}

/** Whoever keeps the times. */
export interface Recorder {
  /** Latency of `count` answers, counted from when their requests should have been sent. */
  latency(ms: number, count: number): void;
  /** The same answers, counted from when their requests were sent. Called at a constant rate only. */
  uncorrected(ms: number, count: number): void;
  /** A second is over. */
  second(traffic: Traffic): void;
}

/** What went over the connections in a second; the last one may be shorter. */
export interface Traffic {
  /** How long it was. */
  durationMs: number;
  /** Answers that came in it. */
  requests: number;
  /** Bytes that were sent in it. */
  bytesSent: number;
  /** Bytes that came in it. */
  bytesReceived: number;
}

/** How often what went wrong with the connections. */
export interface ErrorCounts {
  /** There was no connection, or no session, to be had. */
  connect: number;
  /** Reading failed, as at a reset. */
  read: number;
  /** Writing failed. */
  write: number;
  /** The target ended a connection by itself. */
  ended: number;
  /** A request had no answer in time. */
  timeout: number;
  /** What came was no answer of the dialect. */
  protocol: number;
}

/** What became of the ids, over the whole run. `sent` is `answered` and `lost` together. */
export interface IdCounts {
  /** Requests that were sent. */
  sent: number;
  /** Answered, with whatever result. */
  answered: number;
  /** Never answered: the time was up, or the connection was gone. */
  lost: number;
  /** Answers to an id that had been answered already. */
  duplicated: number;
  /** Answers to an id that had been given up as lost. */
  late: number;
  /** Answers to an id that was never sent. */
  unknown: number;
  /** Of the answered, those with a result other than 0. */
  refused: number;
}

/** There is nothing to drive. */
export class TargetError extends Error {
  /** The name of the class. */
  override readonly name = "TargetError";
}

/** One run against one target. What is public is for the connections, and to be looked at. */
export class Engine {
  readonly options: EngineOptions;
  readonly recorder: Recorder;
  readonly ids: IdCounts = { sent: 0, answered: 0, lost: 0, duplicated: 0, late: 0, unknown: 0, refused: 0 };
  readonly errors: ErrorCounts = { connect: 0, read: 0, write: 0, ended: 0, timeout: 0, protocol: 0 };
  /** The first message of each kind of error. */
  readonly messages: Partial<Record<keyof ErrorCounts, string>> = {};
  /** Since the last second was over. */
  readonly traffic: Traffic = { durationMs: 0, requests: 0, bytesSent: 0, bytesReceived: 0 };
  /** How many connections may be in the making at once: more overflow the target's queue of them. */
  readonly gate: Gate = new Gate(128);
  /** When requests begin, when they begin to count, and when they end to. */
  startedAt = Infinity;
  measuredFrom = Infinity;
  endsAt = Infinity;
  /** Requests that the rate has demanded so far. */
  demanded = 0;
  /** Whether no more requests are sent. */
  stopping = false;
  #connections: LoadConnection[] = [];
  /** The bounds of the second that is being counted. */
  #secondFrom = Infinity;
  #secondTo = Infinity;
  /** Requests that may still be sent. */
  #budget: number;
  readonly #stopped = Promise.withResolvers<void>();
  readonly #settled = Promise.withResolvers<void>();

  constructor(options: EngineOptions, recorder: Recorder) {
    this.options = options;
    this.recorder = recorder;
    this.#budget = options.requests ?? Infinity;
  }

  /** Requests that the rate demanded and that were not sent. */
  get unsent(): number {
    return this.options.rate === null ? 0 : this.demanded - this.ids.sent;
  }

  /** Connections that are open. */
  get open(): number {
    return this.#connections.reduce((open, connection) => open + Number(connection.isOpen), 0);
  }

  /**
   * Runs to the end, or until the signal is aborted.
   *
   * @throws {TargetError} If the first connection cannot be had.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { connections, rate, durationMs, warmUpMs } = this.options;
    const cut = () => this.#cut();
    signal.addEventListener("abort", cut);
    const sweep = setInterval(() => this.#sweep(), 50);
    try {
      if (signal.aborted) cut();
      this.#connections = Array.from({ length: connections }, (_, index) => new LoadConnection(this, index));
      await this.#open();
      this.startedAt = this.#secondFrom = performance.now();
      this.measuredFrom = this.startedAt + warmUpMs;
      this.endsAt = this.measuredFrom + durationMs;
      this.#secondTo = warmUpMs > 0 ? this.measuredFrom : Math.min(this.measuredFrom + 1000, this.endsAt);
      const runs = this.#connections.map((connection) => connection.run());
      if (rate !== null) this.#tick();
      await this.#stopped.promise;
      this.settle();
      await this.#settled.promise;
      this.#cut();
      for (const connection of this.#connections) connection.end();
      // What an answer that came twice would still show; who does not close in turn is closed.
      const closing = setTimeout(
        () => this.#connections.forEach((connection) => connection.close()),
        closeTimeoutMs,
      );
      await Promise.all(runs);
      clearTimeout(closing);
    } finally {
      for (const connection of this.#connections) connection.close();
      clearInterval(sweep);
      signal.removeEventListener("abort", cut);
    }
  }

  /** Gives a connection leave to send up to `count` requests. */
  grant(count: number): number {
    if (this.stopping) return 0;
    const granted = Math.min(count, this.#budget);
    this.#budget -= granted;
    this.ids.sent += granted;
    if (this.#budget === 0) this.#stop();
    return granted;
  }

  /** Closes the seconds that are over at `now`; to be called before what came at `now` is counted. */
  roll(now: number): void {
    while (now >= this.#secondTo) {
      const { traffic } = this, at = this.#secondTo;
      traffic.durationMs = at - this.#secondFrom;
      // What came in the warm-up is not measured.
      if (this.#secondFrom >= this.measuredFrom) this.recorder.second({ ...traffic });
      traffic.requests = traffic.bytesSent = traffic.bytesReceived = 0;
      this.#secondFrom = at;
      // What is left of less than a millisecond is no second of its own.
      const left = this.endsAt - at;
      this.#secondTo = left <= 0 ? Infinity : left < 1001 ? this.endsAt : at + 1000;
      if (at === this.endsAt) this.#stop();
    }
  }

  /** Ends the run if it is stopping and nothing is in flight any more. */
  settle(): void {
    if (this.stopping && this.ids.sent === this.ids.answered + this.ids.lost) this.#settled.resolve();
  }

  /** Counts an error, and keeps its message if it is the first of its kind. */
  fail(kind: keyof ErrorCounts, message: string): void {
    this.errors[kind]++;
    this.messages[kind] ??= message;
  }

  async #open(): Promise<void> {
    const [first, ...others] = this.#connections as [LoadConnection, ...LoadConnection[]];
    if (!this.stopping) await first.open();
    if (!first.isOpen && !this.stopping) throw new TargetError(this.messages.connect);
    await Promise.all(others.map((connection) => connection.open()));
  }

  #stop(): void {
    this.stopping = true;
    this.#stopped.resolve();
  }

  /** Ends what is measured, now or when it was to end. */
  #cut(): void {
    const now = performance.now();
    this.roll(now);
    if (this.#secondTo !== Infinity) {
      this.endsAt = this.#secondTo = now;
      this.roll(now);
    }
    this.#stop();
  }

  #sweep(): void {
    const now = performance.now();
    this.roll(now);
    for (const connection of this.#connections) connection.giveUp(now - this.options.timeoutMs);
    this.settle();
  }

  /** Hands out what the rate demands by now. */
  #tick(): void {
    if (this.stopping) return;
    const now = performance.now(), { length } = this.#connections, perMs = this.options.rate! / 1000;
    this.roll(now);
    // The first is due at once; what would be due at the very end is not.
    const before = this.demanded, all = Math.ceil((this.endsAt - this.startedAt) * perMs);
    const demand = Math.min(Math.floor((now - this.startedAt) * perMs) + 1, all);
    this.demanded = Math.min(demand, this.options.requests ?? Infinity);
    for (let k = Math.max(before, this.demanded - length); k < this.demanded; k++) {
      this.#connections[k % length]!.pump();
    }
    // A timer is late by milliseconds, and so would be every request.
    if ((demand / perMs) + this.startedAt - now > timerLatenessMs) setTimeout(() => this.#tick(), 1);
    else setImmediate(() => this.#tick());
  }
}

/** Lets so many in at once. */
export class Gate {
  #room: number;
  readonly #waiting: (() => void)[] = [];

  constructor(room: number) {
    this.#room = room;
  }

  /** Waits for a place. */
  async enter(): Promise<void> {
    if (this.#room > 0) this.#room--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Gives the place to the next one. */
  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#room++;
    else next();
  }
}

const closeTimeoutMs = 1000;
const timerLatenessMs = 5;
