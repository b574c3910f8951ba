#!/usr/bin/env -S deno run -A
/**
 * What does a server do with sessions that nobody thought of? {@linkcode fuzz} plays them, and shrinks the first one
 * that it gets wrong. `deno run -A testkit/fuzz.ts --help` tells about the program.
 *
 * @module
 */

import type { Dialect } from "../codec/mod.ts";
import { play, type Played, type PlayOptions } from "./fuzz/play.ts";
import { type Session, sessionOf } from "./fuzz/session.ts";
import { shrunk } from "./fuzz/shrink.ts";
import { newSeed } from "./random.ts";

export type { Played, PlayOptions } from "./fuzz/play.ts";
export type { FuzzFrame, Session } from "./fuzz/session.ts";

/** Options of {@linkcode fuzz}. */
export interface FuzzOptions {
  /** The server's port. */
  port: number;
  /** The server's host. @default {"127.0.0.1"} */
  hostname?: string;
  /** How answers' commands are numbered. @default {"spec"} */
  dialect?: Dialect;
  /** The longest frame that the server accepts, in bytes. @default {1_048_576} */
  maxFrameLength?: number;
  /** Where all draws begin: the same seed makes the same sessions. @default {a new one} */
  seed?: number;
  /** How many sessions are played, at most. @default {1000} */
  runs?: number;
  /** How many are played at once. @default {8} */
  jobs?: number;
  /** How long answers, and the end, may take. @default {2000} */
  timeoutMs?: number;
  /** Ends it when it is aborted. */
  signal?: AbortSignal;
  /** Called with the number of sessions that were played so far. */
  onRun?: (played: number) => void;
}

/** A session that a server gets wrong. */
export interface FuzzFailure extends Played {
  /** What is wrong, in words. */
  readonly failure: string;
  /** Where all draws began. */
  readonly seed: number;
  /** The number of the session that was drawn. */
  readonly run: number;
  /** The dialect that was spoken. */
  readonly dialect: Dialect;
  /** The limit that the server was taken to have, in bytes. */
  readonly maxFrameLength: number;
  /** The smallest one found that fails. */
  readonly session: Session;
}

/** What came of it. */
export interface FuzzResult {
  /** Where all draws began. */
  readonly seed: number;
  /** Sessions that were played, those of shrinking left out. */
  readonly runs: number;
  /** The first failure, shrunk; null where all went well. */
  readonly failure: FuzzFailure | null;
}

/**
 * Plays sessions of the submit protocol that were drawn from a seed and broken here and there, and judges a server by
 * what docs/protocol.md says is due for their bytes. Ends at the first that the server gets wrong.
 *
 * @throws {Error} If the server cannot be connected to at the first try.
 *
 * @example A server that answers with another's id is found out
 * ```ts
 * import { fuzz, startSoundServer } from "@framewire/framewire/testkit";
 * import { assertEquals } from "@std/assert";
 *
 * await using sound = startSoundServer();
 * assertEquals((await fuzz({ port: sound.port, seed: 1, runs: 40 })).failure, null);
 *
 * await using broken = startSoundServer({ mutation: "ids-swapped" });
 * const { failure } = await fuzz({ port: broken.port, seed: 1, runs: 40 });
 * assertEquals(failure?.session.frames.length, 2);
 * ```
 */
export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const { seed = newSeed(), runs = 1000, jobs = 8, signal, onRun } = options, where = playOptions(options);
  let next = 0, played = 0, first: number | null = null, broken: unknown = null;
  const worker = async () => {
    while (next < runs && first === null && broken === null && !signal?.aborted) {
      const run = next++;
      try {
        if ((await play(sessionOf(seed, run, where), where)).failure !== null) {
          first = Math.min(first ?? run, run);
        }
        played++;
        onRun?.(played);
      } catch (error) {
        // Where it could be connected to before, not to be is a failure of its own.
        if (played === 0) broken ??= error;
        else first = Math.min(first ?? run, run);
      }
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  if (broken !== null) throw broken;
  if (first === null) return { seed, runs: played, failure: null };
  const run: number = first,
    fails = async (session: Session) => (await replay(session, options)).failure !== null;
  const session = await shrunk(sessionOf(seed, run, where), fails), last = await replay(session, options);
  const { dialect, maxFrameLength } = where;
  // It failed among others; alone it may not.
  const failure = last.failure ?? "it failed while others were played, and not by itself";
  return { seed, runs: played, failure: { ...last, failure, seed, run, dialect, maxFrameLength, session } };
}

/** Plays one session; a server that cannot be connected to fails it. */
export async function replay(session: Session, options: FuzzOptions): Promise<Played> {
  try {
    return await play(session, playOptions(options));
  } catch (error) {
    return { failure: `the server cannot be connected to: ${(error as Error).message}`, due: [], came: "" };
  }
}

function playOptions(options: FuzzOptions): PlayOptions {
  const { port, hostname = "127.0.0.1", dialect = "spec", maxFrameLength = 1_048_576, timeoutMs = 2000 } =
    options;
  for (
    const [name, value, least] of [
      ["runs", options.runs ?? 1, 1],
      ["jobs", options.jobs ?? 1, 1],
      ["timeoutMs", timeoutMs, 1],
      // Below this, there is no room for the frames that are not broken.
      ["maxFrameLength", maxFrameLength, 128],
    ] as const
  ) {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new RangeError(`${name} must be an integer of at least ${least}, and is ${value}`);
    }
  }
  return { port, hostname, dialect, maxFrameLength, timeoutMs };
}

async function main(): Promise<void> {
  const { runFuzz } = await import("./fuzz/program.ts");
  await runFuzz(Deno.args, { fuzz, replay });
}

if (import.meta.main) main();
