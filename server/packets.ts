// The packet door's inside: requests of the submit protocol to a handler, and its results to answers.

import { type Dialect, type FrameBatch, PacketError, Result } from "../codec/mod.ts";
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
   * @throws {TypeError} If it is first asked for after the handler has settled.
   */
  readonly payload: Uint8Array;
  /** Aborted when the answer is not waited for any more: the handler took too long, or the connection is gone. */
  readonly signal: AbortSignal;
}

/** The connection that a SUBMIT came on, as its handler sees it. */
export interface SubmitPeer extends Peer {
  /** The payload of the CONN that opened the session, as the client sent it; null where there was none. */
  readonly session: Uint8Array | null;
}

/** A result from 0 to 255; nothing means 0, accepted. */
export type SubmitResult = number | void | undefined;

/** Does what a SUBMIT asks for. May be called again before the promise that it returned has settled. */
export type SubmitHandler = (submit: Submit, peer: SubmitPeer) => SubmitResult | PromiseLike<SubmitResult>;

/** Makes a result of what a handler threw; what it throws itself, or nothing, makes 5, handler failed. */
export type SubmitErrorHandler = (error: unknown, submit: Submit) => SubmitResult | PromiseLike<SubmitResult>;

/** What the connections of a packet server share. */
export interface PacketConfig {
  readonly dialect: Dialect;
  readonly handler: SubmitHandler;
  readonly onError: SubmitErrorHandler | undefined;
}

/** One connection of a packet server. */
export class PacketDispatch extends Dispatch {
  readonly #config: PacketConfig;
  readonly #peer: Session;
  readonly #submitAck: number;
  readonly #connAck: number;

  constructor(host: Host, connection: Connection, number: number, config: PacketConfig) {
    super(host, connection, number);
    this.#config = config;
    this.#peer = new Session(this, connection, number);
    this.#submitAck = commandCode("submit-ack", config.dialect);
    this.#connAck = commandCode("conn-ack", config.dialect);
  }

  override takeFrame(batch: FrameBatch, index: number, slab: Slab, draining: boolean): boolean {
    const bytes = batch.bytesOf(index), view = batch.viewOf(index);
    const start = batch.startOf(index), end = batch.endOf(index);
    const type = packetType(bytes, start, end, this.#config.dialect);
    if (type === "submit") {
      if (draining) this.#acknowledge(this.#submitAck, view, start, Result.shuttingDown);
      else this.#call(new SubmitCall(bytes, view, start, end), bytes === batch.chunk ? slab : null);
    } else if (type === "conn") {
      this.#acknowledge(
        this.#connAck,
        view,
        start,
        draining ? Result.shuttingDown : this.#peer.open(bytes, start, end),
      );
    } else {
      const command = bytes[start]!;
      const message = `Cannot take ${type}: a server receives requests alone`;
      throw new PacketError("unexpected-command", message, command);
    }
    return true;
  }

  override timedOut(call: SubmitCall): void {
    this.#acknowledge(this.#submitAck, call.view, call.start, Result.handlerTimeout);
    this.flushSoon();
  }

  #call(call: SubmitCall, slab: Slab | null): void {
    this.host.counts.handled++;
    let outcome: SubmitResult | PromiseLike<SubmitResult>;
    try {
      outcome = this.#config.handler(call, this.#peer);
    } catch (error) {
      outcome = this.#failed(error, call);
    }
    if (isPromiseLike(outcome)) this.#wait(call, slab, outcome);
    else this.#settle(call, outcome);
  }

  #wait(call: SubmitCall, slab: Slab | null, outcome: PromiseLike<SubmitResult>): void {
    if (slab !== null && this.connection.pinned) {
      call.keepBytes();
      slab = null;
    }
    this.calls.add(call, slab);
    outcome.then(
      (result) => this.#settleLater(call, result),
      (error) => {
        const instead = call.running ? this.#failed(error, call) : undefined;
        if (!isPromiseLike(instead)) return this.#settleLater(call, instead);
        instead.then(
          (result) => this.#settleLater(call, result),
          (error) => this.#settleLater(call, this.#reported(error)),
        );
      },
    );
  }

  #settleLater(call: SubmitCall, result: SubmitResult): void {
    if (call.running) {
      this.#settle(call, result);
      this.flushSoon();
      this.calls.remove(call);
    }
    call.over = true;
    this.calls.settled(call);
  }

  #settle(call: SubmitCall, result: SubmitResult): void {
    call.over = true;
    if (result === undefined) result = Result.accepted;
    else if ((result & 0xff) !== result) result = this.#reported(noResult(result));
    this.#acknowledge(this.#submitAck, call.view, call.start, result);
  }

  /** What to answer for a handler that failed: what `onError` says, else 5. */
  #failed(error: unknown, call: SubmitCall): SubmitResult | PromiseLike<SubmitResult> {
    const result = this.#reported(error), { onError } = this.#config;
    if (onError === undefined) return result;
    try {
      const instead = onError(error, call);
      return isPromiseLike(instead) ? instead.then((instead) => instead ?? result) : instead ?? result;
    } catch (error) {
      return this.#reported(error);
    }
  }

  #reported(error: unknown): number {
    this.host.handlerError(this.number, error);
    return Result.handlerFailed;
  }

  #acknowledge(command: number, request: DataView, start: number, result: number): void {
    const { out } = this.connection;
    if (out.ended) return;
    const at = out.reserve(ackFrameLength);
    writeAck(out.view, at, command, request, start, result);
  }
}

/** A SUBMIT at work. Public fields are for {@linkcode PacketDispatch}; handlers see {@linkcode Submit}. */
class SubmitCall extends Call implements Submit {
  /** Whether the handler has settled. */
  over = false;
  #bytes: Uint8Array;
  view: DataView;
  start: number;
  #end: number;

  constructor(bytes: Uint8Array, view: DataView, start: number, end: number) {
    super();
    this.#bytes = bytes;
    this.view = view;
    this.start = start;
    this.#end = end;
  }

  get id(): string {
    this.#check("id");
    return readId(this.#bytes, this.start);
  }

  get payload(): Uint8Array {
    this.#check("payload");
    return this.#bytes.subarray(this.start + payloadOffset, this.#end);
  }

  /** Gives the bytes a place of their own. */
  keepBytes(): void {
    this.#bytes = this.#bytes.slice(this.start, this.#end);
    this.view = new DataView(this.#bytes.buffer);
    this.#end -= this.start;
    this.start = 0;
  }

  #check(field: string): void {
    if (!this.over) return;
    throw new TypeError(
      `Cannot read ${field}: its handler has settled, and the bytes are in use again; copy it before`,
    );
  }
}

/** The connection as handlers see it, and its session. */
class Session extends DispatchPeer implements SubmitPeer {
  session: Uint8Array | null = null;

  /** Opens the session with the CONN in `bytes`, and says what to answer. */
  open(bytes: Uint8Array, start: number, end: number): number {
    if (this.session !== null) return Result.refused;
    this.session = bytes.slice(start + payloadOffset, end);
    return Result.accepted;
  }
}

function noResult(value: unknown): TypeError {
  const shown = typeof value === "number" ? value : typeof value;
  return new TypeError(`A handler must return a result from 0 to 255, or nothing, and returned ${shown}`);
}
