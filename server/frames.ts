// The frame door's inside: a function from frame to reply, replies in the order of arrival.

import type { FrameBatch, FrameFormat } from "../codec/mod.ts";
import type { Connection } from "../transport/connection.ts";
import { putFrame } from "../transport/frame_connection.ts";
import { copyLimit } from "../transport/outbox.ts";
import type { Slab } from "../transport/slab.ts";
import { Call, isPromiseLike } from "./calls.ts";
import { Dispatch, DispatchPeer, type Peer } from "./dispatch.ts";
import type { Host } from "./host.ts";

/** A reply without its length field, or nothing for no reply. */
export type FrameReply = Uint8Array | void | null | undefined;

/**
 * Makes a reply to a frame. The frame is a view that is valid until the handler settles; the reply is copied before
 * that loan ends, so it may be a part of the frame.
 */
export type FrameHandler = (frame: Uint8Array, peer: Peer) => FrameReply | PromiseLike<FrameReply>;

/** Makes a reply of what a handler threw. What it throws itself closes the connection. */
export type FrameErrorHandler = (error: unknown, frame: Uint8Array) => FrameReply | PromiseLike<FrameReply>;

/** What the connections of a frame server share. */
export interface FrameConfig {
  readonly format: FrameFormat;
  readonly handler: FrameHandler;
  readonly onError: FrameErrorHandler | undefined;
}

/** One connection of a frame server. */
export class FrameDispatch extends Dispatch {
  readonly #config: FrameConfig;
  readonly #peer: Peer;
  // Calls that wait for an earlier one's reply, or for their own, oldest first.
  readonly #replies: FrameCall[] = [];
  // Bytes of the replies that wait for an earlier one.
  #waitingBytes = 0;
  // A reply is missing. The peer counts on their order: those before it were sent, none after it may be.
  #broken = false;

  constructor(host: Host, connection: Connection, number: number, config: FrameConfig) {
    super(host, connection, number);
    this.#config = config;
    this.#peer = new DispatchPeer(this, connection, number);
  }

  override ready(): Promise<void> | null {
    if (this.calls.count === 0) this.#drop();
    // Replies that wait for an earlier one are bounded in number as handlers are, and in bytes as what is pending is.
    const { maxInFlight, outboundHighWaterBytes } = this.host.limits;
    const room = this.#replies.length < maxInFlight && this.#waitingBytes <= outboundHighWaterBytes;
    return room ? super.ready() : this.roomLater();
  }

  protected override async idle(): Promise<void> {
    await super.idle();
    this.#drop();
  }

  protected override takeFrames(
    batch: FrameBatch<Slab>,
    from: number,
    slab: Slab,
    draining: boolean,
  ): number {
    if (draining) return batch.count; // there is no reply that says "later"
    let index = from;
    while (index < batch.count && this.room && this.#takeFrame(batch, index, slab)) index++;
    return index;
  }

  /** Takes one frame; false where it has to wait. */
  #takeFrame(batch: FrameBatch<Slab>, index: number, slab: Slab): boolean {
    const { maxInFlight, outboundHighWaterBytes } = this.host.limits;
    // A reply may be long: hold them against the limit one by one.
    const waiting = this.#replies.length >= maxInFlight || this.#waitingBytes > outboundHighWaterBytes;
    if (waiting || this.connection.out.pendingBytes > outboundHighWaterBytes) {
      return false;
    }
    const held = batch.bytesOf(index) !== batch.chunk ? batch.loan : this.pinned ? null : slab;
    const frame = batch.frame(index), call = new FrameCall(held === null ? frame.slice() : frame);
    this.host.counts.handled++;
    let reply: FrameReply | PromiseLike<FrameReply>;
    try {
      reply = this.#config.handler(call.frame, this.#peer);
    } catch (error) {
      reply = this.#failed(error, call);
    }
    if (isPromiseLike(reply)) {
      this.calls.add(call, held);
      this.#replies.push(call);
      this.#wait(call, reply);
    } else if (this.#replies.length > 0) {
      this.#finish(call, reply);
      this.#replies.push(call);
    } else {
      this.#send(call, reply);
    }
    return true;
  }

  override timedOut(call: FrameCall): void {
    call.failure = { error: new DOMException("The handler took too long", "TimeoutError") };
    this.#finish(call, null);
    this.#sendDue();
  }

  #wait(call: FrameCall, outcome: PromiseLike<FrameReply>): void {
    const settle = (reply: FrameReply) => {
      this.#finish(call, reply);
      this.#sendDue();
      this.calls.remove(call);
    };
    outcome.then(settle, (error) => {
      const instead = call.running ? this.#failed(error, call) : null;
      if (isPromiseLike(instead)) instead.then(settle);
      else settle(instead);
    });
  }

  /** Keeps a reply until its turn. */
  #finish(call: FrameCall, reply: FrameReply): void {
    if (call.done) return;
    call.done = true;
    // The handler may use its memory again meanwhile.
    call.reply = reply instanceof Uint8Array ? reply.slice() : reply;
    this.#waitingBytes += lengthOf(call.reply);
  }

  /** Sends the replies whose turn it is. */
  #sendDue(): void {
    let due = 0;
    for (; due < this.#replies.length && this.#replies[due]!.done; due++) {
      const call = this.#replies[due]!;
      this.#waitingBytes -= lengthOf(call.reply);
      this.#send(call, call.reply);
      this.calls.settled(call);
    }
    if (due === 0) return;
    this.#replies.splice(0, due);
    this.flushSoon();
  }

  /** Replies that wait with no handler running were cut: nobody is left to get them. */
  #drop(): void {
    for (const call of this.#replies.splice(0)) {
      call.done = true;
      this.calls.settled(call);
    }
    this.#waitingBytes = 0;
  }

  #send(call: FrameCall, reply: FrameReply): void {
    const { out } = this.connection;
    if (this.#broken || out.ended) return;
    try {
      if (call.failure !== null) throw call.failure.error;
      this.host.counts.answered++;
      if (reply === null || reply === undefined) return;
      if (!(reply instanceof Uint8Array)) {
        throw new TypeError(`A handler must return bytes or nothing, and returned ${typeof reply}`);
      }
      // Long ones are written from where they lie: not from memory that is about to be used again.
      putFrame(out, reply.length >= copyLimit ? reply.slice() : reply, this.#config.format);
    } catch (error) {
      this.#broken = true;
      this.host.handlerError(this.number, error);
      this.close("handler", error);
    }
  }

  /** What to reply for a handler that failed: what `onError` says; without it, the connection ends there. */
  #failed(error: unknown, call: FrameCall): FrameReply | PromiseLike<FrameReply> {
    try {
      if (this.#config.onError === undefined) throw error;
      this.host.handlerError(this.number, error);
      const instead = this.#config.onError(error, call.frame);
      if (!isPromiseLike(instead)) return instead;
      return instead.then((reply) => reply, (error) => {
        call.failure = { error };
        return null;
      });
    } catch (error) {
      call.failure = { error };
      return null;
    }
  }
}

class FrameCall extends Call {
  override cut(): void {
    // Its handler was given no signal of its own: the peer's is aborted when the connection is gone.
  }

  readonly frame: Uint8Array;
  reply: FrameReply = null;
  done = false;
  /** Set where there is no reply and should be one. */
  failure: { readonly error: unknown } | null = null;

  constructor(frame: Uint8Array) {
    super();
    this.frame = frame;
  }
}

function lengthOf(reply: FrameReply): number {
  return reply instanceof Uint8Array ? reply.length : 0;
}
