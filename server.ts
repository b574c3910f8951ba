#!/usr/bin/env -S deno run -N
/**
 * The server: three doors into one house, and a program.
 *
 * {@linkcode serve} speaks the submit protocol, {@linkcode serveFrames} makes a reply of each frame of any format,
 * {@linkcode serveConnections} hands out connections. `deno run -N server.ts --help` tells about the program.
 *
 * @example The submit protocol
 * ```ts
 * import { serve } from "@framewire/framewire/server";
 * import { connect } from "@framewire/framewire/client";
 * import { assertEquals } from "@std/assert";
 *
 * const lengths: number[] = [];
 * await using server = serve({ port: 0 }, (submit) => {
 *   lengths.push(submit.payload.length);
 * });
 * await using client = await connect({ port: server.addr.port });
 * const { outcome } = await client.submit(new Uint8Array(5));
 * assertEquals([outcome, lengths], ["accepted", [5]]);
 * ```
 *
 * @module
 */

import { type Dialect, FrameFormat, type FrameFormatOptions, submitFormat } from "./codec/mod.ts";
import { type ConnectionHandler, ConnectionService } from "./server/connections.ts";
import { FrameDispatch, type FrameErrorHandler, type FrameHandler } from "./server/frames.ts";
import { Host, type ListenOptions, type Server } from "./server/host.ts";
import type { HandlerLimitOptions, SessionLimitOptions } from "./server/limits.ts";
import {
  type Authenticate,
  PacketDispatch,
  type SubmitErrorHandler,
  type SubmitHandler,
} from "./server/packets.ts";

export type { CloseCode, CloseReason } from "./transport/connection.ts";
export { FrameConnection } from "./transport/frame_connection.ts";
export type { ConnectionHandler } from "./server/connections.ts";
export type { Peer } from "./server/dispatch.ts";
export type { FrameErrorHandler, FrameHandler, FrameReply } from "./server/frames.ts";
export type { DrainReport, ListenOptions, Server, ServerEvent, ServerStats } from "./server/host.ts";
export type { ConnectionLimitOptions, HandlerLimitOptions, SessionLimitOptions } from "./server/limits.ts";
export type {
  Authenticate,
  Conn,
  Submit,
  SubmitErrorHandler,
  SubmitHandler,
  SubmitPeer,
  SubmitResult,
} from "./server/packets.ts";
export { LimitError, type LimitName } from "./transport/limit.ts";
export type { ListenAddress } from "./transport/listen.ts";
export { ProxyHeaderError } from "./transport/proxy_header.ts";

/** Options of {@linkcode serve}. */
export interface ServeOptions<Session = Uint8Array>
  extends ListenOptions, HandlerLimitOptions, SessionLimitOptions {
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that is accepted, in bytes, its length field included. @default {1_048_576} */
  maxFrameLength?: number;
  /** Demands a session: each connection must open one by a CONN that this accepts. */
  authenticate?: Authenticate<Session>;
  /** Makes a result of what the handler threw, in place of 5, handler failed. */
  onError?: SubmitErrorHandler;
}

/** Options of {@linkcode serveFrames}. */
export interface ServeFramesOptions extends ListenOptions, HandlerLimitOptions {
  /** What the frames look like. @default {a big-endian length of four bytes, not counting itself} */
  format?: FrameFormatOptions;
  /** Makes a reply of what the handler threw; without it, the connection is closed behind the replies before. */
  onError?: FrameErrorHandler;
}

/** Options of {@linkcode serveConnections}. */
export interface ServeConnectionsOptions extends ListenOptions {
  /** What the frames look like. @default {a big-endian length of four bytes, not counting itself} */
  format?: FrameFormatOptions;
}

/**
 * Serves the submit protocol (docs/protocol.md): calls the handler for each SUBMIT, and answers with its result as
 * soon as it settles, in whatever order. A handler that throws answers 5, one that takes too long 6.
 *
 * Starts to listen at once.
 *
 * @throws {RangeError} If an option is out of range.
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 *
 * @example Refuse what is too long, and keep a copy of the rest
 * ```ts
 * import { connect, Result, serve } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * const kept: Uint8Array[] = [];
 * await using server = serve({ port: 0 }, ({ payload }) => {
 *   if (payload.length > 3) return Result.refused;
 *   kept.push(payload.slice()); // the view is the handler's only until it returns
 * });
 * await using client = await connect({ port: server.addr.port });
 * const answers = await Promise.all([client.submit("abc"), client.submit("abcd")]);
 * assertEquals(answers.map(({ result }) => result), [0, 1]);
 * assertEquals(kept, [new Uint8Array([97, 98, 99])]);
 * ```
 */
export function serve<Session = Uint8Array>(
  options: ServeOptions<Session>,
  handler: SubmitHandler<Session>,
): Server {
  const { dialect = "spec", maxFrameLength, authenticate, onError } = options;
  if (dialect !== "spec" && dialect !== "legacy") {
    throw new RangeError(`dialect must be "spec" or "legacy", and is ${JSON.stringify(dialect)}`);
  }
  const config = { dialect, handler: handler as SubmitHandler<unknown>, authenticate, onError };
  return new Host(
    options,
    submitFormat(maxFrameLength),
    (host, connection, _options, number) => new PacketDispatch(host, connection, number, config),
  );
}

/**
 * Serves any length-prefixed protocol of requests and replies: calls the handler for each frame, and sends what it
 * returns, in the order of the frames. Handlers run at the same time where they are asynchronous.
 *
 * Starts to listen at once.
 *
 * @throws {RangeError} If an option is out of range.
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 *
 * @example A protocol of one's own: a length of two bytes, little-endian
 * ```ts
 * import { connectFrames, serveFrames } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * const format = { lengthFieldLength: 2, byteOrder: "little", initialBytesToStrip: 2 } as const;
 * await using server = serveFrames({ port: 0, format }, (frame) => frame.map((byte) => byte + 1));
 * await using connection = await connectFrames({ port: server.addr.port, format });
 * await connection.send(new Uint8Array([1, 2, 3]));
 * await connection.end();
 * assertEquals(await Array.fromAsync(connection.frames), [new Uint8Array([2, 3, 4])]);
 * ```
 */
export function serveFrames(options: ServeFramesOptions, handler: FrameHandler): Server {
  const format = FrameFormat.from(options.format), { onError } = options;
  const config = { format, handler, onError };
  return new Host(
    options,
    format,
    (host, connection, _options, number) => new FrameDispatch(host, connection, number, config),
  );
}

/**
 * Serves a protocol that is no request and reply: calls the handler once for each connection, and closes the
 * connection when the handler is done.
 *
 * Starts to listen at once.
 *
 * @throws {RangeError} If an option is out of range.
 * @throws {Deno.errors.AddrInUse} If the port is taken.
 *
 * @example A server that speaks first
 * ```ts
 * import { connectFrames, serveConnections } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serveConnections({ port: 0 }, async (connection) => {
 *   for (const byte of [1, 2, 3]) await connection.send(new Uint8Array([byte]));
 * });
 * await using connection = await connectFrames({ port: server.addr.port });
 * const frames = await Array.fromAsync(connection.frames);
 * assertEquals(frames.map((frame) => frame[4]), [1, 2, 3]);
 * ```
 */
export function serveConnections(options: ServeConnectionsOptions, handler: ConnectionHandler): Server {
  return new Host(
    options,
    FrameFormat.from(options.format),
    (host, connection, connectionOptions, number) =>
      new ConnectionService(host, connection, connectionOptions, number, handler),
  );
}

async function main(): Promise<void> {
  const { runServer } = await import("./cli/server.ts");
  await runServer(Deno.args, serve);
}

if (import.meta.main) main();
