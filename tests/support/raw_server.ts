// The other side of a client, and what else raw peers need: nothing of ours is used here either.

import { idOf, joined, RawPeer } from "./peer.ts";

/** A listener whose connections the test plays by hand. */
export class RawServer implements Disposable {
  readonly #listener: Deno.TcpListener;

  constructor(options: { tcpBacklog?: number } = {}) {
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0, ...options });
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** The next connection. */
  async accept(): Promise<RawPeer> {
    const socket = await this.#listener.accept();
    socket.setNoDelay(true);
    return new RawPeer(socket);
  }

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
  }
}

/** A request as it was read. */
export interface ReadRequest {
  readonly command: number;
  readonly id: string;
  readonly payload: Uint8Array;
}

/** Reads one request of the submit protocol. */
export async function readRequest(peer: RawPeer): Promise<ReadRequest> {
  const length = uint32(await peer.readExactly(4), 0);
  return requestIn(await peer.readExactly(length - 4));
}

/** Reads `count` requests of the submit protocol. */
export async function readRequests(peer: RawPeer, count: number): Promise<ReadRequest[]> {
  const requests = new Array<ReadRequest>(count);
  for (let i = 0; i < count; i++) requests[i] = await readRequest(peer);
  return requests;
}

/** The whole requests that lie back to back in `bytes`, and how many bytes of a cut one follow them. */
export function requestsIn(bytes: Uint8Array): { requests: ReadRequest[]; rest: number } {
  const requests: ReadRequest[] = [];
  let at = 0;
  while (bytes.length - at >= 4 && bytes.length - at >= uint32(bytes, at)) {
    const end = at + uint32(bytes, at);
    requests.push(requestIn(bytes.subarray(at + 4, end)));
    at = end;
  }
  return { requests, rest: bytes.length - at };
}

/** Frames whose four bytes of length do not count themselves, as they lie back to back in `bytes`. */
export function plainFramesIn(bytes: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 4 + uint32(bytes, at);
    if (bytes.length - at < 4 || end > bytes.length) {
      throw new Error(`no whole frame at byte ${at} of ${bytes.length}`);
    }
    frames.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return frames;
}

/** A frame whose four bytes of length do not count themselves. */
export function plainFrame(body: Uint8Array | string): Uint8Array<ArrayBuffer> {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body, { length } = bytes;
  return joined(
    new Uint8Array([length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255]),
    bytes,
  );
}

/** The serial numbers' ids from `first` to `last`. */
export function idsOf(first: number, last: number): string[] {
  return Array.from({ length: last - first + 1 }, (_, i) => idOf(first + i));
}

/** Bytes that say who they are: each of them depends on `mark` and its place. */
export function marked(mark: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (mark * 31 + i * 7 + (i >>> 8)) & 255;
  return bytes;
}

/** Whether two pieces of memory hold the same bytes; faster than an assertion on long ones. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Takes note of rejections that nobody handles while it lives. */
export class UnhandledRejections implements Disposable {
  readonly reasons: unknown[] = [];
  readonly #take = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    this.reasons.push(event.reason);
  };

  constructor() {
    globalThis.addEventListener("unhandledrejection", this.#take);
  }

  [Symbol.dispose](): void {
    globalThis.removeEventListener("unhandledrejection", this.#take);
  }
}

function uint32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

function requestIn(body: Uint8Array): ReadRequest {
  return {
    command: body[0]!,
    id: new TextDecoder().decode(body.subarray(1, 9)),
    payload: body.slice(9),
  };
}
