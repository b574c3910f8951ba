// The packet door's inside: requests of the submit protocol to a handler, and its results to answers.

import { type Dialect, type FrameBatch, type Packet, PacketError, Result } from "../codec/mod.ts";
import { ackFrameLength, commandCode, packetType, payloadOffset, readId, writeAck } from "../codec/packet.ts";
import type { Connection } from "../transport/connection.ts";
import type { Slab } from "../transport/slab.ts";
import { Call, isPromiseLike } from "./calls.ts";
import { Dispatch, DispatchPeer, type Peer } from "./dispatch.ts";
import type { Host } from "./host.ts";

/** A SUBMIT, as its handler sees it. */
export interface Submit {
  /** The eight bytes of the request's id, as characters U+0000 to U+00FF. The server draws nothing from them. */
  readonly id: string;
  /**
   * What was submitted: a view of the server's memory that is valid until the handler settles. Copy what you keep
   * (`payload.slice()`).
   *
   * @throws {TypeError} If it is asked for after the handler has settled, as `id` does.
   */
  readonly payload: Uint8Array;
  /** Aborted when the answer is not waited for any more: the handler took too long, or the connection is gone. */
  readonly signal: AbortSignal;
}

/** A CONN, as `authenticate` sees it. */
export interface Conn {
  /** The eight bytes of the request's id, as characters U+0000 to U+00FF. */
  readonly id: string;
  /** What the client sent: a name, a token. The copy is the session's to keep. */
  readonly payload: Uint8Array;
  /** Aborted when the connection is gone, or waited too long for its session. */
  readonly signal: AbortSignal;
}

/** The connection that a SUBMIT came on, as its handler sees it. */
export interface SubmitPeer<Session = Uint8Array> extends Peer {
  /** What `authenticate` made of the CONN, or the CONN's payload without it; null where there was no CONN. */
  readonly session: Session | null;
}

/**
 * Decides a CONN: a number from 1 to 255 refuses it with that result, anything else is the session. A refusal is
 * answered, then the connection is closed; so it is, with 5, where this throws.
 */
export type Authenticate<Session> = (
  conn: Conn,
  peer: Peer,
) => Session | number | PromiseLike<Session | number>;

/** A result from 0 to 255; nothing means 0, accepted. */
export type SubmitResult = number | void | undefined;

/** Does what a SUBMIT asks for. May be called again before the promise that it returned has settled. */
export type SubmitHandler<Session = Uint8Array> = (
  submit: Submit,
  peer: SubmitPeer<Session>,
) => SubmitResult | PromiseLike<SubmitResult>;

/** Makes a result of what a handler threw; what it throws itself, or nothing, makes 5, handler failed. */
export type SubmitErrorHandler = (error: unknown, submit: Submit) => SubmitResult | PromiseLike<SubmitResult>;

/** What the connections of a packet server share. */
export interface PacketConfig {
  readonly dialect: Dialect;
  readonly handler: SubmitHandler<unknown>;
  readonly authenticate: Authenticate<unknown> | undefined;
  readonly onError: SubmitErrorHandler | undefined;
}

/** One connection of a packet server. */
export class PacketDispatch extends Dispatch {
  readonly #config: PacketConfig;
  readonly #peer: SessionPeer;
  readonly #submitAck: number;
  readonly #connAck: number;
  readonly #connDeadline: number;
  // Set while a CONN is being decided: what comes behind it waits.
  #deciding: Promise<void> | null = null;

  constructor(host: Host, connection: Connection, number: number, config: PacketConfig) {
    super(host, connection, number);
    this.#config = config;
    this.#peer = new SessionPeer(this, connection, number);
    this.#submitAck = commandCode("submit-ack", config.dialect);
    this.#connAck = commandCode("conn-ack", config.dialect);
    this.#connDeadline = host.ticker.after(host.limits.connTimeoutMs);
  }

  override ready(): Promise<void> | null {
    return this.#deciding ?? super.ready();
  }

  protected override async idle(): Promise<void> {
    await this.#deciding;
    await super.idle();
  }

  override tick(now: number): void {
    const waiting = this.#config.authenticate !== undefined && !this.#peer.opened && !this.closing;
    if (waiting && now >= this.#connDeadline) {
      this.connection.exceed(
        "The connection has no session",
        "connTimeoutMs",
        this.host.limits.connTimeoutMs,
      );
    }
    super.tick(now);
  }

  // The hottest loop of the server: what most requests need is in it in plain sight, and all else is behind a call.
  // (V8 inlines only so much: with a method for each step, a request of 16 bytes took 57 ns instead of 48.)
  protected override takeFrames(
    batch: FrameBatch<Slab>,
    from: number,
    slab: Slab,
    draining: boolean,
  ): number {
    const { connection, calls, host, pinned } = this,
      { out } = connection,
      { counts } = host,
      { count } = batch;
    const { maxInFlight } = host.limits, { dialect, handler, authenticate } = this.#config;
    const peer = this.#peer, submitAck = this.#submitAck;
    for (let index = from; index < count; index++) {
      // The same as `room`.
      if (calls.count >= maxInFlight || connection.stopped) return index;
      const bytes = batch.bytesOf(index), view = batch.viewOf(index);
      const start = batch.startOf(index), end = batch.endOf(index);
      const type = packetType(bytes, start, end, dialect);
      if (type !== "submit" || draining || (authenticate !== undefined && !peer.opened)) {
        this.#takeUnhandled(type, bytes, view, start, end, draining);
        if (this.#deciding !== null) return index + 1;
        continue;
      }
      counts.handled++;
      const lent = bytes === batch.chunk;
      // Where other handlers hold a slab already, this one's bytes must not hold another.
      const submit = new SubmitRequest(bytes, start, end, lent && pinned);
      let outcome: SubmitResult | PromiseLike<SubmitResult>;
      try {
        outcome = handler(submit, peer);
      } catch (error) {
        outcome = this.#failed(error, submit);
      }
      if (outcome !== undefined) {
        const held = !lent ? batch.loan : pinned ? null : slab;
        this.#settleOrWait(submit, bytes, view, start, outcome, held);
        continue;
      }
      submit.settle();
      if (out.ended) continue;
      counts.answered++;
      const at = out.reserve(ackFrameLength);
      writeAck(out.view, at, submitAck, view, start, Result.accepted);
    }
    return count;
  }

  /** Takes a packet that is not for the handler. */
  #takeUnhandled(
    type: Packet["type"],
    bytes: Uint8Array,
    view: DataView,
    start: number,
    end: number,
    draining: boolean,
  ): void {
    if (type === "submit") {
      this.#acknowledge(this.#submitAck, view, start, draining ? Result.shuttingDown : Result.notConnected);
    } else if (type === "conn") {
      if (draining || this.#peer.opened) {
        this.#acknowledge(this.#connAck, view, start, draining ? Result.shuttingDown : Result.refused);
      } else {
        this.#open(bytes.slice(start, end));
      }
    } else {
      const command = bytes[start]!;
      const message = `Cannot take ${type}: a server receives requests alone`;
      throw new PacketError("unexpected-command", message, command);
    }
  }

  /** Decides a CONN, which is given as a copy. */
  #open(packet: Uint8Array): void {
    const payload = packet.subarray(payloadOffset), { authenticate } = this.#config;
    if (authenticate === undefined) return this.#decided(packet, payload);
    const { connection } = this;
    const conn: Conn = {
      id: readId(packet, 0),
      payload,
      get signal() {
        return connection.signal;
      },
    };
    const failed = (error: unknown) => this.#decided(packet, this.#reported(error));
    try {
      const decision = authenticate(conn, this.#peer);
      if (!isPromiseLike(decision)) return this.#decided(packet, decision);
      const decided = decision.then((decision) => this.#decided(packet, decision), failed);
      // Where the connection goes first, nobody waits for the decision.
      this.#deciding = Promise.race([decided, connection.closed]).then(() => void (this.#deciding = null));
    } catch (error) {
      failed(error);
    }
  }

  #decided(packet: Uint8Array, decision: unknown): void {
    if (!this.connection.open) return;
    let result: number = Result.accepted;
    if (typeof decision !== "number") this.#peer.open(decision);
    else if (decision > 0 && (decision & 0xff) === decision) result = decision;
    else result = this.#reported(noDecision(decision));
    this.#acknowledge(this.#connAck, new DataView(packet.buffer), 0, result);
    this.flushSoon();
    this.host.emit({ type: "authenticated", connection: this.number, result });
    if (result !== Result.accepted) this.close("refused", null);
  }

  override timedOut({ view, start }: PacketCall): void {
    this.#answer(view, start, Result.handlerTimeout);
    this.flushSoon();
  }

  /** Answers for a handler that gave a result, and waits for one that gave a promise, with its slab if it has one. */
  #settleOrWait(
    submit: SubmitRequest,
    bytes: Uint8Array,
    view: DataView,
    start: number,
    outcome: SubmitResult | PromiseLike<SubmitResult>,
    slab: Slab | null,
  ): void {
    if (!isPromiseLike(outcome)) {
      submit.settle();
      return this.#answer(view, start, outcome);
    }
    const kept = submit.keep();
    const call = new PacketCall(submit, kept === bytes ? view : viewOf(kept), kept === bytes ? start : 0);
    this.calls.add(call, slab);
    this.#wait(call, outcome);
  }

  #wait(call: PacketCall, outcome: PromiseLike<SubmitResult>): void {
    const settle = (result: SubmitResult) => {
      call.submit.settle();
      if (call.running) {
        this.#answer(call.view, call.start, result);
        this.flushSoon();
        this.calls.remove(call);
      }
      this.calls.settled(call);
    };
    outcome.then(settle, (error) => {
      const instead = call.running ? this.#failed(error, call.submit) : undefined;
      if (isPromiseLike(instead)) instead.then(settle);
      else settle(instead);
    });
  }

  #answer(request: DataView, start: number, result: SubmitResult): void {
    if (result === undefined) result = Result.accepted;
    else if (typeof result !== "number" || (result & 0xff) !== result) {
      result = this.#reported(noResult(result));
    }
    if (this.#acknowledge(this.#submitAck, request, start, result)) this.host.counts.answered++;
  }

  /** What to answer for a handler that failed: what `onError` says, else 5. */
  #failed(error: unknown, submit: Submit): SubmitResult | PromiseLike<SubmitResult> {
    const result = this.#reported(error), { onError } = this.#config;
    if (onError === undefined) return result;
    try {
      const instead = onError(error, submit);
      if (!isPromiseLike(instead)) return instead ?? result;
      return instead.then((instead) => instead ?? result, (error) => this.#reported(error));
    } catch (error) {
      return this.#reported(error);
    }
  }

  #reported(error: unknown): number {
    this.host.handlerError(this.number, error);
    return Result.handlerFailed;
  }

  /** Puts in an answer, unless there is nobody to read it. */
  #acknowledge(command: number, request: DataView, start: number, result: number): boolean {
    const { out } = this.connection;
    if (out.ended) return false;
    const at = out.reserve(ackFrameLength);
    writeAck(out.view, at, command, request, start, result);
    return true;
  }
}

/**
 * A SUBMIT as its handler sees it. One is made for each request, on the hottest path there is: what only a handler
 * that waits needs is in its {@linkcode PacketCall} (one object of 14 fields for both cost a sixth of the throughput
 * of 16-byte payloads).
 */
class SubmitRequest implements Submit {
  // Null once the handler has settled.
  #bytes: Uint8Array | null;
  #start: number;
  #end: number;
  // Whether the bytes are to be the request's own before anybody sees them.
  #copied: boolean;
  #abort: AbortController | null = null;

  constructor(bytes: Uint8Array, start: number, end: number, copied: boolean) {
    this.#bytes = bytes;
    this.#start = start;
    this.#end = end;
    this.#copied = copied;
  }

  get id(): string {
    return readId(this.#lent("id"), this.#start);
  }

  get payload(): Uint8Array {
    const bytes = this.#copied ? this.keep() : this.#lent("payload");
    return bytes.subarray(this.#start + payloadOffset, this.#end);
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    return this.#abort.signal;
  }

  /** Aborts the signal. */
  cut(reason: unknown): void {
    this.#abort ??= new AbortController();
    this.#abort.abort(reason);
  }

  /** The loan is over. */
  settle(): void {
    this.#bytes = null;
  }

  /** Gives the packet a place of its own where it is to have one, and returns the bytes that it lies in. */
  keep(): Uint8Array {
    const bytes = this.#lent("payload");
    if (!this.#copied) return bytes;
    this.#copied = false;
    this.#bytes = bytes.slice(this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    return this.#bytes;
  }

  #lent(field: string): Uint8Array {
    if (this.#bytes !== null) return this.#bytes;
    throw new TypeError(
      `Cannot read ${field}: its handler has settled, and the bytes are in use again; copy it before`,
    );
  }
}

/** A SUBMIT whose handler has not settled. */
class PacketCall extends Call {
  readonly submit: SubmitRequest;
  /** Where the packet lies. */
  readonly view: DataView;
  readonly start: number;

  constructor(submit: SubmitRequest, view: DataView, start: number) {
    super();
    this.submit = submit;
    this.view = view;
    this.start = start;
  }

  override cut(reason: unknown): void {
    this.submit.cut(reason);
  }
}

function viewOf({ buffer }: Uint8Array): DataView {
  return new DataView(buffer);
}

/** The connection as handlers see it, and its session. */
class SessionPeer extends DispatchPeer implements SubmitPeer<unknown> {
  session: unknown = null;
  opened = false;

  open(session: unknown): void {
    this.session = session;
    this.opened = true;
  }
}

function noDecision(value: number): TypeError {
  return new TypeError(
    `authenticate must return a session, or a result from 1 to 255 to refuse it, and returned ${value}`,
  );
}

function noResult(value: unknown): TypeError {
  const shown = typeof value === "number" ? value : typeof value;
  return new TypeError(`A handler must return a result from 0 to 255, or nothing, and returned ${shown}`);
}
