// Does the conformance suite bite? Every way to break a small sound server must fail the cases that it names.

import { assertEquals } from "@std/assert";
import { runConformance } from "../testkit/conformance/runner.ts";
import { isBad } from "../testkit/conformance/result.ts";
import { type Mutation, mutations, type SoundServerOptions, startSoundServer } from "../testkit/mutants.ts";
import { launchSound } from "./support/conformance.ts";

/** Runs cases against a mutant, and returns the ids of those that fail. */
async function failing(options: SoundServerOptions, select: string, timeoutMs: number): Promise<string[]> {
  await using server = startSoundServer(options);
  const results = await runConformance({
    port: server.port,
    dialect: options.dialect ?? "spec",
    strict: true,
    select,
    timeoutMs,
    launch: launchSound(options),
    memory: () => server.heldBytes,
  });
  return results.filter(isBad).map(({ id }) => id);
}

/** Short, so that what never comes is not waited for; but a sound server must pass within it. */
function limitOf({ name }: Mutation): number {
  return name === "lingers-for-ever" ? 900 : 400;
}

Deno.test("the conformance suite fails every mutant of a sound server, in the cases that its mutation names", async (t) => {
  const failed = new Map<Mutation, string[]>(), queue = mutations[Symbol.iterator]();
  await Promise.all(Array.from({ length: 6 }, async () => {
    for (const mutation of queue) {
      failed.set(
        mutation,
        await failing({ mutation: mutation.name }, mutation.fails.join(","), limitOf(mutation)),
      );
    }
  }));
  assertEquals(failed.size >= 24, true);
  for (const [{ name, breaks, fails }, ids] of failed) {
    await t.step(
      `${name}: ${breaks}: fails ${ids.join(", ")}`,
      () => assertEquals(ids.toSorted(), [...fails].toSorted()),
    );
  }
});

Deno.test("the conformance suite does not say that a target stopped when its own process was held up", async () => {
  let times = 0;
  const holdingUp = setInterval(() => {
    if (++times === 5) clearInterval(holdingUp);
    for (const start = performance.now(); performance.now() - start < 350;);
  }, 25);
  try {
    assertEquals(await failing({ mutation: "never-stops-reading" }, "7.2/1", 10_000), ["7.2/1"]);
    assertEquals(times, 5);
  } finally {
    clearInterval(holdingUp);
  }
});
