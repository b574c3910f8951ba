// The client: requests under a window, matched with their answers.

import { type Dialect, type FrameBatch, FrameError, PacketError, Result } from "../codec/mod.ts";
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
import type { CloseReason, FrameConsumer } from "../transport/connection.ts";
import { after } from "../transport/deadline.ts";
import { ConnectError, type Dialled } from "../transport/dial.ts";
import { Fifo } from "../transport/fifo.ts";
import { copyLimit } from "../transport/outbox.ts";
import { type Answer, answerTo, Bulk, type Request, SingleRequest, SubmitError } from "./request.ts";

/** What a client tells its `onEvent`. */
export type ClientEvent =
  /** The answer to a request that was cancelled. */
  | { readonly type: "late-answer"; readonly id: string; readonly result: number }
  /** An answer to no request that is known. */
  | { readonly type: "unknown-answer"; readonly id: string; readonly result: number }
  /** The server sent what the protocol does not allow. The connection is about to be closed. */
  | { readonly type: "protocol-error"; readonly error: FrameError | PacketError }
  /** The connection is no more. */
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
  /** Answers to requests that had been cancelled. */
  lateAnswers: number;
  /** Answers to no request that is known. */
  unknownAnswers: number;
  /** Calls of `onEvent` that threw. */
  listenerErrors: number;
}

/** What a {@linkcode Client} is made with. */
export interface ClientConfig {
  readonly dialect: Dialect;
  readonly window: number;
  /** The payload of a CONN to open a session with; null for none. */
  readonly session: Uint8Array | null;
  readonly onEvent: ((event: ClientEvent) => void) | undefined;
}

/** After it comes 1. */
const lastSerial = 99_999_999;
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
  /** Resolves, never rejects, with the reason why the connection is no more. */
  readonly closed: Promise<CloseReason>;
  readonly #dialled: Dialled;
  readonly #config: ClientConfig;
  readonly #submitAck: number;
  readonly #pending = new Map<number, Request>();
  readonly #tombstones = new Set<number>();
  // Those who wait for room; each uses it at once when it is called.
  readonly #waiting = new Fifo<() => void>();
  readonly #counts = { accepted: 0, refused: 0, unsent: 0, unknown: 0 };
  #serial = 0;
  #cancelled = 0;
  #lateAnswers = 0;
  #unknownAnswers = 0;
  #listenerErrors = 0;
  #flushing = false;
  #ending: Promise<CloseReason> | null = null;
  #over: CloseReason | null = null;
  #changed: (() => void) | null = null;
  #draining = false;
  // The CONN under way.
  #conn: { readonly serial: number; readonly answered: (result: number) => void } | null = null;

  /**
   * Opens the session, if one is asked for, and gives the client. Called by `connect`.
   *
   * @throws {ConnectError} If the server refuses the session, or does not answer.
   */
  static async open(
    dialled: Dialled,
    config: ClientConfig,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<Client> {
    const client = new Client(dialled, config);
    if (config.session !== null) await client.#open(config.session, timeoutMs, signal);
    return client;
  }

  private constructor(dialled: Dialled, config: ClientConfig) {
    this.#dialled = dialled;
    this.#config = config;
    this.#submitAck = commandCode("submit-ack", config.dialect);
    this.closed = dialled.connection.closed.then((reason) => this.#close(reason));
    this.#read();
  }

  /**
   * Submits a payload, a string as UTF-8, and resolves with the server's answer: accepted or refused. Waits for room
   * in the window first. The payload must not change until then.
   *
   * Aborting the signal rejects with its reason and frees the request's place; if it was sent, the server may handle
   * it all the same.
   *
   * @throws {SubmitError} If no answer came, or the server is shutting down: says whether to send it again is safe.
   * @throws {FrameError} If the payload is too long for `maxFrameLength`.
   */
  submit(payload: Uint8Array | string, options: { signal?: AbortSignal } = {}): Promise<Answer> {
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
    const { signal } = options;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const request = new SingleRequest(bytes, resolve, reject);
      this.#check(bytes);
      if (signal) this.#cancelBy(signal, request);
      if (this.#waiting.length === 0 && this.#room) this.#send(request);
      else this.#wait(() => request.over || this.#send(request));
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
  bulk(options: { end?: boolean } = {}): TransformStream<Uint8Array[], Answer[]> {
    const bulk = new Bulk();
    return new TransformStream<Uint8Array[], Answer[]>({
      start: (controller) => void (bulk.controller = controller),
      transform: async (payloads) => {
        for (const payload of payloads) {
          const request = bulk.request(payload);
          try {
            this.#check(payload);
          } catch (error) {
            this.#fail(request, "unsent", "it is not sendable", error);
            continue;
          }
          if (this.#waiting.length === 0 && this.#room) {
            this.#send(request);
          } else {
            await new Promise<void>((resolve) => this.#wait(() => resolve(this.#send(request))));
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
    this.#dialled.connection.abort(null, "closed");
    return this.closed;
  }

  /** The same as {@linkcode Client.end}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  /** A snapshot of the counts. */
  stats(): ClientStats {
    return {
      ...this.#counts,
      pending: this.#pending.size,
      waiting: this.#waiting.length,
      cancelled: this.#cancelled,
      lateAnswers: this.#lateAnswers,
      unknownAnswers: this.#unknownAnswers,
      listenerErrors: this.#listenerErrors,
    };
  }

  get #room(): boolean {
    // Where nothing can be sent any more, there is always room to fail.
    if (this.#over !== null) return true;
    const { out } = this.#dialled.connection;
    return this.#pending.size < this.#config.window &&
      out.pendingBytes < this.#dialled.options.outboundHighWaterBytes;
  }

  /** @throws What makes the payload one that can never be sent by this client. */
  #check(payload: Uint8Array): void {
    this.#dialled.options.format.fieldValueFor(requestHeaderLength + payload.length);
    if (this.#ending !== null) throw new SubmitError("", "unsent", "the client has ended");
  }

  #wait(use: () => void): void {
    this.#waiting.push(use);
    this.#admit();
  }

  /** Lets those who wait have what room there is. */
  #admit(): void {
    while (this.#waiting.length > 0 && this.#room) this.#waiting.shift()!();
    this.#changed?.();
    if (this.#waiting.length === 0 || this.#draining || this.#pending.size >= this.#config.window) return;
    // It is the socket that has no room: no answer need come for it to have some again.
    this.#draining = true;
    this.#dialled.connection.out.below(this.#dialled.options.outboundLowWaterBytes).then(() => {
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
    this.#put(commandCode("submit", this.#config.dialect), request.serial, request.payload);
    request.sentAt = this.#dialled.connection.out.queuedBytes;
  }

  #put(command: number, serial: number, payload: Uint8Array): void {
    const { out } = this.#dialled.connection, short = payload.length < copyLimit - requestHeaderLength;
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
      // Sent or about to be: its answer will be late.
      if (this.#pending.get(request.serial) !== request) return;
      this.#pending.delete(request.serial);
      this.#tombstones.add(request.serial);
      if (this.#tombstones.size > tombstoneWindows * this.#config.window) {
        this.#tombstones.delete(this.#tombstones.values().next().value!);
      }
      this.#admit();
    };
    signal.addEventListener("abort", cancel, { once: true });
    request.detach = () => signal.removeEventListener("abort", cancel);
  }

  async #read(): Promise<void> {
    const { connection } = this.#dialled;
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
        this.#pending.delete(serial);
        const answer = answerTo(serial, readResult(bytes, start));
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

  async #open(session: Uint8Array, timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    const { connection, hostname, port } = this.#dialled;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const serial = this.#nextSerial();
    const abort = () => reject(signal!.reason);
    try {
      this.#check(session);
      signal?.throwIfAborted();
      signal?.addEventListener("abort", abort, { once: true });
      using _deadline = after(
        timeoutMs,
        () =>
          reject(new ConnectError("timeout", `no answer to CONN within ${timeoutMs} ms`, { hostname, port })),
      );
      this.closed.then(({ code, error: cause }) =>
        reject(
          new ConnectError("failed", `the connection ended (${code}) before CONN was answered`, {
            hostname,
            port,
            cause,
          }),
        )
      );
      this.#conn = { serial, answered: resolve };
      this.#put(commandCode("conn", this.#config.dialect), serial, session);
      const result = await promise;
      if (result === Result.accepted) return;
      throw new ConnectError("session-refused", `the server refused the session with result ${result}`, {
        hostname,
        port,
        result,
      });
    } catch (error) {
      connection.abort(error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async #end(): Promise<CloseReason> {
    const { connection } = this.#dialled;
    await this.#until(() => this.#waiting.length === 0);
    // Where that fails, the connection has closed itself and says why.
    await connection.end().catch(() => {});
    await this.#until(() => this.#pending.size === 0);
    await connection.finish("ended");
    return await this.closed;
  }

  async #until(condition: () => boolean): Promise<void> {
    while (this.#over === null && !condition()) await new Promise<void>((resolve) => this.#changed = resolve);
  }

  #close(reason: CloseReason): CloseReason {
    this.#over = reason;
    const { acceptedBytes } = this.#dialled.connection.out;
    for (const request of [...this.#pending.values()]) {
      // A frame that was cut short is never handled.
      const outcome = request.sentAt > acceptedBytes ? "unsent" : "unknown";
      this.#fail(request, outcome, `the connection ended (${reason.code}) before the answer`, reason.error);
    }
    this.#pending.clear();
    this.#admit();
    this.#emit({ type: "closed", reason });
    return reason;
  }

  #fail(request: Request, outcome: "unsent" | "unknown", why: string, cause: unknown): void {
    this.#counts[outcome]++;
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
