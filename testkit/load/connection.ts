// What does one connection of a load do? It keeps its window full, and knows every id that is in flight.

import {
  ackFrameLength,
  commandCode,
  encodePacket,
  readResult,
  requestHeaderLength,
  writeRequestHeader,
} from "../../codec/packet.ts";
import { encodeFrame, FrameDecoder, submitFormat } from "../../codec/mod.ts";
import type { Engine, ErrorCounts } from "./engine.ts";

/** One connection, opened again where it is lost. */
export class LoadConnection {
  readonly #engine: Engine;
  readonly #index: number;
  readonly #window: number;
  readonly #ackCommand: number;
  readonly #frameLength: number;
  /** Requests back to back, whole but for their ids, and how many there are. */
  readonly #outbox: Uint8Array<ArrayBuffer>;
  readonly #outboxView: DataView;
  readonly #batch: number;
  readonly #inbox: Uint8Array<ArrayBuffer>;
  readonly #inboxView: DataView;
  #socket: Deno.TcpConn | null = null;
  #running = false;
  /** The writes under way. */
  #sending: Promise<void> | null = null;
  /** Whether our side has ended, so that the other one may. */
  #ending = false;
  /** The error that is counted already: closing a socket makes others of it. */
  #failed = false;

  // What is in flight lies at its serial number modulo the length; 0 is nothing.
  readonly #mask: number;
  readonly #pending: Int32Array;
  readonly #sentAt: Float64Array;
  readonly #demandedAt: Float64Array | null;
  /** Requests that lay where a newer one does: ids that are overtaken again and again. */
  readonly #overtaken = new Map<number, Times>();
  /** Ids that were given up. */
  readonly #lost = new Set<number>();
  #inFlight = 0;
  /** Requests sent, over all sockets. */
  #count = 0;
  #serial = 0;
  /** Whether the serial numbers have begun again, so that each has been used. */
  #wrapped = false;

  constructor(engine: Engine, index: number) {
    const { window, payload, dialect, rate } = engine.options;
    this.#engine = engine;
    this.#index = index;
    this.#window = window;
    this.#ackCommand = commandCode("submit-ack", dialect);
    this.#frameLength = requestHeaderLength + payload;
    this.#batch = Math.min(window, Math.max(1, Math.floor(maxWriteLength / this.#frameLength)));
    this.#outbox = new Uint8Array(this.#batch * this.#frameLength);
    this.#outboxView = new DataView(this.#outbox.buffer);
    for (let at = 0; at < this.#outbox.length; at += this.#frameLength) {
      writeRequestHeader(this.#outboxView, at, commandCode("submit", dialect), 0, payload);
      for (let i = 0; i < payload; i++) this.#outbox[at + requestHeaderLength + i] = i;
    }
    this.#inbox = new Uint8Array(Math.min(65_536, Math.max(1024, (window + 1) * ackFrameLength)));
    this.#inboxView = new DataView(this.#inbox.buffer);
    const places = 2 ** Math.ceil(Math.log2(window * 2));
    this.#mask = places - 1;
    this.#pending = new Int32Array(places);
    this.#sentAt = new Float64Array(places);
    this.#demandedAt = rate === null ? null : new Float64Array(places);
  }

  get isOpen(): boolean {
    return this.#socket !== null;
  }

  /** Connects, and opens a session if there is to be one. Failure is counted, not thrown. */
  async open(): Promise<void> {
    const { gate, options: { hostname, port, timeoutMs, session } } = this.#engine;
    await gate.enter();
    const given = new AbortController();
    const timer = setTimeout(() => given.abort(), timeoutMs);
    let socket: Deno.TcpConn | null = null;
    given.signal.addEventListener("abort", () => socket?.[Symbol.dispose]());
    try {
      if (this.#engine.stopping) return;
      socket = await Deno.connect({ hostname, port, signal: given.signal });
      socket.setNoDelay(true);
      if (session !== null) await this.#openSession(socket, session);
      this.#socket = socket;
    } catch (error) {
      socket?.[Symbol.dispose]();
      const reason = given.signal.aborted ? `no answer within ${timeoutMs} ms` : described(error);
      this.#engine.fail("connect", `Cannot connect to ${hostname}:${port}: ${reason}`);
    } finally {
      clearTimeout(timer);
      gate.leave();
    }
  }

  /** Sends and receives until the run is over. */
  async run(): Promise<void> {
    while (true) {
      if (this.#socket !== null) await this.#converse(this.#socket);
      if (this.#engine.stopping) return;
      await new Promise((resolve) => setTimeout(resolve, reopenDelayMs));
      await this.open();
      if (this.#engine.stopping) this.close();
    }
  }

  /** Sends what there is leave to send. */
  pump(): void {
    if (!this.#running || this.#sending !== null) return;
    const count = this.#leave();
    if (count > 0) this.#sending = this.#send(count);
  }

  /** Gives up the requests that were sent before a time. */
  giveUp(before: number): void {
    if (this.#inFlight === 0) return;
    for (let place = 0; place < this.#pending.length; place++) {
      const serial = this.#pending[place]!;
      if (serial === 0 || this.#sentAt[place]! > before) continue;
      this.#pending[place] = 0;
      this.#lose(serial);
    }
    for (const [serial, { sentAt }] of this.#overtaken) {
      if (sentAt > before) continue;
      this.#overtaken.delete(serial);
      this.#lose(serial);
    }
    this.pump();
  }

  /** Ends our side. */
  end(): void {
    this.#ending = true;
    // A socket that is gone already has been counted.
    this.#socket?.closeWrite().catch(() => {});
  }

  /** Closes the socket, whatever is in flight. */
  close(): void {
    this.#ending = true;
    this.#socket?.[Symbol.dispose]();
  }

  async #openSession(socket: Deno.TcpConn, payload: Uint8Array): Promise<void> {
    const { dialect } = this.#engine.options, format = submitFormat();
    const request = encodeFrame(encodePacket({ type: "conn", id: "00000001", payload }), format);
    for (let at = 0; at < request.length;) at += await socket.write(request.subarray(at));
    this.#serial = 1;
    const decoder = new FrameDecoder(format), chunk = new Uint8Array(ackFrameLength);
    for (let length = 0; length < ackFrameLength;) {
      const count = await socket.read(chunk.subarray(0, ackFrameLength - length));
      if (count === null) throw new Error("the target ended the connection in place of an answer to CONN");
      length += count;
      const [answer] = decoder.push(chunk.slice(0, count));
      if (answer === undefined) continue;
      if (answer[0] !== commandCode("conn-ack", dialect)) throw new Error("what came is no answer to CONN");
      if (readResult(answer, 0) !== 0) {
        throw new Error(`the session was refused with ${readResult(answer, 0)}`);
      }
    }
  }

  async #converse(socket: Deno.TcpConn): Promise<void> {
    this.#running = true;
    this.#failed = false;
    try {
      this.pump();
      for (let end = 0;;) {
        const count = await socket.read(end === 0 ? this.#inbox : this.#inbox.subarray(end));
        if (count === null) {
          if (end > 0) this.#fail("protocol", `the connection ended ${end} bytes into an answer`);
          else if (!this.#ending) this.#fail("ended", "the target ended the connection");
          break;
        }
        const now = performance.now();
        this.#engine.roll(now);
        this.#engine.traffic.bytesReceived += count;
        end = this.#take(end + count, now);
        if (end < 0) break;
        this.pump();
        if (this.#engine.stopping) this.#engine.settle();
      }
    } catch (error) {
      if (!this.#ending) this.#fail("read", described(error));
    } finally {
      this.#running = false;
      this.#socket = null;
      socket[Symbol.dispose]();
      await this.#sending;
      this.#abandon();
    }
  }

  /** Takes the answers up to `end`, moves what is left to the front, and says how much; -1 after a bad one. */
  #take(end: number, now: number): number {
    // All in locals: this loop is what the engine's speed hangs on.
    const bytes = this.#inbox, view = this.#inboxView, ackCommand = this.#ackCommand, mask = this.#mask;
    const pending = this.#pending,
      sentAts = this.#sentAt,
      demandedAts = this.#demandedAt,
      { ids } = this.#engine;
    let at = 0, answered = 0, refused = 0, runSentAt = 0, run = 0;
    for (; end - at >= ackFrameLength; at += ackFrameLength) {
      if (view.getUint32(at) !== ackFrameLength || bytes[at + 4] !== ackCommand) break;
      const serial = serialOf(view.getUint32(at + 5), view.getUint32(at + 9)), place = serial & mask;
      let sentAt = sentAts[place]!, demandedAt = demandedAts === null ? 0 : demandedAts[place]!;
      if (serial > 0 && pending[place] === serial) {
        pending[place] = 0;
      } else {
        const times = this.#overtaken.get(serial);
        if (times === undefined) {
          this.#countStray(serial);
          continue;
        }
        this.#overtaken.delete(serial);
        ({ sentAt, demandedAt } = times);
      }
      answered++;
      if (bytes[at + 13] !== 0) refused++;
      if (demandedAts !== null && demandedAt >= this.#engine.measuredFrom) {
        this.#engine.recorder.latency(now - demandedAt, 1);
      }
      if (sentAt !== runSentAt) {
        this.#record(now, runSentAt, run);
        runSentAt = sentAt;
        run = 0;
      }
      run++;
    }
    this.#record(now, runSentAt, run);
    this.#inFlight -= answered;
    ids.answered += answered;
    ids.refused += refused;
    this.#engine.traffic.requests += answered;
    if (end - at >= ackFrameLength) {
      this.#fail("protocol", `what came is no answer: ${hex(bytes.subarray(at, at + ackFrameLength))}`);
      return -1;
    }
    if (at > 0 && at < end) bytes.copyWithin(0, at, end);
    return end - at;
  }

  #record(now: number, sentAt: number, count: number): void {
    if (count === 0 || sentAt < this.#engine.measuredFrom) return;
    if (this.#demandedAt === null) this.#engine.recorder.latency(now - sentAt, count);
    else this.#engine.recorder.uncorrected(now - sentAt, count);
  }

  #countStray(serial: number): void {
    const { ids } = this.#engine;
    if (this.#lost.delete(serial)) ids.late++;
    else if (serial > 0 && (serial <= this.#serial || this.#wrapped)) ids.duplicated++;
    else ids.unknown++;
  }

  /** Writes batch after batch while there is room. One at a time: two would mix their bytes. */
  async #send(count: number): Promise<void> {
    const socket = this.#socket!;
    try {
      for (; count > 0; count = this.#leave()) {
        const length = this.#fill(count);
        for (let at = 0; at < length;) {
          const written = await socket.write(this.#outbox.subarray(at, length));
          at += written;
          this.#engine.traffic.bytesSent += written;
        }
      }
    } catch (error) {
      if (!this.#ending) this.#fail("write", described(error));
      socket[Symbol.dispose]();
    } finally {
      this.#sending = null;
    }
  }

  /** How many requests may be sent now. */
  #leave(): number {
    let count = Math.min(this.#window - this.#inFlight, this.#batch);
    if (this.#demandedAt !== null) count = Math.min(count, this.#demand() - this.#count);
    return count > 0 && this.#running ? this.#engine.grant(count) : 0;
  }

  /** How many of the requests that the rate has demanded are for this connection: each nth. */
  #demand(): number {
    const { demanded, options: { connections } } = this.#engine;
    return Math.floor((demanded - this.#index + connections - 1) / connections);
  }

  /** Writes the ids of the next requests into the outbox, and gives its length. */
  #fill(count: number): number {
    const { startedAt, options: { connections, rate } } = this.#engine, now = performance.now();
    const view = this.#outboxView, pending = this.#pending, sentAts = this.#sentAt, mask = this.#mask;
    const frameLength = this.#frameLength, length = count * frameLength;
    let last = this.#serial, low = lowDigits(last), high = highDigits(last);
    for (let at = idOffset; at < length; at += frameLength) {
      const serial = this.#nextSerial(last), place = serial & mask;
      // The digits are counted on as they are: dividing for each would cost more than all the rest.
      if (serial === last + 1 && (low & 0xff) !== nine) low++;
      else [low, high] = [lowDigits(serial), highDigits(serial)];
      last = serial;
      if (pending[place] !== 0) this.#setAside(place);
      pending[place] = serial;
      sentAts[place] = now;
      if (this.#demandedAt !== null) {
        this.#demandedAt[place] = startedAt + (this.#count * connections + this.#index) * 1000 / rate!;
      }
      this.#count++;
      view.setUint32(at, high);
      view.setUint32(at + 4, low);
    }
    this.#serial = last;
    this.#inFlight += count;
    return length;
  }

  #nextSerial(serial: number): number {
    do {
      if (serial === maxSerial) {
        serial = 0;
        this.#wrapped = true;
      }
      serial++;
    } while (this.#pending[serial & this.#mask] === serial || this.#overtaken.has(serial));
    if (this.#lost.size > 0) this.#lost.delete(serial);
    return serial;
  }

  #setAside(place: number): void {
    this.#overtaken.set(this.#pending[place]!, {
      sentAt: this.#sentAt[place]!,
      demandedAt: this.#demandedAt?.[place] ?? 0,
    });
  }

  #lose(serial: number): void {
    this.#inFlight--;
    this.#engine.ids.lost++;
    this.#lost.add(serial);
    this.#engine.fail("timeout", `no answer within ${this.#engine.options.timeoutMs} ms`);
  }

  /** Takes everything in flight as lost; the next socket begins with new ids. */
  #abandon(): void {
    this.#engine.ids.lost += this.#inFlight;
    this.#inFlight = this.#serial = 0;
    this.#wrapped = false;
    this.#pending.fill(0);
    this.#overtaken.clear();
    this.#lost.clear();
    this.#engine.settle();
  }

  #fail(kind: keyof ErrorCounts, message: string): void {
    if (!this.#failed) this.#engine.fail(kind, message);
    this.#failed = true;
  }
}

interface Times {
  readonly sentAt: number;
  readonly demandedAt: number;
}

function described(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

/** Four digits as the characters that they are, in one number. */
function digits(value: number): number {
  return 0x30303030 + (((value / 1000) | 0) << 24) + (((value / 100 | 0) % 10) << 16) +
    (((value / 10 | 0) % 10) << 8) + value % 10;
}

function highDigits(serial: number): number {
  return digits(serial / 10_000 | 0);
}

function lowDigits(serial: number): number {
  return digits(serial % 10_000);
}

/** The number that eight characters say; -1 where they are no digits. */
function serialOf(high: number, low: number): number {
  const a = high - 0x30303030, b = low - 0x30303030;
  if (((high & low & 0xf0f0f0f0) ^ 0x30303030 | (a + 0x06060606 | b + 0x06060606) & 0xf0f0f0f0) !== 0) {
    return -1;
  }
  return ((a >>> 24) * 1000 + (a >>> 16 & 15) * 100 + (a >>> 8 & 15) * 10 + (a & 15)) * 10_000 +
    (b >>> 24) * 1000 + (b >>> 16 & 15) * 100 + (b >>> 8 & 15) * 10 + (b & 15);
}

const nine = 0x39;
/** The largest id: eight digits. */
const maxSerial = 99_999_999;
/** Where the id lies in a framed request. */
const idOffset = 5;
/** More requests than fit go out with several writes. */
const maxWriteLength = 524_288;
const reopenDelayMs = 50;
