// The connection door's inside: a function that lives as long as its connection.

import type { CloseCode, Connection, ConnectionOptions } from "../transport/connection.ts";
import { FrameConnection } from "../transport/frame_connection.ts";
import type { Host, Service } from "./host.ts";

/** Talks on one connection; when its promise settles, the connection is closed. */
export type ConnectionHandler = (connection: FrameConnection) => void | PromiseLike<void>;

/** One connection of a connection server. */
export class ConnectionService implements Service {
  readonly #host: Host;
  readonly #connection: Connection;
  readonly #options: ConnectionOptions;
  readonly #number: number;
  readonly #handler: ConnectionHandler;

  constructor(
    host: Host,
    connection: Connection,
    options: ConnectionOptions,
    number: number,
    handler: ConnectionHandler,
  ) {
    this.#host = host;
    this.#connection = connection;
    this.#options = options;
    this.#number = number;
    this.#handler = handler;
  }

  async run(): Promise<void> {
    const connection = this.#connection;
    let code: CloseCode | null = null, failure: unknown = null;
    try {
      await this.#handler(new FrameConnection(connection, this.#options));
    } catch (error) {
      failure = error;
      // The socket's own failure is no failure of the handler: it closes the connection, or has done so.
      if (error !== null && error === connection.readError) return connection.failRead();
      if (error !== null && error === connection.out.error) return;
      if (connection.frameError === null || error !== connection.frameError) {
        this.#host.handlerError(this.#number, error);
        code = "handler";
      }
    }
    if (connection.readError !== null) return connection.failRead();
    const { frameError } = connection;
    if (frameError !== null) {
      // Whether or not the handler minded.
      this.#host.protocolError(this.#number, frameError);
      code ??= frameError.code === "truncated" ? "truncated" : "protocol";
      failure ??= frameError;
    }
    await connection.finish(code ?? (connection.inputEnded ? "ended" : "closed"), failure);
  }

  drain(): void {
    // The frames end here as they would at the peer's FIN, so a handler that reads to the end is done in its own way.
    const connection = this.#connection;
    connection.caughtUp(connection.chunksRead).then(() => connection.stop());
  }

  tick(now: number): void {
    this.#connection.tick(now, false);
  }
}
