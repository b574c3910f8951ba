// The fuzzer as a program: what it found, in words and in bytes, a file to play it again, and an exit status.

import { type Given, type Usage, UsageError } from "../../cli/flags.ts";
import { ProgramError, readFlagFile, runProgram } from "../../cli/program.ts";
import { submitFormat } from "../../codec/mod.ts";
import { addressOf } from "../address.ts";
import type { fuzz, FuzzFailure, FuzzOptions, replay } from "../fuzz.ts";
import { hexDump } from "../hex.ts";
import { bytesOf, wordsOf } from "./session.ts";

const usage: Usage = {
  name: "deno run -A testkit/fuzz.ts",
  summary:
    "Plays broken sessions of the submit protocol to a server, and shrinks the first that it gets wrong.",
  flags: {
    target: { kind: "text", value: "HOST:PORT", help: "the server" },
    dialect: { kind: ["spec", "legacy"], help: "how answers' commands are numbered (spec)" },
    "max-frame-length": {
      kind: "integer",
      value: "BYTES",
      help: "the longest frame that it accepts (1048576)",
    },
    seed: { kind: "integer", value: "N", help: "where all draws begin (a new one, which is printed)" },
    runs: { kind: "integer", value: "N", help: "how many sessions (1000)" },
    jobs: { kind: "integer", value: "N", help: "how many at once (8)" },
    "timeout-ms": { kind: "integer", value: "MS", help: "how long answers, and the end, may take (2000)" },
    save: { kind: "text", value: "FILE", help: "where a failure is saved (fuzz-SEED.json)" },
    replay: { kind: "text", value: "FILE", help: "play the session of a saved failure, and no other" },
  },
  examples: [
    ["A thousand sessions", "deno run -A testkit/fuzz.ts --target 127.0.0.1:8888"],
    ["The same ones each time", "deno run -A testkit/fuzz.ts --target 127.0.0.1:8888 --seed 7 --runs 200"],
    [
      "One at a time, and give up sooner",
      "deno run -A testkit/fuzz.ts --target 127.0.0.1:8888 --runs 50 --jobs 1 --timeout-ms 1000",
    ],
  ],
};

/** Runs the program, to its end. */
export function runFuzz(
  args: readonly string[],
  library: { readonly fuzz: typeof fuzz; readonly replay: typeof replay },
): Promise<never> {
  return runProgram(args, usage, (given) => run(given, library));
}

/** 0 where the server gets all right, 1 where it does not, 2 where it cannot be connected to. */
async function run(
  given: Given,
  library: { readonly fuzz: typeof fuzz; readonly replay: typeof replay },
): Promise<number> {
  const address = addressOf(given.text("target") ?? "");
  if (address === null) throw new UsageError("--target needs HOST:PORT");
  const options: FuzzOptions = { ...address };
  const dialect = given.text("dialect"), maxFrameLength = given.integer("max-frame-length");
  if (dialect !== undefined) options.dialect = dialect as "spec" | "legacy";
  if (maxFrameLength !== undefined) options.maxFrameLength = maxFrameLength;
  for (const name of ["seed", "runs", "jobs"] as const) {
    const value = given.integer(name);
    if (value !== undefined) options[name] = value;
  }
  const timeoutMs = given.integer("timeout-ms"), file = given.text("replay");
  if (timeoutMs !== undefined) options.timeoutMs = timeoutMs;
  if (file !== undefined) {
    return await replayed(parseFailure(file, readFlagFile("replay", file)), options, library);
  }
  let result: Awaited<ReturnType<typeof fuzz>>;
  try {
    result = await library.fuzz(options);
  } catch (error) {
    if (error instanceof RangeError) throw error;
    throw new ProgramError(
      `cannot connect to ${address.hostname}:${address.port}: ${(error as Error).message}`,
      2,
    );
  }
  const { seed, runs, failure } = result;
  if (failure === null) {
    say(`seed ${seed}: ${runs} sessions, all as they should be`);
    return 0;
  }
  const path = given.text("save") ?? `fuzz-${seed}.json`;
  Deno.writeTextFileSync(path, `${JSON.stringify(failure, null, 2)}\n`);
  say(
    `seed ${seed}, session ${failure.run} of ${runs}\n${
      told(failure)
    }\nsaved to ${path}; --replay plays it again`,
  );
  return 1;
}

async function replayed(
  saved: FuzzFailure,
  options: FuzzOptions,
  library: { readonly replay: typeof replay },
): Promise<number> {
  const { dialect, maxFrameLength } = saved;
  const played = await library.replay(saved.session, { dialect, maxFrameLength, ...options });
  if (played.failure === null) {
    say("the session is answered as it should be");
    return 0;
  }
  say(told({ ...saved, ...played, failure: played.failure }));
  return 1;
}

function told({ failure, session, due, came }: FuzzFailure): string {
  const format = submitFormat(), dump = (bytes: Uint8Array) => hexDump(bytes, { format, maxBytes: 512 });
  return [
    `× ${failure}`,
    ...wordsOf(session).map((line) => `  ${line}`),
    "sent",
    dump(bytesOf(session)),
    `due   ${due.length === 0 ? "nothing" : due.slice(0, 20).join(" ")}${due.length > 20 ? " …" : ""}`,
    came === "" ? "came  nothing" : `came\n${dump(Uint8Array.fromHex(came))}`,
  ].join("\n");
}

function parseFailure(path: string, text: string): FuzzFailure {
  try {
    const saved = JSON.parse(text) as FuzzFailure;
    bytesOf(saved.session); // what is no session cannot be made bytes of
    return saved;
  } catch {
    throw new UsageError(`--replay names ${path}, which is no saved failure`);
  }
}

function say(text: string): void {
  const bytes = new TextEncoder().encode(`${text}\n`);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}
