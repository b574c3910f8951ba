// What is a server held to? Every limit with its default and its range, in one table.

import { maxTimerMs } from "../transport/deadline.ts";
import { inRange } from "../transport/limit.ts";

/** The limits of any server. */
export interface ConnectionLimitOptions {
  /** Connections that may be open. @default {16_384} */
  maxConnections?: number;
  /** Connections that may be open from one remote address. @default {Infinity} */
  maxConnectionsPerAddress?: number;
  /**
   * What becomes of a connection over `maxConnections`: it is accepted and closed at once, or waits in the kernel's
   * backlog (one for each listener: accepted, unread). @default {"refuse"}
   */
  whenFull?: "refuse" | "wait";
  /** Bytes that wait to be accepted by one peer beyond which its requests are not read. @default {1_048_576} */
  outboundHighWaterBytes?: number;
  /** Bytes that wait to be accepted by one peer at which its requests are read again. @default {262_144} */
  outboundLowWaterBytes?: number;
  /**
   * Bytes of incomplete frames that all connections may hold together; past it, the connection with the largest is
   * cut. @default {268_435_456}
   */
  maxBufferedBytes?: number;
  /**
   * How long a frame may take from its first byte to its last, and a second more for each 16 KiB of it. Bytes that
   * drip in do not begin it anew; time in which this side does not read is not counted. @default {30_000}
   */
  frameTimeoutMs?: number;
  /**
   * How long no byte may move either way while no handler of a request runs and nothing is pending. A connection
   * handler of `serveConnections` does not count. @default {600_000}
   */
  idleTimeoutMs?: number;
  /** How long no byte may be accepted by a peer that answers wait for, before it is cut. @default {30_000} */
  writeTimeoutMs?: number;
  /** How long a TLS handshake, or a PROXY header, may take. @default {10_000} */
  handshakeTimeoutMs?: number;
  /** How long `shutdown` waits for answers and for peers to close. @default {10_000} */
  drainTimeoutMs?: number;
}

/** The limits of a server that calls a handler for each frame. */
export interface HandlerLimitOptions {
  /** Handlers that run for one connection; with more, its requests wait unread. @default {1024} */
  maxInFlight?: number;
  /** How long a handler may take. @default {30_000} */
  handlerTimeoutMs?: number;
}

/** The limits of a server that demands a session. */
export interface SessionLimitOptions {
  /** How long a connection may be without a session, where one is demanded. @default {10_000} */
  connTimeoutMs?: number;
}

/** All limits, defaults filled in. */
export type Limits = Required<ConnectionLimitOptions & HandlerLimitOptions & SessionLimitOptions>;

/** The limits that are numbers. */
export type NumericLimit = Exclude<keyof Limits, "whenFull">;

interface Range {
  readonly otherwise: number;
  readonly minimum: number;
  readonly maximum: number;
  /** Whether Infinity turns it off. */
  readonly optional: boolean;
}

const milliseconds = (otherwise: number): Range => ({
  otherwise,
  minimum: 1,
  maximum: maxTimerMs,
  optional: true,
});
const count = (otherwise: number): Range => ({
  otherwise,
  minimum: 1,
  maximum: Number.MAX_SAFE_INTEGER,
  optional: true,
});

/** Every limit that is a number: its default and its range. */
export const limitRanges: Readonly<Record<NumericLimit, Range>> = {
  maxConnections: count(16_384),
  maxConnectionsPerAddress: count(Infinity),
  maxInFlight: count(1024),
  outboundHighWaterBytes: count(1_048_576),
  outboundLowWaterBytes: { ...count(262_144), minimum: 0, optional: false },
  maxBufferedBytes: count(268_435_456),
  connTimeoutMs: milliseconds(10_000),
  frameTimeoutMs: milliseconds(30_000),
  idleTimeoutMs: milliseconds(600_000),
  handlerTimeoutMs: milliseconds(30_000),
  writeTimeoutMs: milliseconds(30_000),
  drainTimeoutMs: { ...milliseconds(10_000), minimum: 0, optional: false },
  handshakeTimeoutMs: milliseconds(10_000),
};

/** Fills in the defaults. @throws {RangeError} That names the first option that is out of range. */
export function validLimits(
  options: ConnectionLimitOptions & HandlerLimitOptions & SessionLimitOptions,
): Limits {
  const limits = { whenFull: options.whenFull ?? "refuse" } as Limits;
  if (limits.whenFull !== "refuse" && limits.whenFull !== "wait") {
    throw new RangeError(`whenFull must be "refuse" or "wait", and is ${JSON.stringify(limits.whenFull)}`);
  }
  for (const [name, { otherwise, minimum, maximum, optional }] of Object.entries(limitRanges)) {
    const value = options[name as NumericLimit] ?? otherwise;
    limits[name as NumericLimit] = value;
    if (!(optional && value === Infinity)) inRange(name, value, minimum, maximum);
  }
  const { outboundHighWaterBytes, outboundLowWaterBytes } = limits;
  // A low mark that was not set follows a high one that was.
  if (options.outboundLowWaterBytes === undefined) {
    limits.outboundLowWaterBytes = Math.min(outboundLowWaterBytes, Math.floor(outboundHighWaterBytes / 4));
  } else {
    inRange("outboundLowWaterBytes", outboundLowWaterBytes, 0, outboundHighWaterBytes);
  }
  return limits;
}
