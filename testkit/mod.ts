/**
 * The test kit: parts for the tests of whoever speaks a length-prefixed protocol over TCP.
 *
 * @module
 */

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
export { assertBytesEqual, type BytesEqualOptions, hexDump, type HexDumpOptions } from "./hex.ts";
export {
  type Mutation,
  mutations,
  type SoundServer,
  type SoundServerOptions,
  startSoundServer,
} from "./mutants.ts";
export {
  Wire,
  type WireConnectOptions,
  type WireEnd,
  WireError,
  type WireEvent,
  type WireReadOptions,
} from "./wire.ts";
export * from "./proxy.ts";
export { ProxyApi, ProxyApiError, type ProxyApiOptions, serveProxies } from "./proxy/api.ts";
