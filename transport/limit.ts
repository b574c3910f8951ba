// The limits by name, and what is said when one is reached.

/** A limit that a connection can reach, or a server with all of them. */
export type LimitName =
  | "maxConnections"
  | "maxConnectionsPerAddress"
  | "maxInFlight"
  | "outboundHighWaterBytes"
  | "maxBufferedBytes"
  | "connTimeoutMs"
  | "frameTimeoutMs"
  | "idleTimeoutMs"
  | "handlerTimeoutMs"
  | "writeTimeoutMs"
  | "drainTimeoutMs"
  | "handshakeTimeoutMs"
  | "requestTimeoutMs";

/**
 * A limit was reached.
 *
 * @example
 * ```ts
 * import { LimitError, serve, type ServerEvent } from "@framewire/framewire";
 *
 * const log = (event: ServerEvent) => {
 *   if (event.type !== "closed" || !(event.reason.error instanceof LimitError)) return;
 *   const { limit, value } = event.reason.error; // "idleTimeoutMs", 600000
 *   console.warn(`connection ${event.connection} reached ${limit} ${value}`);
 * };
 * await using server = serve({ port: 0, onEvent: log }, () => {});
 * ```
 */
export class LimitError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "LimitError";
  /** Which. */
  readonly limit: LimitName;
  /** What it is set to, in the unit that its name says. */
  readonly value: number;

  /** Takes what happened, and the limit that it met. */
  constructor(what: string, limit: LimitName, value: number) {
    super(`${what}: ${limit} is ${value}`);
    this.limit = limit;
    this.value = value;
  }
}

/** @throws {RangeError} If a value is no integer from `minimum` to `maximum`. */
export function inRange(
  field: string,
  value: number,
  minimum: number,
  maximum = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isInteger(value) && value >= minimum && value <= maximum) return;
  throw new RangeError(`${field} must be an integer from ${minimum} to ${maximum}, and is ${value}`);
}
