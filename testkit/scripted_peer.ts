// A peer that does as it is told: a real socket that plays a script, step by step.

import type { FrameFormatOptions } from "../codec/format.ts";
import { assertBytesEqual } from "./hex.ts";
import { Wire, type WireEnd, WireError } from "./wire.ts";
import { WireListener } from "./wire_listener.ts";

/** One step of a script. */
export type ScriptStep =
  /** Sends bytes, each chunk of an array by itself. */
  | { readonly send: Uint8Array | readonly Uint8Array[] }
  /** Waits until a promise resolves, or one that is made when the step's turn comes. */
  | { readonly wait: PromiseLike<unknown> | (() => PromiseLike<unknown>) }
  /** Waits for a time, in milliseconds. */
  | { readonly pauseMs: number }
  /** Reads as many bytes and fails where they are not these; the format marks frames in what is then shown. */
  | { readonly expect: Uint8Array; readonly format?: FrameFormatOptions }
  /** Waits until the other side ends so, with no byte before. */
  | { readonly expectEnd: Exclude<WireEnd, "open"> }
  /** Ends this side; reading goes on. */
  | "fin"
  /** Resets the connection. */
  | "reset";

/** Where a {@linkcode scriptedPeer} stands, and how long it waits. */
export type ScriptedPeerOptions =
  & (
    /** Listens, and plays with the first who connects; port 0 takes a free one, as does none. */
    | { readonly listen: true; readonly port?: number }
    /** Connects. */
    | { readonly listen?: false; readonly port: number }
  )
  & {
    /** Where to listen or to connect to. @default {"127.0.0.1"} */
    readonly hostname?: string;
    /** How long the connection and each step that reads may take, in milliseconds. @default {5000} */
    readonly timeoutMs?: number;
  };

/** A peer that plays its script; closing it closes its socket, wherever the script is. */
export interface ScriptedPeer extends AsyncDisposable {
  /** Where it listens, or is connected to. */
  readonly port: number;
  /** Resolves when the script is through; rejects with a {@linkcode ScriptError} that names the step that failed. */
  readonly done: Promise<void>;
}

/** A step of a script failed. */
export class ScriptError extends Error {
  /** Names the class, also in a minified program. */
  override readonly name = "ScriptError";
  /** Which step, from 1 on; 0 is the connection itself. */
  readonly step: number;

  /** Takes the step, what it is, and why it failed. */
  constructor(step: number, what: string, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause);
    super(`Step ${step} of the script (${what}) failed: ${why}`, { cause });
    this.step = step;
  }
}

/**
 * Makes a peer with a real socket that plays a script with whoever is at the other side, and then leaves the
 * connection as it is. Resolves when it listens, or is connected.
 *
 * Leaving its scope closes the socket, and throws where a step has failed and nobody asked for `done`.
 *
 * @throws {Error} What the system says, where it cannot listen or connect.
 *
 * @example A server that answers in two pieces, and resets
 * ```ts
 * import { scriptedPeer } from "@framewire/framewire/testkit";
 * import { connect, SubmitError } from "@framewire/framewire/client";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const submit = Uint8Array.fromHex("0000000e02303030303030303161");
 * const answer = Uint8Array.fromHex("0000000e82303030303030303100");
 * await using peer = await scriptedPeer({ listen: true }, [
 *   { expect: submit },
 *   { send: [answer.subarray(0, 3), answer.subarray(3)] },
 *   { expect: Uint8Array.fromHex("0000000e02303030303030303262") },
 *   "reset",
 * ]);
 * await using client = await connect({ port: peer.port, reconnect: false });
 * assertEquals((await client.submit("a")).result, 0);
 * await assertRejects(() => client.submit("b"), SubmitError);
 * await peer.done;
 * ```
 */
export async function scriptedPeer(
  options: ScriptedPeerOptions,
  script: readonly ScriptStep[],
): Promise<ScriptedPeer> {
  const { hostname = "127.0.0.1", timeoutMs = 5000 } = options, closing = new AbortController();
  const source = options.listen
    ? await listening(hostname, options.port ?? 0)
    : connected(await Wire.connect({ hostname, port: options.port }), options.port);
  const done = play(source.wire, [...script], timeoutMs, closing.signal);
  let failure: unknown = null, asked = false;
  const settled = done.catch((error) => void (failure = closing.signal.aborted ? null : error));
  return {
    port: source.port,
    get done() {
      asked = true;
      return done;
    },
    async [Symbol.asyncDispose]() {
      closing.abort(new Error("the peer was closed"));
      await source.close();
      await settled;
      if (failure !== null && !asked) throw failure;
    },
  };
}

interface Source {
  readonly port: number;
  readonly wire: Promise<Wire>;
  close(): Promise<void>;
}

function connected(wire: Wire, port: number): Source {
  return { port, wire: Promise.resolve(wire), close: () => wire[Symbol.asyncDispose]() };
}

async function listening(hostname: string, port: number): Promise<Source> {
  const listener = await WireListener.listen({ hostname, port });
  return {
    port: listener.port,
    wire: listener.accept(),
    close: () => listener[Symbol.asyncDispose](),
  };
}

async function play(
  connection: Promise<Wire>,
  script: readonly ScriptStep[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  let wire: Wire;
  try {
    wire = await unless(signal, connection, timeoutMs, "nobody has connected");
  } catch (error) {
    throw new ScriptError(0, "the connection", error);
  }
  for (const [index, step] of script.entries()) {
    try {
      signal.throwIfAborted();
      await take(wire, step, timeoutMs, signal);
    } catch (error) {
      throw new ScriptError(index + 1, typeof step === "string" ? step : Object.keys(step)[0]!, error);
    }
  }
}

async function take(wire: Wire, step: ScriptStep, timeoutMs: number, signal: AbortSignal): Promise<void> {
  if (step === "fin") return wire.fin();
  if (step === "reset") return wire.reset();
  if ("send" in step) {
    const sending = step.send instanceof Uint8Array ? wire.send(step.send) : wire.sendChunked(step.send);
    return await unless(signal, sending, timeoutMs, "the other side does not read");
  }
  if ("wait" in step) {
    const fact = typeof step.wait === "function" ? step.wait() : step.wait;
    return void await unless(signal, fact, timeoutMs, "what it waits for did not happen");
  }
  if ("pauseMs" in step) return await unless(signal, null, step.pauseMs, null);
  if ("expectEnd" in step) {
    const { bytes, end } = await wire.readToEnd({ timeoutMs });
    if (bytes.length > 0) assertBytesEqual(bytes, new Uint8Array(0), { message: "bytes before the end" });
    const met = end === "open" ? `none came within ${timeoutMs} ms` : `${end} came`;
    if (end !== step.expectEnd) throw new Error(`${step.expectEnd} was expected, and ${met}`);
    return;
  }
  const show = step.format === undefined ? {} : { format: step.format };
  try {
    assertBytesEqual(await wire.readExactly(step.expect.length, { timeoutMs }), step.expect, show);
  } catch (error) {
    if (error instanceof WireError) {
      assertBytesEqual(error.bytes, step.expect, { ...show, message: error.message });
    }
    throw error;
  }
}

/** The promise's value, unless the signal is aborted before, or `ms` are over; then `late` says what failed, if any. */
async function unless<T>(
  signal: AbortSignal,
  promise: PromiseLike<T> | null,
  ms: number,
  late: string | null,
): Promise<T> {
  const { promise: other, resolve, reject } = Promise.withResolvers<T>();
  const abort = () => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  const timer = setTimeout(
    () => late === null ? resolve(undefined as T) : reject(new Error(`${late} within ${ms} ms`)),
    ms,
  );
  try {
    return await (promise === null ? other : Promise.race([promise, other]));
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}
