#!/usr/bin/env -S deno run -N
/**
 * The client: two doors, and a program.
 *
 * {@linkcode connect} speaks the submit protocol, {@linkcode connectFrames} gives a connection with frames of any
 * format. `deno run -N client.ts --help` tells about the program.
 *
 * @example
 * ```ts
 * import { connect } from "@framewire/framewire/client";
 * import { serve } from "@framewire/framewire/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, () => {});
 * await using client = await connect({ port: server.addr.port, name: "gauge 7" });
 * assertEquals(await client.submit("21.5"), { id: "00000002", outcome: "accepted", result: 0 });
 * ```
 *
 * @module
 */

import { Client, type ClientEvent } from "./client/client.ts";
import { type Dialect, FrameFormat, type FrameFormatOptions, submitFormat } from "./codec/mod.ts";
import { type ReconnectOptions, Tries } from "./client/reconnect.ts";
import { dial, type DialOptions, positive, type ServerAddress } from "./transport/dial.ts";
import { FrameConnection } from "./transport/frame_connection.ts";

export {
  type BulkOptions,
  Client,
  type ClientEvent,
  type ClientStats,
  type SubmitOptions,
} from "./client/client.ts";
export type { ReconnectOptions } from "./client/reconnect.ts";
export { LimitError, type LimitName } from "./transport/limit.ts";
export { type Answer, type Outcome, SubmitError } from "./client/request.ts";
export type { CloseCode, CloseReason } from "./transport/connection.ts";
export {
  ConnectError,
  type ConnectErrorCode,
  type DialOptions,
  type ServerAddress,
} from "./transport/dial.ts";
export { FrameConnection } from "./transport/frame_connection.ts";

/** Options of {@linkcode connect}. */
export interface ConnectOptions extends DialOptions {
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that is sent or accepted, in bytes, its length field included. @default {1_048_576} */
  maxFrameLength?: number;
  /** Requests that may be under way at once; more of them wait. @default {256} */
  window?: number;
  /** Servers to try in turn, in place of the one that `hostname`, `port` and `path` name. */
  servers?: readonly ServerAddress[];
  /**
   * Whether and how a lost connection is made again. Requests that were not sent go out again by themselves, in their
   * order and with their ids; those that may have been handled only where they are `idempotent`. @default {{}}
   */
  reconnect?: ReconnectOptions | false;
  /** How long a request may take from the call of `submit` to its answer. @default {30_000} */
  requestTimeoutMs?: number;
  /** How long leaving the client's scope (`await using`) waits for answers. @default {10_000} */
  drainTimeoutMs?: number;
  /** Opens a session with a CONN whose payload this is, a string as UTF-8; without it, no CONN is sent. */
  name?: string | Uint8Array;
  /** Called with all that happens; what it throws is counted in `stats()` and hurts nobody. */
  onEvent?: (event: ClientEvent) => void;
}

/** Options of {@linkcode connectFrames}. */
export interface ConnectFramesOptions extends DialOptions {
  /** What the frames look like. @default {a big-endian length of four bytes, not counting itself} */
  format?: FrameFormatOptions;
}

/**
 * Connects to a server of the submit protocol (docs/protocol.md).
 *
 * @throws {ConnectError} If there is no connection or no session to be had; its `code` says why.
 * @throws {RangeError} If an option is out of range.
 *
 * @example Cancel one request
 * ```ts
 * import { connect, serve } from "@framewire/framewire";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const slow = Promise.withResolvers<void>();
 * await using server = serve({ port: 0 }, ({ payload }) => payload.length > 0 ? slow.promise : undefined);
 * await using client = await connect({ port: server.addr.port });
 * await assertRejects(() => client.submit("slow", { signal: AbortSignal.timeout(10) }), DOMException);
 * assertEquals((await client.submit("")).outcome, "accepted");
 * slow.resolve();
 * ```
 */
export async function connect(options: ConnectOptions = {}): Promise<Client> {
  const { dialect = "spec", maxFrameLength, window = 256, name, onEvent } = options;
  const { connectTimeoutMs = 10_000, requestTimeoutMs = 30_000, drainTimeoutMs = 10_000 } = options;
  if (dialect !== "spec" && dialect !== "legacy") {
    throw new RangeError(`dialect must be "spec" or "legacy", and is ${JSON.stringify(dialect)}`);
  }
  if (!Number.isInteger(window) || window < 1 || window > maxWindow) {
    throw new RangeError(`window must be an integer from 1 to ${maxWindow}, and is ${window}`);
  }
  positive("requestTimeoutMs", requestTimeoutMs);
  positive("drainTimeoutMs", drainTimeoutMs);
  return await Client.open({
    // Copies: what the caller does with its object later is its own business.
    dial: { ...options },
    format: submitFormat(maxFrameLength),
    tries: new Tries((options.servers ?? [options]).map(({ ...server }) => server), options.reconnect ?? {}),
    dialect,
    window,
    session: name === undefined ? null : typeof name === "string" ? new TextEncoder().encode(name) : name,
    connectTimeoutMs,
    requestTimeoutMs,
    drainTimeoutMs,
    onEvent,
  });
}

/** Every request under way needs an id of its own, and so do the cancelled ones that are remembered. */
const maxWindow = 1_000_000;

/**
 * Connects to a server of any length-prefixed protocol, and gives the connection.
 *
 * @throws {ConnectError} If there is no connection to be had; its `code` says why.
 * @throws {RangeError} If an option is out of range.
 *
 * @example
 * ```ts
 * import { connectFrames, serveFrames } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * const format = { lengthFieldLength: 1, initialBytesToStrip: 1 } as const;
 * await using server = serveFrames({ port: 0, format }, (frame) => frame);
 * await using connection = await connectFrames({ port: server.addr.port, format });
 * await connection.send(new Uint8Array([42]));
 * for await (const frame of connection.frames) {
 *   assertEquals(frame, new Uint8Array([42]));
 *   break;
 * }
 * ```
 */
export async function connectFrames(options: ConnectFramesOptions = {}): Promise<FrameConnection> {
  const dialled = await dial(options, FrameFormat.from(options.format));
  return new FrameConnection(dialled.connection, dialled.options);
}

async function main(): Promise<void> {
  const { runClient } = await import("./cli/client.ts");
  await runClient(Deno.args, connect);
}

if (import.meta.main) main();
