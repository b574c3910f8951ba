// What a server said, as tests ask for it.

import { type CloseReason, FrameError, PacketError, type ServerEvent } from "../../mod.ts";
import { Recorder } from "./wait.ts";

type Of<T extends ServerEvent["type"]> = Extract<ServerEvent, { type: T }>;

/** The events of one server: give `record` to `onEvent`. */
export class ServerEvents extends Recorder<ServerEvent> {
  /** The kinds of the events, in order. */
  get types(): string[] {
    return this.items.map(({ type }) => type);
  }

  /** Resolves with the first event of a kind. */
  next<T extends ServerEvent["type"]>(type: T): Promise<Of<T>> {
    return this.first((event): event is Of<T> => event.type === type, `event ${type}`);
  }

  /** Resolves with the reason why a connection is no more. */
  async closed(connection = 1): Promise<CloseReason> {
    const event = await this.first(
      (event): event is Of<"closed"> => event.type === "closed" && event.connection === connection,
      `connection ${connection} closed`,
    );
    return event.reason;
  }
}

/** What is in a protocol error: its class, its code, and its numbers. */
export interface ErrorFacts {
  readonly name: "FrameError" | "PacketError";
  readonly code: string;
  readonly met: number;
  readonly limit: number | undefined;
}

/** The facts of a protocol error; fails for any other one. */
export function factsOf(error: unknown): ErrorFacts {
  if (error instanceof FrameError) {
    return { name: error.name, code: error.code, met: error.length, limit: error.limit };
  }
  if (error instanceof PacketError) {
    return { name: error.name, code: error.code, met: error.value, limit: error.limit };
  }
  throw new Error(`no protocol error: ${error}`, { cause: error });
}
