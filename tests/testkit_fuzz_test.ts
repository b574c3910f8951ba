// The fuzzer: does it find what is broken, and nothing where nothing is?

import { assert, assertEquals, assertMatch } from "@std/assert";
import { serve } from "../mod.ts";
import { fuzz, mutations, replay, startSoundServer } from "../testkit/mod.ts";
import { dueFor, judge } from "../testkit/fuzz/oracle.ts";
import { bytesOf, chunksOf, sessionOf } from "../testkit/fuzz/session.ts";
import { joined } from "./support/peer.ts";
import { runExamples } from "./support/examples.ts";
import { Program, serverProgram } from "./support/program.ts";

const maxFrameLength = 4096;
const seed = 7;
/** FUZZ_RUNS asks for a longer search, in which half of all mutants must be found. */
const long = Deno.env.get("FUZZ_RUNS");

/** Mutants that few sessions find. */
const easy = [
  "length-without-itself",
  "little-endian",
  "cut-header-lost",
  "first-of-chunk",
  "ids-swapped",
  "dialect-mixed-up",
  "unknown-skipped",
  "answers-lost-at-end",
];

async function found(mutation: string, runs: number): Promise<string | null> {
  await using server = startSoundServer({ mutation, maxFrameLength });
  const { failure } = await fuzz({ port: server.port, maxFrameLength, seed, runs, timeoutMs: 250 });
  return failure === null ? null : failure.failure;
}

for (const name of easy) {
  Deno.test(`fuzz() finds the mutant ${name} within 60 sessions of seed ${seed}`, async () => {
    assert(await found(name, 60) !== null);
  });
}

if (long !== undefined) {
  Deno.test(`fuzz() finds half of the mutants within ${long} sessions of seed ${seed}`, async () => {
    const missed: string[] = [];
    for (const { name } of mutations) {
      const failure = await found(name, Number(long));
      if (failure === null) missed.push(name);
      Deno.stderr.writeSync(new TextEncoder().encode(`${name}: ${failure ?? "not found"}\n`));
    }
    assert(missed.length * 2 <= mutations.length, `missed: ${missed.join(", ")}`);
  });
}

for (const dialect of ["spec", "legacy"] as const) {
  Deno.test(`fuzz() finds nothing in a sound server of dialect ${dialect}`, async () => {
    await using server = startSoundServer({ dialect, maxFrameLength });
    assertEquals((await fuzz({ port: server.port, dialect, maxFrameLength, seed, runs: 120 })).failure, null);
  });
  Deno.test(`fuzz() finds nothing in serve() of dialect ${dialect}`, async () => {
    await using server = serve({ port: 0, dialect, maxFrameLength }, () => {});
    const result = await fuzz({ port: server.addr.port, dialect, maxFrameLength, seed, runs: 120 });
    assertEquals(result, { seed, runs: 120, failure: null });
  });
}

Deno.test("fuzz() shrinks a failure to what makes it, and replay() plays it again", async () => {
  await using broken = startSoundServer({ mutation: "little-endian", maxFrameLength });
  const options = { port: broken.port, maxFrameLength, seed, runs: 60, timeoutMs: 250 };
  const { failure } = await fuzz(options);
  assert(failure !== null);
  const { frames, cuts, end, bytes } = failure.session;
  assertEquals([frames.length, cuts.length, end, bytes, frames[0]!.payload], [1, 0, "fin", undefined, 0]);
  assert((await replay(failure.session, options)).failure !== null);
  await using sound = startSoundServer({ maxFrameLength });
  assertEquals((await replay(failure.session, { ...options, port: sound.port })).failure, null);
});

Deno.test("sessionOf() draws the same session for a seed and a number, and others for others", () => {
  const sessions = Array.from({ length: 300 }, (_, run) => sessionOf(seed, run, { maxFrameLength }));
  assertEquals(sessions, Array.from({ length: 300 }, (_, run) => sessionOf(seed, run, { maxFrameLength })));
  assert(new Set(sessions.map((session) => JSON.stringify(session))).size > 290);
  const ends = new Set(sessions.map(({ end }) => end));
  assertEquals(ends.size, 3);
  assert(sessions.some((session) => dueFor(bytesOf(session), "spec", maxFrameLength).error !== null));
});

Deno.test("chunksOf() gives all bytes of a session, cut", () => {
  for (let run = 0; run < 100; run++) {
    const session = sessionOf(seed, run, { maxFrameLength });
    assertEquals(joined(...chunksOf(session)), bytesOf(session));
  }
});

Deno.test("the oracle owes what the protocol says", () => {
  const hex = (text: string) => Uint8Array.fromHex(text.replaceAll(" ", ""));
  const one = "0000000e 02 3030303030303031 ff", conn = "0000000d 01 3030303030303032";
  for (
    const [bytes, answers, error] of [
      ["", [], null],
      [one, ["823030303030303031"], null],
      [conn + one, ["813030303030303032", "823030303030303031"], null],
      [one.slice(0, -2), [], null],
      [`${one} 0000000c 02 3030303030303031`, ["823030303030303031"], "a length of 12 at byte 14"],
      [`${one} 0000000c 02`, ["823030303030303031"], null],
      ["00000003", [], "a length of 3 at byte 0"],
      [`00001001 ${one}`, [], "a length of 4097 at byte 0, above the limit"],
      [`0000000d 03 3030303030303031 ${one}`, [], "command 3 at byte 0"],
    ] as const
  ) assertEquals(dueFor(hex(bytes), "spec", maxFrameLength), { answers: [...answers], connAck: 0x81, error });
  const due = dueFor(hex(conn + conn + one), "spec", maxFrameLength);
  const ack = (command: string, id: string, result: string) => `0000000e ${command} ${id} ${result}`;
  const [c, s] = [(r: string) => ack("81", "3030303030303032", r), ack("82", "3030303030303031", "00")];
  for (
    const [came, partial, wrong] of [
      [c("00") + s + c("01"), false, null],
      [c("00") + s, true, null],
      [c("00") + s, false, /1 of 3 answers did not come/],
      [c("00") + c("00") + s, false, /2 CONNs were accepted/],
      [s + s, true, /is not due, or came already/],
      [`0000000f${s.slice(8)}`, true, /says that its length is 15/],
      [s.slice(0, -5), false, /are no whole answer/],
    ] as const
  ) {
    const said = judge(due, hex(came), partial);
    if (wrong === null) assertEquals(said, null);
    else assertMatch(said!, wrong);
  }
});

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  await using program = new Program("testkit/fuzz.ts", args, ["-A"]);
  await program.endInput();
  const code = await program.exit();
  return { code, stdout: program.stdout, stderr: program.stderr };
}

Deno.test("fuzz.ts saves what it finds, and replays it", async () => {
  await using broken = startSoundServer({ mutation: "id-of-seven" });
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    const target = `127.0.0.1:${broken.port}`;
    const first = await run("--target", target, "--seed", "7", "--timeout-ms", "250", "--save", file);
    assertEquals([first.code, first.stderr], [1, ""]);
    assertMatch(first.stdout, /^seed 7, session \d+ of \d+\n× .*\n(?: {2}.*\n)+sent\n.*\|00 00 00 0d 02 /);
    const again = await run("--target", target, "--timeout-ms", "250", "--replay", file);
    assertEquals(again.code, 1);
    await using sound = startSoundServer();
    const mended = await run("--target", `127.0.0.1:${sound.port}`, "--replay", file);
    assertEquals([mended.code, mended.stdout], [0, "the session is answered as it should be\n"]);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("fuzz.ts exits with 2 and one line when there is no server, or a flag is wrong", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
  listener.close();
  for (
    const [args, message] of [
      [["--target", `127.0.0.1:${port}`], /^fuzz: cannot connect to 127\.0\.0\.1:\d+: .*\n$/],
      [[], /^fuzz: --target needs HOST:PORT.*\n$/],
      [["--target", "127.0.0.1:1", "--runs", "0"], /^fuzz: --runs must be .*\n$/],
      [["--target", "127.0.0.1:1", "--replay", "deno.json"], /^fuzz: --replay names deno.json.*\n$/],
    ] as const
  ) {
    const { code, stdout, stderr } = await run(...args);
    assertEquals([code, stdout], [2, ""], stderr);
    assertMatch(stderr, message);
  }
});

Deno.test("fuzz.ts --help ends with three examples that find nothing in the server", async () => {
  const { server, port } = await serverProgram("--quiet");
  await using _ = server;
  for (const { line, code, stdout, stderr } of await runExamples("testkit/fuzz.ts", port)) {
    assertEquals([code, stderr], [0, ""], `${line}: ${stdout}`);
    assertMatch(stdout, /^seed \d+: \d+ sessions, all as they should be\n$/);
  }
});
