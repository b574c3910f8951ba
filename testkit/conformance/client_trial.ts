// What does a case for clients see? The kit plays the server: it listens, runs the client, and reads its requests.

import type { Dialect } from "../../codec/mod.ts";
import { type Wire, WireError, type WireEvent } from "../wire.ts";
import { WireListener } from "../wire_listener.ts";
import { answer, answerCommands, joined, shownByte, shownId } from "./bytes.ts";
import { type CaseText, Misbehaviour } from "./case.ts";
import { filledIn, TargetProcess } from "./target.ts";

/** A case for clients. */
export interface ClientCase extends CaseText {
  /** Plays the case on the client's first connection; later ones are served as usual. */
  readonly run: (trial: ClientTrial, guest: Guest) => Promise<void>;
}

/** What a case knows of its client. */
export interface ClientTrialOptions {
  /** The command's words, with what stands for the address. */
  readonly words: readonly string[];
  readonly stdin: string;
  readonly dialect: Dialect;
  readonly maxFrameLength: number;
  readonly limitMs: number;
  /** How many SUBMITs came when all went well; null while that is not known. */
  readonly usualSubmits: number | null;
}

/** A request as it came. */
export interface Request {
  readonly command: number;
  readonly id: string;
}

/** One run of a client against a port of its own. */
export class ClientTrial implements AsyncDisposable {
  readonly options: ClientTrialOptions;
  readonly #listener: WireListener;
  readonly #endAt: number;
  readonly #wires: Wire[] = [];
  readonly #first = Promise.withResolvers<Wire>();
  #process: TargetProcess | null = null;

  private constructor(options: ClientTrialOptions, listener: WireListener) {
    this.options = options;
    this.#endAt = performance.now() + options.limitMs;
    this.#listener = listener;
    this.#accept().catch(() => {}); // it ends when the listener is closed
  }

  /** Listens, and starts the client. */
  static async open(options: ClientTrialOptions): Promise<ClientTrial> {
    const listener = await WireListener.listen(), trial = new ClientTrial(options, listener);
    try {
      const words = options.words.map((word) => filledIn(word, "127.0.0.1", listener.port));
      trial.#process = new TargetProcess(words, options.stdin);
    } catch (error) {
      await trial[Symbol.asyncDispose]();
      throw error;
    }
    return trial;
  }

  /** Milliseconds until the case is given up. */
  get leftMs(): number {
    return Math.max(0, this.#endAt - performance.now());
  }

  /** The wire of the client's first connection, where it made one. */
  get firstWire(): Wire | undefined {
    return this.#wires[0];
  }

  get logs(): readonly (readonly WireEvent[])[] {
    return this.#wires.map(({ log }) => [...log]);
  }

  /** The client's first connection. Fails where the client ends without one. */
  async guest(): Promise<Guest> {
    const { exited } = this.#process!;
    const wire = await Promise.race([this.#first.promise, exited.then(() => null)]);
    if (wire !== null) return new Guest(this, wire);
    const said = this.#process!.errors.trim().split("\n").at(-1);
    throw new Error(`the client ended without a connection${said ? `: ${said}` : ""}`);
  }

  /** Fails unless the client ends by itself, with whatever status. */
  async expectExit(): Promise<void> {
    const late = Promise.withResolvers<null>();
    const timer = setTimeout(() => late.resolve(null), this.leftMs);
    const status = await Promise.race([this.#process!.exited, late.promise]);
    clearTimeout(timer);
    if (status === null) throw new Misbehaviour("the client had not ended when the time limit was over");
  }

  /** Fails where the client ends within a little while, although something is due to it. */
  async expectWaiting(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<null>(),
      timer = setTimeout(() => resolve(null), quietMs);
    const status = await Promise.race([this.#process!.exited, promise]);
    clearTimeout(timer);
    if (status !== null) throw new Misbehaviour("the client ended while it had a request without an answer");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process?.[Symbol.asyncDispose]();
    await this.#listener[Symbol.asyncDispose]();
  }

  async #accept(): Promise<never> {
    for (;;) {
      const wire = await this.#listener.accept();
      this.#wires.push(wire);
      if (this.#wires.length === 1) this.#first.resolve(wire);
      // A client that connects again, after a fault on its first connection, is to come to its end.
      else new Guest(this, wire).serve().catch(() => {});
    }
  }
}

/** How long nothing may come until a client is taken to wait for answers. */
const quietMs = 100;

/** The server's side of a connection. */
export class Guest {
  readonly #trial: ClientTrial;
  readonly wire: Wire;

  constructor(trial: ClientTrial, wire: Wire) {
    this.#trial = trial;
    this.wire = wire;
  }

  /** The next request; null where the client has ended between two frames, or waits for longer than `waitMs`. */
  async next(waitMs = this.#trial.leftMs): Promise<Request | null> {
    const { maxFrameLength } = this.#trial.options, timeoutMs = Math.min(waitMs, this.#trial.leftMs);
    try {
      const head = await this.wire.readExactly(4, { timeoutMs });
      const [a, b, c, d] = head as unknown as [number, number, number, number];
      const length = a * 0x1_00_00_00 + b * 0x1_00_00 + c * 0x1_00 + d;
      if (length < 13 || length > maxFrameLength) {
        throw new Misbehaviour(
          `a frame came with the length ${length}, which is not from 13 to ${maxFrameLength}`,
        );
      }
      const body = await this.wire.readExactly(length - 4, { timeoutMs: this.#trial.leftMs }).catch(
        (error) => {
          throw new Misbehaviour(`of a frame of ${length} bytes not all came: ${error.message}`);
        },
      );
      return { command: body[0]!, id: String.fromCharCode(...body.subarray(1, 9)) };
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      if (error.bytes.length > 0) {
        throw new Misbehaviour(`${error.bytes.length} bytes of a length came, and no more`);
      }
      return null;
    }
  }

  /** The requests that come until the client waits, or has ended. */
  async burst(): Promise<Request[]> {
    const first = await this.next(), requests: Request[] = [];
    for (let request = first; request !== null; request = await this.next(quietMs)) requests.push(request);
    if (first === null && this.wire.end === "open") {
      throw new Misbehaviour("the client neither sent anything more nor ended");
    }
    return requests;
  }

  /** The answer to a request. */
  answer({ command, id }: Request, result = 0): Uint8Array {
    const commands = answerCommands[this.#trial.options.dialect];
    if (command !== 0x01 && command !== 0x02) {
      throw new Misbehaviour(`the request ${shownId(id)} has the command ${shownByte(command)}`);
    }
    return answer(command === 0x01 ? commands.conn : commands.submit, id, result);
  }

  /**
   * Answers burst after burst until the client has ended, and ends too. Returns all requests. `reply` sends the
   * answers to a burst in a way of its own.
   */
  async serve(
    reply: (requests: Request[]) => Promise<void> = (requests) => this.reply(requests),
  ): Promise<Request[]> {
    const all: Request[] = [];
    while (true) {
      const requests = await this.burst();
      if (requests.length > 0) await reply(requests);
      all.push(...requests);
      if (this.wire.end !== "open" && requests.length === 0) break;
    }
    this.wire.fin();
    return all;
  }

  /** Serves so, and fails unless as many SUBMITs came as when all went well, and the client ended. */
  async serveAll(reply?: (requests: Request[]) => Promise<void>): Promise<Request[]> {
    const all = await this.serve(reply), { usualSubmits } = this.#trial.options;
    const submits = all.filter(({ command }) => command === 0x02).length;
    if (usualSubmits !== null && submits !== usualSubmits) {
      throw new Misbehaviour(
        `${submits} SUBMITs came, and ${usualSubmits} when nothing was done to the client`,
      );
    }
    await this.#trial.expectExit();
    return all;
  }

  /** Answers requests in one segment. */
  async reply(requests: readonly Request[], result: (request: Request) => number = () => 0): Promise<void> {
    await this.wire.send(joined(...requests.map((request) => this.answer(request, result(request)))));
  }

  /** Reads and answers up to the first SUBMIT, which it returns unanswered. */
  async firstSubmit(): Promise<Request> {
    for (let request; (request = await this.next()) !== null;) {
      if (request.command === 0x02) return request;
      await this.reply([request]);
    }
    throw new Misbehaviour("no SUBMIT came");
  }

  /** Fails unless the client ends the connection, whatever it sends before, and then itself. */
  async expectEnd(): Promise<void> {
    await this.wire.readToEnd({ timeoutMs: this.#trial.leftMs });
    if (this.wire.end === "open") {
      throw new Misbehaviour("the client had not ended when the time limit was over");
    }
    this.wire.fin();
    await this.#trial.expectExit();
  }
}
