/**
 * Framewire: build, run and prove a length-prefixed TCP protocol on Deno.
 *
 * Three doors into one house: connections ({@linkcode serveConnections}, {@linkcode connectFrames}), frames
 * ({@linkcode serveFrames}), and the packets of the submit protocol ({@linkcode serve}, {@linkcode connect}). Below
 * them lie the codec ({@linkcode FrameDecoder}, {@linkcode encodeFrame}) and the streams ({@linkcode duplex},
 * {@linkcode FrameDecoderStream}) for pipelines of one's own.
 *
 * @example A server and a client of the submit protocol
 * ```ts
 * import { connect, serve } from "@framewire/framewire";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({ port: 0 }, ({ payload }) => payload.length > 0 ? 0 : 1);
 * await using client = await connect({ port: server.addr.port });
 * assertEquals((await client.submit("hello")).outcome, "accepted");
 * assertEquals((await client.submit("")).outcome, "refused");
 * ```
 *
 * @module
 */

export * from "./codec/mod.ts";
export { type ByteSocket, type Duplex, duplex } from "./transport/duplex.ts";
export {
  type Authenticate,
  type CloseCode,
  type CloseReason,
  type Conn,
  type ConnectionHandler,
  type ConnectionLimitOptions,
  type DrainReport,
  FrameConnection,
  type FrameErrorHandler,
  type FrameHandler,
  type FrameReply,
  type HandlerLimitOptions,
  LimitError,
  type LimitName,
  type ListenAddress,
  type ListenOptions,
  type Peer,
  ProxyHeaderError,
  serve,
  serveConnections,
  type ServeConnectionsOptions,
  serveFrames,
  type ServeFramesOptions,
  type ServeOptions,
  type Server,
  type ServerEvent,
  type ServerStats,
  type SessionLimitOptions,
  type Submit,
  type SubmitErrorHandler,
  type SubmitHandler,
  type SubmitPeer,
  type SubmitResult,
} from "./server.ts";
export {
  type Answer,
  type BulkOptions,
  Client,
  type ClientEvent,
  type ClientStats,
  connect,
  ConnectError,
  type ConnectErrorCode,
  connectFrames,
  type ConnectFramesOptions,
  type ConnectOptions,
  type DialOptions,
  type Outcome,
  type ReconnectOptions,
  type ServerAddress,
  SubmitError,
  type SubmitOptions,
} from "./client.ts";
