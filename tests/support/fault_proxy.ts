// A proxy that hurts what goes through it: slices, stalls, FINs and resets, drawn from a generator. Made of node:net,
// whose sockets can be reset.

import { connect, createServer, type Server, type Socket } from "node:net";
import { between, oneOf, type Random } from "../../testkit/random.ts";

/** What happens to a connection, once so many bytes have passed. */
type Fault = "none" | "reset both" | "reset client" | "reset server" | "close both" | "stall";

/** A proxy in front of a server on a port of this machine. */
export class FaultProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  /** How often each fault struck. */
  readonly struck: Record<string, number> = {};
  /** Set to let everything through from now on. */
  gentle = false;

  private constructor(upstream: number, random: Random) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      const server = connect({ port: upstream, host: "127.0.0.1", allowHalfOpen: true });
      this.#join(client, server, random);
    });
  }

  static async listen(upstream: number, random: Random): Promise<FaultProxy> {
    const proxy = new FaultProxy(upstream, random);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", () => resolve()));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    const closed = [...this.#sockets].map((socket) =>
      new Promise<void>((resolve) => socket.closed ? resolve() : socket.once("close", () => resolve()))
    );
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(closed);
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #join(client: Socket, server: Socket, random: Random): void {
    const fault: Fault = this.gentle
      ? "none"
      : oneOf(random, ["none", "reset both", "reset client", "reset server", "close both", "stall"]);
    const after = between(random, 1, 3000);
    let passed = 0, done = false;
    const strike = () => {
      done = true;
      this.struck[fault] = (this.struck[fault] ?? 0) + 1;
      if (fault === "reset both" || fault === "reset client") client.resetAndDestroy();
      if (fault === "reset both" || fault === "reset server") server.resetAndDestroy();
      if (fault === "close both") {
        client.end();
        server.end();
      }
    };
    for (const [from, to] of [[client, server], [server, client]] as const) {
      from.setNoDelay(true);
      this.#sockets.add(from);
      from.on("error", () => {});
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.on("end", () => to.end());
      from.on("data", (chunk: Uint8Array) => {
        let rest = chunk;
        if (!this.gentle && fault !== "none" && !done && passed + chunk.length > after) {
          rest = chunk.subarray(0, Math.max(0, after - passed));
          to.write(rest);
          passed += chunk.length;
          if (fault !== "stall") return strike();
          done = true;
          this.struck.stall = (this.struck.stall ?? 0) + 1;
          from.pause();
          const timer = setTimeout(() => {
            this.#timers.delete(timer);
            if (!to.destroyed) to.write(chunk.subarray(rest.length));
            from.resume();
          }, between(random, 5, 50));
          return void this.#timers.add(timer);
        }
        passed += chunk.length;
        // In two pieces, so that frames are cut anywhere.
        const cut = between(random, 0, rest.length);
        if (cut > 0) to.write(rest.subarray(0, cut));
        if (cut < rest.length && !to.write(rest.subarray(cut))) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
    }
  }
}
