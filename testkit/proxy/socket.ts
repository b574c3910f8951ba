// Which sockets does the proxy hold? Deno's, which are fast, or node:net's where it must be able to reset them.

import { connect, createServer, type Server, type Socket } from "node:net";
import { type Slab, type SlabPool, SlabSizing } from "../../transport/slab.ts";

/** Where to listen, or to connect to. */
export interface Address {
  /** A name or an address. @default {"127.0.0.1"} */
  hostname?: string;
  /** The port; 0 to listen on a free one. */
  port: number;
}

/** One side of a connection. */
export interface ProxySocket {
  /** Whether {@linkcode ProxySocket.reset} sends RST. */
  readonly resettable: boolean;
  /** The next bytes, which are the caller's until the next read; null at FIN. */
  read(): Promise<Uint8Array | null>;
  /** Writes all of the bytes. */
  write(bytes: Uint8Array): Promise<void>;
  /** FIN. */
  closeWrite(): Promise<void>;
  /** RST, or a close where that cannot be. */
  reset(): void;
  /** Closes at once; whatever waits fails. */
  close(): void;
}

/** Accepts connections until it is closed. */
export interface ProxyListener {
  readonly addr: Deno.NetAddr;
  /** Resolves when the port is free again. */
  close(): Promise<void>;
}

/** What becomes of accepted sockets. */
export interface Accepting {
  readonly slabs: SlabPool;
  accepted(socket: ProxySocket, remote: Address): void;
  failed(error: unknown): void;
}

/** Listens. */
export function listen(address: Address, resettable: boolean, accepting: Accepting): Promise<ProxyListener> {
  return resettable ? listenNode(address, accepting) : Promise.resolve(listenDeno(address, accepting));
}

/** Connects. @throws If that fails, or the signal's reason. */
export async function dial(
  { hostname = "127.0.0.1", port }: Address,
  resettable: boolean,
  slabs: SlabPool,
  signal: AbortSignal,
): Promise<ProxySocket> {
  if (!resettable) return new DenoSocket(await Deno.connect({ hostname, port, signal }), slabs);
  const socket = connect({ host: hostname, port, allowHalfOpen: true });
  const abort = () => void socket.destroy(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve).once("error", reject);
      if (signal.aborted) abort();
    });
    return new NodeSocket(socket);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function listenDeno({ hostname = "127.0.0.1", port }: Address, accepting: Accepting): ProxyListener {
  const listener = Deno.listen({ hostname, port });
  const accept = async () => {
    for (;;) {
      try {
        const socket = await listener.accept(), { hostname, port } = socket.remoteAddr;
        accepting.accepted(new DenoSocket(socket, accepting.slabs), { hostname, port });
      } catch (error) {
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
        accepting.failed(error);
        // Out of descriptors, most likely: the listener lives on.
        await new Promise((resolve) => setTimeout(resolve, retryMs));
      }
    }
  };
  const accepts = accept();
  return {
    addr: listener.addr,
    close: () => {
      listener.close();
      return accepts;
    },
  };
}

async function listenNode(
  { hostname = "127.0.0.1", port }: Address,
  accepting: Accepting,
): Promise<ProxyListener> {
  const server: Server = createServer(
    { allowHalfOpen: true, pauseOnConnect: true, noDelay: true },
    (socket) =>
      accepting.accepted(new NodeSocket(socket), {
        hostname: socket.remoteAddress!,
        port: socket.remotePort!,
      }),
  );
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, hostname, () => {
      server.off("error", reject).on("error", accepting.failed);
      resolve();
    });
  });
  const { address, port: bound } = server.address() as { address: string; port: number };
  return {
    addr: { transport: "tcp", hostname: address, port: bound },
    // Its callback waits for every connection; the port is free at once.
    close: () => {
      server.close();
      return Promise.resolve();
    },
  };
}

const retryMs = 50;

class DenoSocket implements ProxySocket {
  readonly resettable = false;
  readonly #socket: Deno.TcpConn;
  readonly #slabs: SlabPool;
  readonly #sizing = new SlabSizing();
  #slab: Slab | null = null;

  constructor(socket: Deno.TcpConn, slabs: SlabPool) {
    socket.setNoDelay(true);
    this.#socket = socket;
    this.#slabs = slabs;
  }

  async read(): Promise<Uint8Array | null> {
    this.#release();
    const slab = this.#slab = this.#sizing.next(this.#slabs);
    try {
      const count = await this.#socket.read(slab.bytes);
      if (count !== null) {
        this.#sizing.learn(this.#slabs, count);
        return slab.bytes.subarray(0, count);
      }
    } catch (error) {
      this.#release();
      throw error;
    }
    this.#release();
    return null;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += await this.#socket.write(at === 0 ? bytes : bytes.subarray(at));
    }
  }

  closeWrite(): Promise<void> {
    return this.#socket.closeWrite();
  }

  reset(): void {
    this.close();
  }

  close(): void {
    this.#socket[Symbol.dispose]();
  }

  #release(): void {
    if (this.#slab !== null) this.#slabs.release(this.#slab);
    this.#slab = null;
  }
}

class NodeSocket implements ProxySocket {
  readonly resettable = true;
  readonly #socket: Socket;
  /** Chunks that came before the socket was paused. */
  readonly #chunks: Uint8Array[] = [];
  #ended = false;
  #error: Error | null = null;
  #wake: (() => void) | null = null;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.pause();
    socket.on("data", ({ buffer, byteOffset, length }: Uint8Array<ArrayBuffer>) => {
      socket.pause();
      // No Buffer: toxics copy with slice(), which is no copy there.
      this.#chunks.push(new Uint8Array(buffer, byteOffset, length));
      this.#wake?.();
    });
    socket.on("end", () => {
      this.#ended = true;
      this.#wake?.();
    });
    socket.on("error", (error) => {
      this.#error = error;
      this.#wake?.();
    });
    socket.on("close", () => {
      if (!this.#ended) this.#error ??= new Deno.errors.Interrupted("the socket was closed");
      this.#wake?.();
    });
  }

  async read(): Promise<Uint8Array | null> {
    while (this.#chunks.length === 0) {
      if (this.#error !== null) throw this.#error;
      if (this.#ended) return null;
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      this.#socket.resume();
      await woken;
      this.#wake = null;
    }
    return this.#chunks.shift()!;
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) =>
      this.#socket.write(bytes, (error) => error ? reject(error) : resolve())
    );
  }

  closeWrite(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error | null) => error ? reject(error) : resolve();
      if (this.#socket.destroyed) {
        return reject(this.#error ?? new Deno.errors.Interrupted("the socket was closed"));
      }
      this.#socket.once("close", () => settle(this.#error));
      this.#socket.end(() => settle());
    });
  }

  reset(): void {
    if (!this.#socket.destroyed) this.#socket.resetAndDestroy();
  }

  close(): void {
    this.#socket.destroy();
  }
}
