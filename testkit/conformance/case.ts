// What is a conformance case, and what does it see of the target while it runs?

import type { Dialect } from "../../codec/mod.ts";
import { Wire, WireError } from "../wire.ts";
import {
  type Answer,
  answerAt,
  answerCommands,
  answerLength,
  idOf,
  joined,
  request,
  shownByte,
  shownId,
} from "./bytes.ts";

/** What a case is about. */
export type Group =
  | "framing"
  | "limits"
  | "malformed"
  | "packets"
  | "pipelining"
  | "half-close"
  | "reset"
  | "backpressure"
  | "slow"
  | "concurrency"
  | "drain"
  | "client";

/** How the case's first connection was closed: by the target with a FIN or a reset, not at all, or by the kit. */
export type Closing = "fin" | "reset" | "open" | "by the kit";

/** A case's place and meaning, the same for servers and clients. */
export interface CaseText {
  /** The section of docs/protocol.md that it proves, and a number: `2.3/1`. */
  readonly id: string;
  /** What it is about. */
  readonly group: Group;
  /** A SHOULD is run where the run is strict. */
  readonly level: "MUST" | "SHOULD";
  /** What is done to the target. */
  readonly description: string;
  /** The sentence of docs/protocol.md that it proves. */
  readonly requirement: string;
  /** What the target may do. */
  readonly accepted: readonly string[];
  /** How the target may close the connection. */
  readonly closing: readonly Closing[];
}

/** A case for servers. */
export interface ServerCase extends CaseText {
  /** How many times the time limit it may take; 1 where absent. */
  readonly patience?: number;
  /** It moves so many bytes that it runs when no other case does. */
  readonly alone?: boolean;
  /** What it cannot do without: a target that it can start itself, or whose memory it can see. */
  readonly needs?: "launch" | "memory";
  /** Plays the case: resolves where the target behaved, and throws a {@linkcode Misbehaviour} where not. */
  readonly run: (trial: Trial) => Promise<void>;
}

/** The target did something else than what was accepted. The message says what came. */
export class Misbehaviour extends Error {
  override readonly name = "Misbehaviour";
}

/** The case cannot be judged with this target. The message says why. */
export class NotJudged extends Error {
  override readonly name = "NotJudged";
}

/** A target that was started for a case. */
export interface LaunchedTarget extends AsyncDisposable {
  /** Where it listens. */
  readonly hostname: string;
  /** The port that it listens on. */
  readonly port: number;
  /** Asks it to stop, as SIGTERM does. */
  terminate(): void;
  /** Resolves with its exit status when it has ended. */
  readonly exited: Promise<number>;
}

/** What a case knows of its target. */
export interface TrialOptions {
  readonly hostname: string;
  readonly port: number;
  readonly dialect: Dialect;
  readonly maxFrameLength: number;
  /** When the case is given up, in milliseconds. */
  readonly limitMs: number;
  /** What a CONN carries that the target accepts, and one that it refuses. */
  readonly conn: string;
  readonly refusedConn: string | undefined;
  /** Starts a target of the case's own. */
  readonly launch: (() => Promise<LaunchedTarget>) | undefined;
  /** The bytes of memory that the target holds. */
  readonly memory: (() => number | Promise<number>) | undefined;
}

/** One run of a case: its connections, and its time. */
export class Trial implements AsyncDisposable {
  readonly options: TrialOptions;
  /** All connections in the order in which they were made; the first one's closing is judged. */
  readonly peers: Peer[] = [];
  readonly #wires: Wire[] = [];
  readonly #launched: LaunchedTarget[] = [];
  readonly #endAt: number;
  /** What ends each pause that is under way. */
  readonly #pauses = new Set<() => void>();
  #over = false;

  constructor(options: TrialOptions) {
    this.options = options;
    this.#endAt = performance.now() + options.limitMs;
  }

  /** Milliseconds until the case is given up. */
  get leftMs(): number {
    return Math.max(0, this.#endAt - performance.now());
  }

  /** Makes a connection. */
  async connect(target: { hostname: string; port: number } = this.options): Promise<Peer> {
    const peer = await this.#connect(target);
    this.peers.push(peer);
    return peer;
  }

  /** Makes connections, all at the same time. */
  async connectMany(count: number): Promise<Peer[]> {
    const peers = await Promise.all(Array.from({ length: count }, () => this.#connect(this.options)));
    this.peers.push(...peers);
    return peers;
  }

  /** Starts a target of this case's own. */
  async launch(): Promise<LaunchedTarget> {
    const target = await this.options.launch!();
    this.#launched.push(target);
    if (!this.#over) return target;
    await target[Symbol.asyncDispose]();
    throw new Misbehaviour("the case was given up");
  }

  /** Waits, at most until the case is given up. */
  async pause(ms: number): Promise<void> {
    if (this.#over) return;
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#pauses.delete(end);
        resolve();
      };
      const timer = setTimeout(end, Math.min(ms, this.leftMs));
      this.#pauses.add(end);
    });
  }

  /** Fails unless a new connection gets an answer: that the target lives is all that it says. */
  async expectAlive(): Promise<void> {
    const peer = await this.connect();
    await peer.send(request(0x02, 1));
    await peer.expectSubmits([1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    for (const end of this.#pauses) end();
    await Promise.all([
      ...this.#wires.map((wire) => wire[Symbol.asyncDispose]()),
      ...this.#launched.map((target) => target[Symbol.asyncDispose]()),
    ]);
  }

  async #connect({ hostname, port }: { hostname: string; port: number }): Promise<Peer> {
    const wire = await Wire.connect({ hostname, port, signal: AbortSignal.timeout(Math.ceil(this.leftMs)) });
    this.#wires.push(wire);
    if (!this.#over) return new Peer(this, wire);
    // The case was given up while this one connected.
    await wire[Symbol.asyncDispose]();
    throw new Misbehaviour("the case was given up");
  }
}

/** The client's side of a connection, with what a case expects of the other. */
export class Peer {
  readonly #trial: Trial;
  readonly wire: Wire;

  constructor(trial: Trial, wire: Wire) {
    this.#trial = trial;
    this.wire = wire;
  }

  /** Sends the parts as one. */
  send(...parts: Uint8Array[]): Promise<void> {
    return this.wire.send(joined(...parts));
  }

  /** Sends a CONN and reads its result. */
  async conn(id: string | number): Promise<number> {
    await this.send(request(0x01, id, this.#trial.options.conn));
    const [answer] = await this.answers(1);
    this.#expectAnswer(answer!, "conn", typeof id === "number" ? idOf(id) : id);
    return answer!.result;
  }

  /** Sends a CONN that must be accepted for the case to make sense. */
  async open(id: string | number): Promise<void> {
    const result = await this.conn(id);
    if (result === 0) return;
    throw new NotJudged(
      `the target answered CONN with ${result}; give a payload that it accepts with --conn`,
    );
  }

  /** Reads answers. Fails where what comes is none. */
  async answers(count: number): Promise<Answer[]> {
    const bytes = await this.#read(count);
    return Array.from({ length: count }, (_, index) => {
      const answer = answerAt(bytes, index * answerLength);
      if (answer !== null) return answer;
      const came = bytes.subarray(index * answerLength, (index + 1) * answerLength);
      throw new Misbehaviour(`answer ${index + 1} is no frame of 14 bytes: ${came.toHex()}`);
    });
  }

  /**
   * Reads as many answers as ids are given, and fails unless they are the SUBMITs' with these ids, in any order.
   * Returns their results in the order in which they came.
   */
  async expectSubmits(ids: readonly (string | number)[]): Promise<number[]> {
    const due = new Map<string, number>();
    for (const id of ids) {
      const text = typeof id === "number" ? idOf(id) : id;
      due.set(text, (due.get(text) ?? 0) + 1);
    }
    const answers = await this.answers(ids.length);
    const command = answerCommands[this.#trial.options.dialect].submit;
    for (const answer of answers) {
      const left = due.get(answer.id) ?? 0;
      if (answer.command !== command) this.#expectAnswer(answer, "submit", answer.id);
      if (left === 0) {
        const known = due.has(answer.id) ? "answered before" : "of no request";
        throw new Misbehaviour(`an answer came with the id ${shownId(answer.id)}, ${known}`);
      }
      due.set(answer.id, left - 1);
    }
    return answers.map(({ result }) => result);
  }

  /** Fails unless the answers come with these ids, commands and results, in any order. */
  async expectAnswers(
    expected: readonly { type: "conn" | "submit"; id: number; result?: number }[],
  ): Promise<void> {
    const answers = await this.answers(expected.length);
    for (const { type, id, result } of expected) {
      const answer = answers.find((answer) => answer.id === idOf(id));
      if (answer === undefined) {
        const ids = answers.map(({ id }) => shownId(id)).join(", ");
        throw new Misbehaviour(`no answer came with the id ${shownId(idOf(id))}, but ${ids}`);
      }
      this.#expectAnswer(answer, type, idOf(id));
      if (result !== undefined && answer.result !== result) {
        throw new Misbehaviour(
          `the answer to ${shownId(idOf(id))} has the result ${answer.result}, not ${result}`,
        );
      }
    }
  }

  /** Reads to the end or the time limit, and fails where anything comes. How it ended is judged by itself. */
  async expectNothingMore(): Promise<void> {
    const { bytes } = await this.wire.readToEnd({ timeoutMs: this.#trial.leftMs });
    if (bytes.length > 0) throw new Misbehaviour(`${bytes.length} bytes more came: ${shortHex(bytes)}`);
  }

  /** Fails where anything comes within a time. */
  async expectSilence(ms: number): Promise<void> {
    await this.#trial.pause(ms);
    const { bytes } = await this.wire.readToEnd({ timeoutMs: 0 });
    if (bytes.length > 0) {
      throw new Misbehaviour(`${bytes.length} bytes came within ${ms} ms: ${shortHex(bytes)}`);
    }
  }

  #expectAnswer(answer: Answer, type: "conn" | "submit", id: string): void {
    const { dialect } = this.#trial.options, command = answerCommands[dialect][type];
    if (answer.id !== id) {
      throw new Misbehaviour(`the answer has the id ${shownId(answer.id)}, not ${shownId(id)}`);
    }
    if (answer.command !== command) {
      throw new Misbehaviour(
        `the answer to ${shownId(id)} has the command ${shownByte(answer.command)}, not ${
          shownByte(command)
        } ` +
          `(${type === "conn" ? "CONN-ACK" : "SUBMIT-ACK"} of the dialect ${dialect})`,
      );
    }
  }

  async #read(count: number): Promise<Uint8Array> {
    try {
      return await this.wire.readExactly(count * answerLength, { timeoutMs: this.#trial.leftMs });
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      const whole = Math.floor(error.bytes.length / answerLength), rest = error.bytes.length % answerLength;
      const came = `${whole} of ${count} answers came${rest > 0 ? ` and ${rest} bytes` : ""}`;
      const why = {
        timeout: `the time limit of ${this.#trial.options.limitMs} ms was over`,
        ended: "the target sent its FIN",
        reset: "the target reset the connection",
      }[error.code];
      throw new Misbehaviour(`${came}, then ${why}`);
    }
  }
}

function shortHex(bytes: Uint8Array): string {
  return bytes.subarray(0, 32).toHex() + (bytes.length > 32 ? " …" : "");
}
