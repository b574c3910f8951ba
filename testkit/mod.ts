/**
 * The test kit: parts for the tests of whoever speaks a length-prefixed protocol over TCP.
 *
 * @module
 */

export { chunkings, type ChunkingsOptions } from "./chunkings.ts";
export {
  fuzz,
  type FuzzFailure,
  type FuzzFrame,
  type FuzzOptions,
  type FuzzResult,
  type Played,
  replay,
  type Session,
} from "./fuzz.ts";
export { assertBytesEqual, type BytesEqualOptions, hexDump, type HexDumpOptions } from "./hex.ts";
export { PoisonGuard } from "./poison.ts";
export { between, newSeed, oneOf, type Random, randomFrom } from "./random.ts";
export type { Dialect, FrameFormatOptions } from "../codec/mod.ts";
export {
  type CaseResult,
  type CaseText,
  type ClientConformanceOptions,
  type Closing,
  type ConformanceOptions,
  type Group,
  type LaunchedTarget,
  runClientConformance,
  runConformance,
  type Selection,
  type Verdict,
} from "./conformance.ts";
export {
  type Mutation,
  mutations,
  type SoundServer,
  type SoundServerOptions,
  startSoundServer,
} from "./mutants.ts";
export {
  type ScriptedPeer,
  scriptedPeer,
  type ScriptedPeerOptions,
  ScriptError,
  type ScriptStep,
} from "./scripted_peer.ts";
export { type CallSizes, type PairedSocket, socketPair, type SocketPairOptions } from "./socket_pair.ts";
export {
  type FormatVector,
  formatVectors,
  type SubmitVector,
  submitVectors,
  type Vector,
  type VectorError,
  type VectorKind,
  type VectorPacket,
} from "./vectors.ts";
export {
  type ErrorCounts,
  type IdCounts,
  load,
  type LoadConfig,
  type LoadOptions,
  type LoadResult,
  type LoadSecond,
  type Percentiles,
  type Progress,
  TargetError,
  type Traffic,
} from "./load.ts";
export {
  Wire,
  type WireConnectOptions,
  type WireEnd,
  WireError,
  type WireEvent,
  type WireReadOptions,
} from "./wire.ts";
export { WireListener, type WireListenOptions } from "./wire_listener.ts";
export * from "./proxy.ts";
export { ProxyApi, ProxyApiError, type ProxyApiOptions, serveProxies } from "./proxy/api.ts";
