// Does a suite bite? A small sound server that shares no code with the others, and the ways to break it.

import type { Dialect } from "../codec/mod.ts";

/** A way to break the sound server. */
export interface Mutation {
  /** A short name, to switch it on. */
  readonly name: string;
  /** What it breaks, in words. */
  readonly breaks: string;
  /** Conformance cases that must fail with it, among others. */
  readonly fails: readonly string[];
}

/** The ways to break the sound server: what each breaks, and cases that must notice. */
const mutationTable = {
  "length-without-itself": ["the length is taken not to count itself", ["2.1/1"]],
  "length-off-by-one": ["a frame is taken to be one byte longer than it is", ["2.1/1", "1.1/6"]],
  "little-endian": ["the length is read with its bytes in the other order", ["1.3/1"]],
  "answer-length": ["the length of an answer does not count itself", ["1.3/2"]],
  "greeting": ["an answer that nobody asked for is sent first", ["1.2/1"]],
  "cut-header-lost": ["a length that comes in two parts is thrown away", ["1.1/4", "1.1/9"]],
  "cut-body-lost": ["a frame of which a part came is thrown away", ["1.1/5", "1.1/8"]],
  "first-of-chunk": ["only the first frame of a read is handled", ["1.1/6", "1.1/7"]],
  "fixed-buffer": ["a frame longer than the read buffer never gets whole", ["2.3/1", "1.1/16"]],
  "oversize-accepted": ["there is no limit for the length", ["2.3/3", "2.3/9"]],
  "limit-refused": ["a frame of exactly the limit is refused", ["2.3/1"]],
  "limit-noticed-late": ["a length above the limit is noticed when the body is there", ["2.3/3", "2.3/7"]],
  "signed-length": ["the length is read as a signed number, and a negative one skipped", ["2.3/6", "2.3/7"]],
  "promise-allocated": ["memory is reserved for what a length promises", ["2.4/1"]],
  "low-length-skipped": ["a length below 4 is skipped as if it were a keep-alive", ["2.2/1", "2.2/4"]],
  "truncated-handled": ["a truncated frame is handled at the end of the bytes", ["2.5/5", "2.5/7"]],
  "cut-length-handled": ["a length without a body is taken for a request at the end", ["2.5/4"]],
  "short-body-accepted": ["a request without a whole id is answered", ["3.2/4"]],
  "empty-payload-refused": ["a request without a payload is an error", ["3.2/5", "3.5/1"]],
  "id-of-seven": ["only seven bytes of the id are kept", ["3.4/1"]],
  "id-as-number": ["the id is read as a number", ["3.4/2", "3.4/4"]],
  "id-as-text": ["the id is taken for UTF-8", ["3.4/5"]],
  "equal-ids-once": ["an id that was answered is not answered again", ["3.4/7", "3.4/9"]],
  "ids-swapped": ["two answers of a read have one another's ids", ["4.3/5"]],
  "answered-twice": ["every hundredth request is answered twice", ["4.3/2"]],
  "burst-cut": ["of a read, only 1024 requests are answered", ["4.3/2"]],
  "conn-unanswered": ["CONN is not answered", ["6.1/1"]],
  "second-conn-accepted": ["a second CONN is accepted", ["9.4/1", "9.4/2"]],
  "second-conn-closes": ["a second CONN ends the connection", ["9.4/1"]],
  "session-of-all": ["a session that one connection opened is every connection's", ["4.3/14"]],
  "dialect-mixed-up": ["answers have the other dialect's commands", ["6.1/1", "6.1/2"]],
  "unknown-skipped": ["an unknown command is skipped", ["8.6/1", "8.4/1"]],
  "unknown-answered": ["an unknown command is answered as if it were SUBMIT", ["8.6/2"]],
  "answers-taken": ["a command that only a server may send is skipped", ["8.6/6"]],
  "answers-lost-at-error": ["what was to be answered before something malformed is not", ["8.4/2", "2.2/1"]],
  "handled-after-error": ["a request behind something malformed is handled", ["8.4/1", "3.2/1"]],
  "open-after-error": ["the connection is left open behind something malformed", ["8.4/1"]],
  "reset-at-error": ["bytes behind something malformed are not read before the close", ["8.5/1"]],
  "lingers-for-ever": ["a connection that is ended is kept until the client closes it", ["8.5/3"]],
  "answers-lost-at-end": ["what is not sent when the client's FIN comes is lost", ["8.2/1", "8.2/3"]],
  "never-ends": ["the client's FIN is not answered with one", ["8.2/1", "2.5/1"]],
  "never-stops-reading": ["requests are read however many answers wait", ["7.2/1"]],
  "answers-dropped": ["answers are dropped while others wait to be sent", ["7.2/2"]],
  "one-at-a-time": ["a connection is served when the one before has ended", ["4.3/9", "4.3/10"]],
  "error-ends-all": ["something malformed on one connection ends them all", ["4.3/12"]],
  "reset-ends-listening": ["a reset ends the accepting of connections", ["8.1/3"]],
  "drain-lost": ["a server that stops closes its connections at once", ["5.3/2"]],
  "drain-serves-on": ["a server that stops goes on to serve its connections", ["5.1/1", "5.1/2"]],
} as const satisfies Record<string, readonly [string, readonly string[]]>;

type MutationName = keyof typeof mutationTable;

/** All mutations of the sound server. */
export const mutations: readonly Mutation[] = Object.entries(mutationTable).map((
  [name, [breaks, fails]],
) => ({
  name,
  breaks,
  fails,
}));

/** Options of {@linkcode startSoundServer}. */
export interface SoundServerOptions {
  /** The port to listen on, on 127.0.0.1. @default {0} */
  port?: number;
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that is accepted, in bytes. @default {1_048_576} */
  maxFrameLength?: number;
  /** What to break: the name of one of {@linkcode mutations}. */
  mutation?: string;
}

/**
 * Starts a small server of the submit protocol that accepts whatever is submitted. It uses nothing of this package,
 * so that a mistake that both would share cannot hide itself, and it can be broken on purpose.
 *
 * @throws {RangeError} If there is no such mutation.
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 *
 * @example A test suite of one's own must notice a server that is broken
 * ```ts
 * import { startSoundServer, Wire } from "@framewire/framewire/testkit";
 * import { assertNotEquals } from "@std/assert";
 *
 * await using server = startSoundServer({ mutation: "ids-swapped" });
 * await using wire = await Wire.connect({ port: server.port });
 * const request = (serial: number) => new Uint8Array([0, 0, 0, 13, 2, 48, 48, 48, 48, 48, 48, 48, 48 + serial]);
 * await wire.send(new Uint8Array([...request(1), ...request(2)]));
 * assertNotEquals((await wire.readFrame())[12], 48 + 1);
 * ```
 */
export function startSoundServer(options: SoundServerOptions = {}): SoundServer {
  return new ListeningServer(options);
}

/** A server that {@linkcode startSoundServer} started; disposing of it ends it and its connections at once. */
export interface SoundServer extends AsyncDisposable {
  /** The port that it listens on. */
  readonly port: number;
  /** The bytes that its connections keep room for: requests that are not whole, and answers that are not sent. */
  readonly heldBytes: number;
  /** Stops in order: what was read is answered. Resolves when all connections have ended. */
  drain(): Promise<void>;
}

class ListeningServer implements SoundServer {
  readonly dialect: Dialect;
  readonly maxFrameLength: number;
  readonly mutation: MutationName | undefined;
  readonly #listener: Deno.TcpListener;
  readonly #connections = new Set<SoundConnection>();
  readonly #served: Promise<void>;
  #draining = false;
  #closed = false;

  constructor({ port = 0, dialect = "spec", maxFrameLength = 1_048_576, mutation }: SoundServerOptions) {
    if (mutation !== undefined && !Object.hasOwn(mutationTable, mutation)) {
      throw new RangeError(
        `mutation must be the name of one of the mutations, and is ${JSON.stringify(mutation)}`,
      );
    }
    this.dialect = dialect;
    this.maxFrameLength = maxFrameLength;
    this.mutation = mutation as MutationName | undefined;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port });
    this.#served = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  get heldBytes(): number {
    return this.#connections.values().reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  }

  /** Whether a connection has opened a session. */
  sessionOpened = false;

  async drain(): Promise<void> {
    this.#draining = true;
    this.close();
    for (const connection of this.#connections) connection.drain();
    await this.#served;
  }

  /** Ends the listening. */
  close(): void {
    this.#closed = true;
    this.#listener[Symbol.dispose]();
  }

  /** Ends all connections at once. */
  cut(): void {
    for (const connection of this.#connections) connection.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    while (this.#connections.size > 0) {
      this.cut();
      await Promise.all(this.#connections.values().map(({ served }) => served).toArray());
    }
    await this.#served;
  }

  async #accept(): Promise<void> {
    const all: Promise<void>[] = [];
    while (true) {
      let socket: Deno.TcpConn;
      try {
        socket = await this.#listener.accept();
      } catch {
        if (this.#closed) break;
        // A connection that was reset before it was accepted is no reason to accept no others.
        continue;
      }
      const connection = new SoundConnection(this, socket);
      this.#connections.add(connection);
      connection.served = connection.serve().finally(() => this.#connections.delete(connection));
      all.push(connection.served);
      if (this.#draining) connection.drain();
      if (this.mutation === "one-at-a-time") await connection.served;
    }
    await Promise.all(all);
  }
}

const readLength = 65_536;
const longestLingerMs = 2000;

/** What is to be done with the bytes that were read. */
type Step = "frame" | "more" | "error";

class SoundConnection {
  readonly #server: ListeningServer;
  readonly #socket: Deno.TcpConn;
  readonly #mutation: MutationName | undefined;
  // Bytes that were read and not handled lie in #in from #start to #end.
  #in = new Uint8Array(readLength);
  #start = 0;
  #end = 0;
  // Answers that are not sent yet.
  #out = new Uint8Array(1024);
  #outLength = 0;
  #opened = false;
  #draining = false;
  readonly #cut = Promise.withResolvers<void>();
  #wasCut = false;
  #broken = false;
  #answers = 0;
  readonly #answered = new Set<string>();
  #writing: Promise<void> = Promise.resolve();
  served: Promise<void> = Promise.resolve();

  constructor(server: ListeningServer, socket: Deno.TcpConn) {
    this.#server = server;
    this.#socket = socket;
    this.#mutation = server.mutation;
    socket.setNoDelay(true);
  }

  get heldBytes(): number {
    return this.#in.length + this.#out.length;
  }

  /** Reads, handles, answers, in turn: what a client does not read it cannot go on to fill, by that alone. */
  async serve(): Promise<void> {
    try {
      if (this.#mutation === "greeting") this.#acknowledge(0x02, new Uint8Array(8).fill(0x30), 0, 0);
      await this.#flush();
      while (!this.#draining) {
        const count = await this.#read();
        if (this.#draining) break; // what came after the stop is not handled
        const ended = count === null, error = !ended && this.#handle();
        if (ended) this.#handleEnd();
        if (this.#mutation === "answers-lost-at-end") this.#flushLater();
        else if (this.#mutation === "never-stops-reading") this.#flushBehind();
        else if (this.#mutation === "answers-dropped") this.#flushOrDrop();
        else await this.#flush();
        if (ended) return await this.#finish();
        if (error && this.#mutation !== "open-after-error") return await this.#linger();
      }
      await this.#flush();
      await this.#linger();
    } catch {
      // The connection is lost; or so it seems to a server that is broken.
      if (this.#mutation === "reset-ends-listening" && !this.#wasCut) this.#server.close();
    } finally {
      await this.#writing.catch(() => {});
      this.#socket[Symbol.dispose]();
    }
  }

  drain(): void {
    if (this.#mutation === "drain-serves-on") return;
    if (this.#mutation === "drain-lost") return this.cut();
    this.#draining = true;
    // Where a write is under way its loop goes on to the end by itself; a read must be told.
    if (this.#reading) this.#socket.closeWrite().catch(() => {});
  }

  cut(): void {
    this.#wasCut = true;
    this.#cut.resolve();
    this.#socket[Symbol.dispose]();
  }

  #reading = false;

  async #read(): Promise<number | null> {
    if (this.#start === this.#end) this.#start = this.#end = 0;
    else if (this.#end === this.#in.length) this.#makeRoom();
    this.#reading = true;
    const count = await this.#socket.read(this.#in.subarray(this.#end));
    this.#reading = false;
    if (count !== null) this.#end += count;
    return count;
  }

  #makeRoom(): void {
    if (this.#mutation === "fixed-buffer" && this.#start === 0) throw new Error("the buffer is full");
    const held = this.#in.subarray(this.#start, this.#end);
    // Twice what has come, whatever was promised.
    const larger = new Uint8Array(Math.max(readLength, held.length * 2));
    larger.set(held);
    this.#in = larger;
    this.#start = 0;
    this.#end = held.length;
  }

  /** Handles all whole frames. Returns whether it met something malformed. */
  #handle(): boolean {
    const outStart = this.#outLength;
    let handled = 0;
    while (true) {
      const step = this.#handleFrame();
      if (step === "error") {
        this.#broken = true;
        if (this.#mutation === "error-ends-all") this.#server.cut();
        if (this.#mutation === "answers-lost-at-error") this.#outLength = outStart;
        if (this.#mutation === "handled-after-error" && this.#skipFrame()) continue;
        return true;
      }
      handled++;
      if (step === "more") break;
      if (this.#mutation === "first-of-chunk" || (this.#mutation === "burst-cut" && handled === 1024)) {
        this.#start = this.#end;
        break;
      }
    }
    if (this.#mutation === "ids-swapped") this.#swapIds(outStart);
    const rest = this.#end - this.#start;
    if (this.#mutation === "cut-header-lost" && rest < 4) this.#start = this.#end;
    if (this.#mutation === "cut-body-lost" && rest >= 4) this.#start = this.#end;
    return false;
  }

  /** The length of the frame at the start. */
  #frameLength(): number {
    const [a, b, c, d] = this.#in.subarray(this.#start, this.#start + 4) as unknown as number[];
    const length = this.#mutation === "little-endian"
      ? d! * 0x1_00_00_00 + c! * 0x1_00_00 + b! * 0x1_00 + a!
      : a! * 0x1_00_00_00 + b! * 0x1_00_00 + c! * 0x1_00 + d!;
    if (this.#mutation === "length-without-itself") return length + 4;
    if (this.#mutation === "length-off-by-one") return length + 1;
    return length;
  }

  #handleFrame(): Step {
    const held = this.#end - this.#start, limit = this.#server.maxFrameLength;
    if (held < 4) return "more";
    const length = this.#frameLength();
    if (length < 4) {
      if (this.#mutation !== "low-length-skipped") return "error";
      this.#start += 4;
      return "frame";
    }
    if (this.#mutation === "signed-length" && length >= 0x8000_0000) {
      this.#start += 4;
      return "frame";
    }
    const tooLong = length > limit || (this.#mutation === "limit-refused" && length === limit);
    if (tooLong && this.#mutation !== "oversize-accepted") {
      if (this.#mutation === "limit-noticed-late" && held < length) return "more";
      return "error";
    }
    if (this.#mutation === "promise-allocated" && this.#in.length < length) {
      const promised = new Uint8Array(length);
      promised.set(this.#in.subarray(this.#start, this.#end));
      this.#in = promised;
      this.#start = 0;
      this.#end = held;
    }
    if (held < length) return "more";
    const shortest = this.#mutation === "empty-payload-refused" ? 14 : 13;
    if (length < shortest) {
      if (this.#mutation !== "short-body-accepted" || length < 5) return "error";
      this.#acknowledge(this.#in[this.#start + 4]!, new Uint8Array(8), 0, 0);
    } else if (!this.#handleRequest(this.#start + 4)) return "error";
    this.#start += length;
    return "frame";
  }

  /** Handles the request whose body begins at `at`. Returns whether its command is one. */
  #handleRequest(at: number): boolean {
    let command = this.#in[at]!;
    if (command !== 0x01 && command !== 0x02) {
      if (this.#mutation === "answers-taken" && command >= 0x80) return true;
      if (this.#mutation === "unknown-skipped") return true;
      if (this.#mutation !== "unknown-answered") return false;
      command = 0x02;
    }
    let result = 0;
    if (command === 0x01) {
      if (this.#mutation === "conn-unanswered") return true;
      const opened = this.#mutation === "session-of-all" ? this.#server.sessionOpened : this.#opened;
      if (opened && this.#mutation === "second-conn-closes") return false;
      if (opened && this.#mutation !== "second-conn-accepted") result = 1;
      this.#opened = this.#server.sessionOpened = true;
    }
    this.#acknowledge(command, this.#in, at + 1, result);
    return true;
  }

  /** What is left of the bytes when the client has ended. */
  #handleEnd(): void {
    const rest = this.#end - this.#start;
    if (this.#mutation === "truncated-handled" && rest >= 5) this.#handleRequest(this.#start + 4);
    if (this.#mutation === "cut-length-handled" && rest === 4) {
      this.#acknowledge(0x02, new Uint8Array(8).fill(0x30), 0, 0);
    }
  }

  #skipFrame(): boolean {
    const length = this.#end - this.#start >= 4 ? this.#frameLength() : 0;
    if (length < 4 || length > this.#end - this.#start) return false;
    this.#start += length;
    return true;
  }

  /** Adds an answer: its id are the eight bytes at `at`. */
  #acknowledge(command: number, ids: Uint8Array, at: number, result: number): void {
    const id = this.#idOf(ids.subarray(at, at + 8));
    if (this.#mutation === "equal-ids-once") {
      if (this.#answered.has(id.toHex())) return;
      this.#answered.add(id.toHex());
    }
    const twice = this.#mutation === "answered-twice" && ++this.#answers % 100 === 0;
    for (let times = twice ? 2 : 1; times > 0; times--) {
      if (this.#outLength + 14 > this.#out.length) {
        const larger = new Uint8Array(this.#out.length * 2);
        larger.set(this.#out);
        this.#out = larger;
      }
      const to = this.#outLength, out = this.#out;
      out[to] = out[to + 1] = out[to + 2] = 0;
      out[to + 3] = this.#mutation === "answer-length" ? 10 : 14;
      const legacy = (this.#server.dialect === "legacy") !== (this.#mutation === "dialect-mixed-up");
      out[to + 4] = 0x80 + command - (legacy ? 1 : 0);
      out.set(id, to + 5);
      out[to + 13] = result;
      this.#outLength += 14;
    }
  }

  #idOf(id: Uint8Array): Uint8Array {
    const text = (): string => String.fromCharCode(...id);
    switch (this.#mutation) {
      case "id-of-seven":
        return new Uint8Array([0x30, ...id.subarray(0, 7)]);
      case "id-as-number":
        return new TextEncoder().encode(String(Number(text())).padStart(8, "0")).subarray(0, 8);
      case "id-as-text":
        return new TextEncoder().encode(new TextDecoder().decode(id)).subarray(0, 8);
      default:
        return id;
    }
  }

  /** The first two answers since `from` get one another's ids. */
  #swapIds(from: number): void {
    if (this.#outLength - from < 28) return;
    const first = this.#out.slice(from + 5, from + 13);
    this.#out.copyWithin(from + 5, from + 19, from + 27);
    this.#out.set(first, from + 19);
  }

  async #flush(): Promise<void> {
    await this.#write(this.#out.subarray(0, this.#outLength));
    this.#outLength = 0;
    // A burst must not keep its memory for as long as the connection lives.
    if (this.#out.length > readLength) this.#out = new Uint8Array(1024);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.#socket.write(bytes.subarray(at));
  }

  #taken(): Uint8Array {
    const bytes = this.#out.slice(0, this.#outLength);
    this.#outLength = 0;
    return bytes;
  }

  /** Writes while reading goes on, however much waits. */
  #flushBehind(): void {
    const bytes = this.#taken();
    this.#writing = this.#writing.then(() => this.#write(bytes)).catch(() => {});
  }

  #pending = 0;

  /** Writes while reading goes on, and drops what comes while much waits. */
  #flushOrDrop(): void {
    const bytes = this.#taken();
    if (this.#pending > readLength) return;
    this.#pending += bytes.length;
    this.#writing = this.#writing.then(() => this.#write(bytes)).catch(() => {}).then(() => {
      this.#pending -= bytes.length;
    });
  }

  /** Writes a little later, unless the connection has ended by then. */
  #flushLater(): void {
    const bytes = this.#taken();
    this.#writing = Promise.all([this.#writing, laterTurns(5)]).then(() => this.#write(bytes)).catch(
      () => {},
    );
  }

  /** The client has ended, and all is answered. */
  async #finish(): Promise<void> {
    if (this.#mutation === "answers-lost-at-end") return this.#socket[Symbol.dispose]();
    await this.#writing;
    if (this.#mutation === "never-ends") return await this.#cut.promise;
    await this.#socket.closeWrite();
  }

  /** Ends this side, then reads and discards for a while: closing on unread bytes would reset what was sent. */
  async #linger(): Promise<void> {
    await this.#writing;
    if (this.#broken && this.#mutation === "reset-at-error") return;
    await this.#socket.closeWrite();
    const timer = this.#mutation === "lingers-for-ever"
      ? undefined
      : setTimeout(() => this.#socket[Symbol.dispose](), longestLingerMs);
    try {
      while (await this.#socket.read(this.#in) !== null);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** So many turns of the event loop, in each of which a FIN may be read, however late the machine is. */
async function laterTurns(count: number): Promise<void> {
  for (; count > 0; count--) await new Promise((resolve) => setTimeout(resolve, 5));
}
