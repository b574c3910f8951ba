// The client: requests under a window, matched with their answers.

import {
  type Dialect,
  type FrameBatch,
  FrameError,
  type FrameFormat,
  PacketError,
  Result,
} from "../codec/mod.ts";
import {
  commandCode,
  packetType,
  readId,
  readResult,
  readSerial,
  requestHeaderLength,
  serialId,
  writeRequestHeader,
} from "../codec/packet.ts";
import type { CloseReason, Connection, FrameConsumer } from "../transport/connection.ts";
import { after, Ticker } from "../transport/deadline.ts";
import { ConnectError, dial, type Dialled, type DialOptions } from "../transport/dial.ts";
import { Fifo } from "../transport/fifo.ts";
import { LimitError, type LimitName } from "../transport/limit.ts";
import { copyLimit } from "../transport/outbox.ts";
import type { Tries } from "./reconnect.ts";
import { type Answer, answerTo, Bulk, type Request, SingleRequest, SubmitError } from "./request.ts";

/** What a client tells its `onEvent`. */
export type ClientEvent =
  /** A connection was made, and its session opened where one is asked for. */
  | { readonly type: "connected"; readonly hostname: string; readonly port: number }
  /** The connection was lost. Where the client reconnects, `reconnecting` follows, else `closed`. */
  | { readonly type: "disconnected"; readonly reason: CloseReason }
  /** A try to connect is about to be made, after a pause. */
  | { readonly type: "reconnecting"; readonly attempt: number; readonly delayMs: number }
  /** A try to connect failed. */
  | { readonly type: "connect-error"; readonly error: unknown }
  /** A request waited longer than `requestTimeoutMs`. */
  | { readonly type: "limit"; readonly limit: LimitName; readonly value: number; readonly id: string }
  /** The answer to a request that was cancelled. */
  | { readonly type: "late-answer"; readonly id: string; readonly result: number }
  /** An answer to no request that is known. */
  | { readonly type: "unknown-answer"; readonly id: string; readonly result: number }
  /** The server sent what the protocol does not allow. The connection is about to be closed. */
  | { readonly type: "protocol-error"; readonly error: FrameError | PacketError }
  /** The client is no more. */
  | { readonly type: "closed"; readonly reason: CloseReason };

/** What a client has counted. */
export interface ClientStats {
  /** Requests that wait for an answer. */
  pending: number;
  /** Requests that wait for room in the window. */
  waiting: number;
  /** Requests that were accepted. */
  accepted: number;
  /** Requests that were refused. */
  refused: number;
  /** Requests that were not handled and are safe to send again. */
  unsent: number;
  /** Requests that were sent and got no answer. */
  unknown: number;
  /** Requests that were cancelled. */
  cancelled: number;
  /** Requests that waited longer than `requestTimeoutMs`; they count as unsent or unknown too. */
  timedOut: number;
  /** Requests that were sent again on a new connection. */
  resent: number;
  /** Connections that were made after the first. */
  reconnects: number;
  /** Answers to requests that had been cancelled. */
  lateAnswers: number;
  /** Answers to no request that is known. */
  unknownAnswers: number;
  /** Calls of `onEvent` that threw. */
  listenerErrors: number;
}

/** What a {@linkcode Client} is made with. */
export interface ClientConfig {
  readonly dial: DialOptions;
  readonly format: FrameFormat;
  readonly tries: Tries;
  readonly dialect: Dialect;
  readonly window: number;
  /** The payload of a CONN to open a session with; null for none. */
  readonly session: Uint8Array | null;
  readonly requestTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly onEvent: ((event: ClientEvent) => void) | undefined;
}

/** How one request is submitted. */
export interface SubmitOptions {
  /** Cancels the request when it is aborted. */
  signal?: AbortSignal;
  /**
   * Whether the server may be given it twice: then it is sent again after a reconnect also where the server may have
   * handled it. @default {false}
   */
  idempotent?: boolean;
}

/** How a stream of bulk work behaves. */
export interface BulkOptions {
  /** Whether closing the stream half-closes the client, as {@linkcode Client.end} does. @default {false} */
  end?: boolean;
  /** Whether its requests are {@linkcode SubmitOptions.idempotent}. @default {false} */
  idempotent?: boolean;
}

/** After it comes 1. */
const lastSerial = 99_999_999;
/** Ends after which another connection would end the same way. */
const fatal: ReadonlySet<string> = new Set(["protocol", "closed", "aborted", "refused"]);
/** Bytes that wait to be accepted by the server, beyond which a client submits no more, and at which it goes on. */
const outboundHighWaterBytes = 1_048_576;
const outboundLowWaterBytes = 262_144;
/** How many cancelled requests are remembered, in windows. */
const tombstoneWindows = 4;

/**
 * A client of the submit protocol, connected. Made by `connect`.
 *
 * Many requests may be under way at once, up to the window; more of them wait. Answers come in any order.
 *
 * @example
 * ```ts
 * import { connect, serve } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, ({ payload }) => payload.length);
 * await using client = await connect({ port: server.addr.port, window: 2 });
 * const answers = await Promise.all(["", "a", "bb"].map((text) => client.submit(text)));
 * assertEquals(answers.map(({ result }) => result), [0, 1, 2]);
 * ```
 */
export class Client implements AsyncDisposable {
  /** Resolves, never rejects, with the reason why the client is no more. */
  readonly closed: Promise<CloseReason>;
  readonly #closed = Promise.withResolvers<CloseReason>();
  readonly #config: ClientConfig;
  readonly #submitCode: number;
  readonly #ticker: Ticker;
  // In the order of sending. While there is no connection, those that are to be sent again.
  readonly #pending = new Map<number, Request>();
  readonly #tombstones = new Set<number>();
  // Those who wait for room; each uses it at once when it is called, or fails.
  readonly #waiting = new Fifo<Waiting>();
  readonly #counts = { accepted: 0, refused: 0, unsent: 0, unknown: 0 };
  // The connection, and whether its session is open: nothing is submitted before.
  #link: Dialled | null = null;
  #ready = false;
  // The connection that the first try made, if it came to that.
  #first: Connection | null = null;
  #serial = 0;
  #cancelled = 0;
  #timedOut = 0;
  #resent = 0;
  #connections = 0;
  #lateAnswers = 0;
  #unknownAnswers = 0;
  #listenerErrors = 0;
  #flushing = false;
  // Requests that were cancelled while they waited, and wait still; at least.
  #overWaiting = 0;
  #ending: Promise<CloseReason> | null = null;
  #closing = false;
  #over: CloseReason | null = null;
  #changed: (() => void) | null = null;
  #draining = false;
  // Whether the connection has brought an answer to a SUBMIT: a server that only accepts is no server.
  #answered = false;
  // The tick from which on a connection has lasted long enough to count as one, answers or none.
  #provenAt = 0;
  // The CONN under way.
  #conn: { readonly serial: number; readonly answered: (result: number) => void } | null = null;
  // Ends the pause before a try.
  #hurry: (() => void) | null = null;
  // What had been read when a request timed out last; a second one without a byte more means a dead link.
  #bytesAtTimeout = -1;
  #tickOfTimeout = -1;

  /**
   * Connects for the first time, and gives the client. Called by `connect`.
   *
   * @throws {ConnectError} If there is no connection or no session to be had from any server.
   */
  static async open(config: ClientConfig): Promise<Client> {
    const client = new Client(config), { tries } = config;
    for (let left = tries.serverCount;;) {
      try {
        await client.#connect(config.dial.signal);
        return client;
      } catch (error) {
        tries.failed();
        if (--left > 0 && error instanceof ConnectError) continue;
        const lost = await client.#first?.closed;
        client.#close(lost ?? { code: "failed", error, limit: null, bytesRead: 0, bytesWritten: 0 });
        throw error;
      }
    }
  }

  private constructor(config: ClientConfig) {
    this.#config = config;
    this.#submitCode = commandCode("submit", config.dialect);
    this.closed = this.#closed.promise;
    this.#ticker = new Ticker(config.requestTimeoutMs);
    this.#ticker.add(this);
  }

  /**
   * Submits a payload, a string as UTF-8, and resolves with the server's answer: accepted or refused. Waits for room
   * in the window first. The payload must not change until then, and one of 16 KiB or more that was cancelled not at
   * all: it may still be on its way out, uncopied.
   *
   * Aborting the signal rejects with its reason and frees the request's place; if it was sent, the server may handle
   * it all the same.
   *
   * @throws {SubmitError} If no answer came, or the server is shutting down: says whether to send it again is safe.
   * @throws {FrameError} If the payload is too long for `maxFrameLength`.
   */
  submit(payload: Uint8Array | string, options: SubmitOptions = {}): Promise<Answer> {
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    const { signal, idempotent = false } = options;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const request = new SingleRequest(bytes, idempotent, resolve, reject);
      this.#check(bytes);
      if (this.#ending !== null) return this.#fail(request, "unsent", "the client has ended", null);
      if (signal) this.#cancelBy(signal, request);
      request.deadline = this.#ticker.after(this.#config.requestTimeoutMs);
      if (this.#waiting.length === 0 && this.#room) this.#send(request);
      else this.#wait({ request, use: () => request.over || this.#send(request) });
    });
  }

  /**
   * Makes a stream for bulk work: arrays of payloads in, arrays of what became of them out, in the order of the
   * answers. A failure is an outcome in band, a payload that is too long for a frame too: the stream itself never
   * fails. Closing the writable side waits for all answers; with `end`, it half-closes the client first, as
   * {@linkcode Client.end} does, and without, it leaves the client open.
   *
   * A write waits for room in the window, and for the answers to be read. Payloads must not change until they are
   * answered.
   *
   * @example
   * ```ts
   * import { connect, serve } from "@framewire/framewire";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({ port: 0 }, ({ payload }) => payload[0] === 7 ? 1 : 0);
   * await using client = await connect({ port: server.addr.port });
   * const payloads = ReadableStream.from([[new Uint8Array([6]), new Uint8Array([7])], [new Uint8Array([8])]]);
   * const answers = (await Array.fromAsync(payloads.pipeThrough(client.bulk()))).flat();
   * assertEquals(answers[1], { id: "00000002", outcome: "refused", result: 1 });
   * ```
   */
  bulk(options: BulkOptions = {}): TransformStream<Uint8Array[], Answer[]> {
    const bulk = new Bulk(options.idempotent ?? false);
    return new TransformStream<Uint8Array[], Answer[]>({
      start: (controller) => void (bulk.controller = controller),
      transform: async (payloads) => {
        for (const payload of payloads) {
          const request = bulk.request(payload);
          try {
            if (this.#ending !== null) throw new Error("the client has ended");
            this.#check(payload);
          } catch (error) {
            this.#fail(request, "unsent", "it is not sendable", error);
            continue;
          }
          request.deadline = this.#ticker.after(this.#config.requestTimeoutMs);
          if (this.#waiting.length === 0 && this.#room) {
            this.#send(request);
          } else {
            await new Promise<void>((resolve) =>
              this.#wait({ request, use: () => resolve(request.over ? undefined : this.#send(request)) })
            );
          }
        }
      },
      flush: () => {
        if (options.end) this.end();
        return bulk.idle();
      },
    });
  }

  /**
   * Says that no request follows those that were submitted; resolves when all their answers have arrived and the
   * connection is closed.
   */
  end(): Promise<CloseReason> {
    return this.#ending ??= this.#end();
  }

  /** Closes without waiting for answers: requests that have none fail, and say whether they were sent. */
  close(): Promise<CloseReason> {
    this.#closing = true;
    this.#hurry?.();
    this.#link?.connection.abort(null, "closed");
    return this.closed;
  }

  /** {@linkcode Client.end}, and {@linkcode Client.close} where that takes longer than `drainTimeoutMs`. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { drainTimeoutMs } = this.#config;
    using _deadline = after(drainTimeoutMs, () => void this.close());
    await this.end();
  }

  /** A snapshot of the counts. */
  stats(): ClientStats {
    return {
      ...this.#counts,
      pending: this.#pending.size,
      waiting: [...this.#waiting].filter(({ request }) => !request.over).length,
      cancelled: this.#cancelled,
      timedOut: this.#timedOut,
      resent: this.#resent,
      reconnects: Math.max(0, this.#connections - 1),
      lateAnswers: this.#lateAnswers,
      unknownAnswers: this.#unknownAnswers,
      listenerErrors: this.#listenerErrors,
    };
  }

  /** Called for each tick of the client's clock: gives up what has waited too long. */
  tick(now: number): void {
    for (const { request, use } of [...this.#waiting]) {
      if (request.over || request.deadline > now) continue;
      this.#timeOut(request);
      use(); // does not send what is over
    }
    this.#dropOver();
    for (const request of this.#pending.values()) if (request.deadline <= now) this.#timeOut(request);
  }

  get #room(): boolean {
    // Where nothing can be sent any more, there is always room to fail.
    if (this.#over !== null) return true;
    if (this.#link === null || !this.#ready || this.#pending.size >= this.#config.window) return false;
    return this.#link.connection.out.pendingBytes < outboundHighWaterBytes;
  }

  /** @throws What makes the payload one that can never be sent by this client. */
  #check(payload: Uint8Array): void {
    this.#config.format.fieldValueFor(requestHeaderLength + payload.length);
  }

  #wait(waiting: Waiting): void {
    this.#waiting.push(waiting);
    this.#admit();
  }

  /** Lets those who wait have what room there is. */
  #admit(): void {
    while (this.#waiting.length > 0 && this.#room) this.#waiting.shift()!.use();
    this.#changed?.();
    const link = this.#link;
    if (this.#waiting.length === 0 || this.#draining || link === null || !this.#ready) return;
    if (!link.connection.open) return; // it is about to be lost
    if (this.#pending.size >= this.#config.window) return;
    // It is the socket that has no room: no answer need come for it to have some again.
    this.#draining = true;
    link.connection.out.below(outboundLowWaterBytes).then(() => {
      this.#draining = false;
      this.#admit();
    });
  }

  #send(request: Request): void {
    if (this.#over !== null) {
      return this.#fail(request, "unsent", "the connection is closed", this.#over.error);
    }
    request.serial = this.#nextSerial();
    this.#pending.set(request.serial, request);
    this.#write(request);
  }

  #write(request: Request): void {
    this.#put(this.#submitCode, request.serial, request.payload);
    request.sentAt = this.#link!.connection.out.queuedBytes;
    request.sentTick = this.#ticker.now;
  }

  #put(command: number, serial: number, payload: Uint8Array): void {
    const { out } = this.#link!.connection, short = payload.length < copyLimit - requestHeaderLength;
    const at = out.reserve(requestHeaderLength + (short ? payload.length : 0));
    writeRequestHeader(out.view, at, command, serial, payload.length);
    if (short) out.bytes.set(payload, at + requestHeaderLength);
    else out.put(payload);
    if (this.#flushing) return;
    // All that is submitted in one turn leaves with one write.
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      out.flush();
    });
  }

  #nextSerial(): number {
    do {
      this.#serial = this.#serial === lastSerial ? 1 : this.#serial + 1;
    } while (this.#pending.has(this.#serial));
    this.#tombstones.delete(this.#serial);
    return this.#serial;
  }

  #cancelBy(signal: AbortSignal, request: SingleRequest): void {
    const cancel = () => {
      this.#cancelled++;
      request.failed(signal.reason);
      this.#bury(request);
      // Behind a window that is stuck, those that were cancelled must not pile up.
      if (request.serial === 0 && ++this.#overWaiting * 2 > this.#waiting.length) this.#dropOver();
    };
    signal.addEventListener("abort", cancel, { once: true });
    request.detach = () => signal.removeEventListener("abort", cancel);
  }

  #dropOver(): void {
    this.#waiting.retain(({ request }) => !request.over);
    this.#overWaiting = 0;
    this.#changed?.();
  }

  /** Frees the place of a request that nobody waits for any more; where it was sent, its answer will be late. */
  #bury(request: Request): void {
    if (this.#pending.get(request.serial) !== request) return;
    this.#pending.delete(request.serial);
    if (request.sentAt !== Infinity) this.#tombstones.add(request.serial);
    if (this.#tombstones.size > tombstoneWindows * this.#config.window) {
      this.#tombstones.delete(this.#tombstones.values().next().value!);
    }
    this.#admit();
  }

  #timeOut(request: Request): void {
    const { requestTimeoutMs } = this.#config, connection = this.#link?.connection;
    const error = new LimitError("The request has no answer", "requestTimeoutMs", requestTimeoutMs);
    this.#timedOut++;
    const id = request.serial === 0 ? "" : serialId(request.serial);
    this.#emit({ type: "limit", limit: error.limit, value: error.value, id });
    // What lies in the outbox will still be written: only what is not there is unsent.
    const outcome = request.sentAt === Infinity && this.#isUnsent(request) ? "unsent" : "unknown";
    this.#bury(request);
    this.#fail(request, outcome, `no answer within ${requestTimeoutMs} ms`, error);
    if (connection === undefined || request.sentAt === Infinity) return;
    // One that spent its time in the queue says nothing about the link.
    if (this.#ticker.now - request.sentTick + 1 < this.#ticker.ticks(requestTimeoutMs)) return;
    // Those that were sent together time out together: they count once.
    if (this.#ticker.now === this.#tickOfTimeout) return;
    const dead = connection.bytesRead === this.#bytesAtTimeout;
    this.#bytesAtTimeout = connection.bytesRead;
    this.#tickOfTimeout = this.#ticker.now;
    if (dead) {
      connection.exceed("Two requests timed out with no byte between", "requestTimeoutMs", requestTimeoutMs);
    }
  }

  /** Whether the server cannot have handled it: its last byte was never accepted, and it was never elsewhere. */
  #isUnsent({ sentAt, tainted }: Request): boolean {
    if (tainted) return false;
    if (this.#link === null) return sentAt === Infinity;
    const { connection: { out }, tls } = this.#link;
    // What TLS was given may have left although it was never acknowledged to us.
    return sentAt > (tls ? out.offeredBytes : out.acceptedBytes);
  }

  async #read({ connection }: Dialled): Promise<void> {
    const consumer: FrameConsumer = { ready: () => null, take: (batch) => this.#take(batch) };
    try {
      await connection.pump(consumer);
    } catch (error) {
      if (connection.readError !== null) return connection.failRead();
      // What was not sent by now must not be: its outcome is about to be told.
      const truncated = error instanceof FrameError && error.code === "truncated";
      if (!(error instanceof FrameError || error instanceof PacketError)) {
        return connection.abort(error, "failed");
      }
      this.#emit({ type: "protocol-error", error });
      return connection.abort(error, truncated ? "truncated" : "protocol");
    }
    if (connection.readError !== null) return connection.failRead();
    if (this.#pending.size > 0 || this.#waiting.length > 0) return connection.abort(null, "ended");
    await connection.finish("ended");
  }

  #take(batch: FrameBatch): number {
    for (let i = 0; i < batch.count; i++) {
      const bytes = batch.bytesOf(i), start = batch.startOf(i);
      const type = packetType(bytes, start, batch.endOf(i), this.#config.dialect);
      const serial = readSerial(bytes, start), request = this.#pending.get(serial);
      if (type !== "submit-ack" || serial === this.#conn?.serial) {
        this.#takeConnAck(bytes, start, serial, type);
      } else if (request === undefined) {
        this.#takeStray(readId(bytes, start), serial, readResult(bytes, start));
      } else {
        const answer = answerTo(serial, readResult(bytes, start));
        if (answer.outcome === "unsent" && this.#config.tries.any) {
          // The server is on its way to stop. It goes out again on the next connection, from its place.
          request.sentAt = Infinity;
          continue;
        }
        this.#answered = true;
        this.#pending.delete(serial);
        this.#counts[answer.outcome]++;
        request.answered(answer);
      }
    }
    this.#admit();
    return batch.count;
  }

  /** The answer to CONN, or what is none. */
  #takeConnAck(bytes: Uint8Array, start: number, serial: number, type: string): void {
    const command = bytes[start]!, hex = `0x${command.toString(16)}`, { dialect } = this.#config;
    const conn = this.#conn;
    if (type === "conn-ack" && serial === conn?.serial) {
      this.#conn = null;
      return conn.answered(readResult(bytes, start));
    }
    const other: Dialect = dialect === "spec" ? "legacy" : "spec";
    const asked = serial === conn?.serial ? "conn" : this.#pending.has(serial) ? "submit" : null;
    if (asked !== null && command === commandCode(`${asked}-ack`, other)) {
      throw new PacketError(
        "other-dialect",
        `Cannot take answer to ${asked}: ${hex} is ${type} in dialect ${dialect}, but ${asked}-ack in dialect ${other}`,
        command,
      );
    }
    throw new PacketError(
      "unexpected-command",
      `Cannot take ${type} (${hex}): nothing asked for it`,
      command,
    );
  }

  /** An answer that nobody waits for. */
  #takeStray(id: string, serial: number, result: number): void {
    if (this.#tombstones.delete(serial)) {
      this.#lateAnswers++;
      this.#emit({ type: "late-answer", id, result });
    } else {
      this.#unknownAnswers++;
      this.#emit({ type: "unknown-answer", id, result });
    }
  }

  /** Makes a connection to the server whose turn it is, and its session; then sends what is to be sent again. */
  async #connect(signal: AbortSignal | undefined): Promise<void> {
    const { dial: options, format, tries, session, connectTimeoutMs } = this.#config;
    const link = await dial(
      { ...options, ...tries.server, ...(signal ? { signal } : {}), connectTimeoutMs },
      format,
    );
    if (this.#closing) {
      link.connection.abort(null, "closed");
      throw new DOMException("The client was closed", "AbortError");
    }
    this.#link = link;
    this.#first = link.connection;
    const lost = link.connection.closed.then((reason) => reason);
    this.#read(link);
    if (session !== null) await this.#open(link, session, signal);
    this.#connections++;
    this.#answered = false;
    this.#ready = true;
    this.#bytesAtTimeout = -1;
    this.#provenAt = this.#ticker.after(tries.maxDelayMs);
    lost.then((reason) => this.#lost(reason));
    for (const request of this.#pending.values()) {
      this.#resent++;
      this.#write(request);
    }
    this.#emit({ type: "connected", hostname: link.hostname, port: link.port });
    this.#admit();
  }

  async #open(link: Dialled, session: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { connection, hostname, port } = link, { connectTimeoutMs } = this.#config;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const serial = this.#nextSerial();
    const abort = () => reject(signal!.reason);
    const failed = (code: "timeout" | "failed", what: string, cause?: unknown) =>
      reject(new ConnectError(code, what, { hostname, port, cause }));
    try {
      this.#config.format.fieldValueFor(requestHeaderLength + session.length);
      signal?.throwIfAborted();
      signal?.addEventListener("abort", abort, { once: true });
      using _deadline = after(
        connectTimeoutMs,
        () => failed("timeout", `no answer to CONN within ${connectTimeoutMs} ms`),
      );
      connection.closed.then(({ code, error }) =>
        failed("failed", `the connection ended (${code}) before CONN was answered`, error)
      );
      this.#conn = { serial, answered: resolve };
      this.#put(commandCode("conn", this.#config.dialect), serial, session);
      const result = await promise;
      if (result === Result.accepted) return;
      const what = `the server refused the session with result ${result}`;
      throw new ConnectError("session-refused", what, { hostname, port, result });
    } catch (error) {
      this.#conn = null;
      this.#link = null;
      connection.abort(error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** The connection is gone: settles what cannot be sent again, and tries for another where that may help. */
  #lost(reason: CloseReason): void {
    if (this.#answered || this.#ticker.now >= this.#provenAt) this.#config.tries.succeeded();
    else this.#config.tries.failed();
    const again = this.#config.tries.any && !this.#closing && !fatal.has(reason.code);
    for (const request of [...this.#pending.values()]) {
      const unsent = this.#isUnsent(request);
      if (again && (unsent || request.idempotent)) {
        request.tainted ||= !unsent;
        request.sentAt = Infinity;
        continue;
      }
      this.#pending.delete(request.serial);
      const why = `the connection ended (${reason.code}) before the answer`;
      this.#fail(request, unsent ? "unsent" : "unknown", why, reason.error);
    }
    this.#link = null;
    this.#ready = false;
    this.#changed?.();
    this.#emit({ type: "disconnected", reason });
    const idle = this.#ending !== null && this.#pending.size === 0 && this.#waiting.length === 0;
    if (again && !idle) void this.#reconnect(reason);
    else this.#close(reason);
  }

  async #reconnect(reason: CloseReason): Promise<void> {
    const { tries } = this.#config;
    for (let next; (next = tries.next()) !== null;) {
      this.#emit({ type: "reconnecting", ...next });
      if (!this.#closing) await this.#pause(next.delayMs);
      if (this.#closing) return this.#close({ ...reason, code: "closed", error: null });
      const hurry = new AbortController();
      this.#hurry = () => hurry.abort();
      try {
        return await this.#connect(hurry.signal);
      } catch (error) {
        if (this.#closing) return this.#close({ ...reason, code: "closed", error: null });
        this.#emit({ type: "connect-error", error });
        tries.failed();
        if (!(error instanceof ConnectError)) return this.#close({ ...reason, code: "failed", error });
        if (error.code === "session-refused") return this.#close({ ...reason, code: "refused", error });
      }
    }
    this.#close(reason);
  }

  async #pause(ms: number): Promise<void> {
    if (ms === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#hurry = resolve;
    using _timer = after(ms, resolve);
    await promise;
    this.#hurry = null;
  }

  async #end(): Promise<CloseReason> {
    await this.#until(() => this.#waiting.length === 0);
    // Where the connection is lost meanwhile, the next one goes on with what is pending, if anything is.
    while (this.#over === null) {
      const link = this.#link;
      if (link !== null && this.#ready) {
        // A failure closes the connection, which is then lost, or the end.
        await link.connection.end().catch(() => {});
        await this.#until(() => this.#pending.size === 0 || this.#link !== link);
        if (this.#link === link) await link.connection.finish("ended");
        await this.#until(() => this.#link !== link);
      } else if (this.#pending.size > 0) {
        await this.#until(() => this.#ready || this.#pending.size === 0);
      } else {
        await this.close();
      }
    }
    return await this.closed;
  }

  async #until(condition: () => boolean): Promise<void> {
    while (this.#over === null && !condition()) await new Promise<void>((resolve) => this.#changed = resolve);
  }

  #close(reason: CloseReason): void {
    if (this.#over !== null) return;
    this.#over = reason;
    this.#ticker.delete(this);
    for (const request of [...this.#pending.values()]) {
      const why = `the connection ended (${reason.code}) before the answer`;
      this.#fail(request, this.#isUnsent(request) ? "unsent" : "unknown", why, reason.error);
    }
    this.#pending.clear();
    this.#admit();
    this.#emit({ type: "closed", reason });
    this.#closed.resolve(reason);
  }

  #fail(request: Request, outcome: "unsent" | "unknown", why: string, cause: unknown): void {
    this.#counts[outcome]++;
    request.over = true;
    request.failed(
      new SubmitError(request.serial === 0 ? "" : serialId(request.serial), outcome, why, cause),
    );
  }

  #emit(event: ClientEvent): void {
    if (this.#config.onEvent === undefined) return;
    try {
      this.#config.onEvent(event);
    } catch {
      this.#listenerErrors++;
    }
  }
}

/** One who waits for room. */
interface Waiting {
  readonly request: Request;
  /** Sends the request, unless it is over. */
  readonly use: () => void;
}
