// An independent peer of the submit protocol: raw sockets and bytes put together by hand. Nothing of ours is used
// here, so that a mistake in the codec cannot hide itself.

import { within } from "./wait.ts";

/** When a read of a test is given up. */
const giveUpMs = 30_000;

/** A frame of the submit protocol with a body as given: four bytes of length that count themselves. */
export function frameOf(body: Uint8Array): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(body.length + 4), length = frame.length;
  frame.set([length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255]);
  frame.set(body, 4);
  return frame;
}

/** A framed request. */
export function request(
  command: number,
  id: string,
  payload: Uint8Array | string = "",
): Uint8Array<ArrayBuffer> {
  const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload;
  return frameOf(joined(new Uint8Array([command]), new TextEncoder().encode(id), bytes));
}

/** A framed SUBMIT. */
export function submitFrame(serial: number, payload: Uint8Array | string = ""): Uint8Array<ArrayBuffer> {
  return request(0x02, idOf(serial), payload);
}

/** A framed SUBMIT-ACK, or another answer. */
export function ackFrame(serial: number, result = 0, command = 0x82): Uint8Array<ArrayBuffer> {
  return request(command, idOf(serial), new Uint8Array([result]));
}

/** Eight digits. */
export function idOf(serial: number): string {
  return String(serial).padStart(8, "0");
}

/** All of the chunks in one. */
export function joined(...chunks: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

/** An answer that was read. */
export interface ReadAck {
  readonly command: number;
  readonly id: string;
  readonly result: number;
}

/** One side of a connection, made of `read`, `write` and `closeWrite` alone. */
export class RawPeer implements Disposable {
  readonly socket: Deno.TcpConn;
  /** Bytes read and not asked for yet. */
  #rest: Uint8Array = new Uint8Array(0);

  constructor(socket: Deno.TcpConn) {
    this.socket = socket;
  }

  static async connect(port: number): Promise<RawPeer> {
    const socket = await Deno.connect({ hostname: "127.0.0.1", port });
    socket.setNoDelay(true);
    return new RawPeer(socket);
  }

  /** Writes all of the chunks. */
  async write(...chunks: Uint8Array[]): Promise<void> {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.length;) at += await this.socket.write(chunk.subarray(at));
    }
  }

  /** Reads exactly `length` bytes; fails at an earlier end. */
  readExactly(length: number): Promise<Uint8Array> {
    return within(this.#readExactly(length), `${length} bytes from the other side`, giveUpMs);
  }

  async #readExactly(length: number): Promise<Uint8Array> {
    while (this.#rest.length < length) {
      const chunk = await this.#read();
      if (chunk === null) throw new Error(`the peer ended after ${this.#rest.length} of ${length} bytes`);
      this.#rest = joined(this.#rest, chunk);
    }
    const bytes = this.#rest.slice(0, length);
    this.#rest = this.#rest.slice(length);
    return bytes;
  }

  /** Reads to the end. */
  readToEnd(): Promise<Uint8Array> {
    return within(this.#readToEnd(), "the other side's end", giveUpMs);
  }

  async #readToEnd(): Promise<Uint8Array> {
    const chunks = [this.#rest];
    for (let chunk; (chunk = await this.#read()) !== null;) chunks.push(chunk);
    this.#rest = new Uint8Array(0);
    return joined(...chunks);
  }

  /** Reads `count` answers. */
  async readAcks(count: number): Promise<ReadAck[]> {
    return acksIn(await this.readExactly(14 * count));
  }

  /** Reads answers to the end. */
  async readAcksToEnd(): Promise<ReadAck[]> {
    return acksIn(await this.readToEnd());
  }

  /** FIN. */
  closeWrite(): Promise<void> {
    return this.socket.closeWrite();
  }

  [Symbol.dispose](): void {
    this.socket[Symbol.dispose]();
  }

  async #read(): Promise<Uint8Array | null> {
    const buffer = new Uint8Array(65_536), count = await this.socket.read(buffer);
    return count === null ? null : buffer.subarray(0, count);
  }
}

/** The answers that lie back to back in `bytes`; fails where they are not whole. */
export function acksIn(bytes: Uint8Array): ReadAck[] {
  const acks: ReadAck[] = [];
  for (let at = 0; at < bytes.length; at += 14) {
    const ack = bytes.subarray(at, at + 14);
    if (ack.length < 14 || ack[0] !== 0 || ack[1] !== 0 || ack[2] !== 0 || ack[3] !== 14) {
      throw new Error(`no answer at byte ${at} of ${bytes.length}: ${ack}`);
    }
    acks.push({ command: ack[4]!, id: new TextDecoder().decode(ack.subarray(5, 13)), result: ack[13]! });
  }
  return acks;
}
