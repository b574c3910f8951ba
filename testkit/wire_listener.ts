// The server's side of wires: who connects is a Wire as well.

import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { Wire } from "./wire.ts";

/** Options of {@linkcode WireListener.listen}. */
export interface WireListenOptions {
  /** Where to listen. @default {"127.0.0.1"} */
  hostname?: string;
  /** The port to listen on; 0 takes a free one. @default {0} */
  port?: number;
}

/**
 * A port whose connections the test plays by hand, as raw bytes. Disposing of it closes them all.
 *
 * @example A server that resets in the middle of its answer
 * ```ts
 * import { WireListener } from "@framewire/framewire/testkit";
 * import { connect } from "@framewire/framewire/client";
 * import { assertEquals } from "@std/assert";
 *
 * await using listener = await WireListener.listen();
 * await using client = await connect({ port: listener.port, reconnect: false });
 * const lost = client.submit("21.5").catch((error) => error.outcome);
 * const wire = await listener.accept();
 * assertEquals((await wire.readFrame()).length, 17);
 * await wire.send(new Uint8Array([0, 0, 0, 14, 0x82]));
 * wire.reset();
 * assertEquals(await lost, "unknown");
 * ```
 */
export class WireListener implements AsyncDisposable {
  readonly #server: Server;
  readonly #wires: Wire[] = [];
  /** Connections that nobody has accepted yet: nothing of theirs is read. */
  readonly #sockets: Socket[] = [];
  readonly #accepting: PromiseWithResolvers<Wire>[] = [];
  #closed = false;

  private constructor() {
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      const accepting = this.#accepting.shift();
      if (accepting !== undefined) return accepting.resolve(this.#wireOver(socket));
      // A reset before anybody looks is seen when it is accepted: the wire is a dead one then.
      socket.on("error", () => {});
      this.#sockets.push(socket);
    });
  }

  /**
   * Listens.
   *
   * @throws {Error} What the system says, with its `code`, if it cannot listen there.
   */
  static async listen({ hostname = "127.0.0.1", port = 0 }: WireListenOptions = {}): Promise<WireListener> {
    const listener = new WireListener();
    listener.#server.listen(port, hostname);
    await once(listener.#server, "listening");
    return listener;
  }

  /** The port that it listens on. */
  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /**
   * The next connection. What it sends is read from now on, unless the wire is paused at once.
   *
   * @throws {Error} If the listener is closed before one comes.
   */
  accept(): Promise<Wire> {
    if (this.#closed) return Promise.reject(new Error(closedMessage));
    const socket = this.#sockets.shift();
    if (socket !== undefined) return Promise.resolve(this.#wireOver(socket));
    const accepting = Promise.withResolvers<Wire>();
    this.#accepting.push(accepting);
    return accepting.promise;
  }

  /** Closes the port and all connections, whatever is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const { reject } of this.#accepting.splice(0)) reject(new Error(closedMessage));
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) this.#wireOver(socket);
    await Promise.all([closed, ...this.#wires.map((wire) => wire[Symbol.asyncDispose]())]);
  }

  #wireOver(socket: Socket): Wire {
    const wire = Wire.over(socket);
    wire.resume();
    this.#wires.push(wire);
    return wire;
  }
}

const closedMessage = "Cannot accept: the listener is closed";
