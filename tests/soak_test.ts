// Hundreds of clients through random faults: does every submit end, and does its outcome tell the truth?
// SOAK_SECONDS makes it longer, SEED repeats its draws.

import { assertEquals, assertGreater } from "@std/assert";
import { type Client, connect, serve, SubmitError } from "../mod.ts";
import { between, faultProxy, newSeed, type Random, randomFrom, type Toxic } from "../testkit/mod.ts";
import { within } from "./support/wait.ts";

const seconds = Number(Deno.env.get("SOAK_SECONDS") ?? 20);
const clientCount = 200;

/** Slices and delays, and ends of both kinds at moments that are drawn. */
function toxicsFrom(random: Random): Toxic[] {
  const toxics: Toxic[] = [];
  for (const stream of ["upstream", "downstream"] as const) {
    toxics.push(
      { type: "slicer", stream, toxicity: 0.5, attributes: { average_size: 60, size_variation: 59 } },
      { type: "latency", stream, toxicity: 0.2, attributes: { latency: 25, jitter: 25 } },
    );
    for (let i = 0; i < 4; i++) {
      // Most connections carry some hundred bytes of requests, and a third of that of answers.
      const bytes = between(random, 1, stream === "upstream" ? 600 : 200);
      const timeout = between(random, 0, 40), toxicity = 0.08;
      toxics.push(
        { type: "limit_data", name: `cut ${i} ${stream}`, stream, toxicity, attributes: { bytes } },
        { type: "reset_peer", name: `reset ${i} ${stream}`, stream, toxicity, attributes: { timeout } },
      );
    }
  }
  return toxics;
}

Deno.test("every submit through random faults ends with an outcome that is true", async () => {
  const seed = Number(Deno.env.get("SEED") ?? newSeed()), random = randomFrom(seed);
  const label = `SEED=${seed}`;
  /** How often the handler saw a payload, all of which are different. */
  const seen = new Map<string, number>();
  const server = serve({ port: 0, poison: true, maxInFlight: 16 }, async ({ payload }) => {
    const text = new TextDecoder().decode(payload);
    seen.set(text, (seen.get(text) ?? 0) + 1);
    if (random() < 0.3) await new Promise((resolve) => setTimeout(resolve, between(random, 0, 5)));
    return text.endsWith("7") ? 1 : 0;
  });
  const proxy = await faultProxy({ upstream: server.addr, toxics: toxicsFrom(random), seed });
  const outcomes = { accepted: 0, refused: 0, unsent: 0, unknown: 0 };
  const lies: string[] = [];
  const end = performance.now() + seconds * 1000;

  const submit = async (client: Client, text: string, idempotent: boolean) => {
    let outcome: keyof typeof outcomes;
    try {
      ({ outcome } = await client.submit(text, { idempotent }));
    } catch (error) {
      if (!(error instanceof SubmitError)) throw error;
      ({ outcome } = error);
    }
    outcomes[outcome]++;
    const times = seen.get(text) ?? 0;
    if ((outcome === "accepted" || outcome === "refused") && times === 0) {
      lies.push(`${text} ${outcome}, not handled`);
    }
    if (outcome === "unsent" && times > 0) lies.push(`${text} unsent, handled ${times} times`);
    if (outcome === "accepted" && text.endsWith("7")) lies.push(`${text} accepted, refused by the handler`);
    if (!idempotent && times > 1) lies.push(`${text} handled ${times} times`);
  };

  const run = async (number: number) => {
    let submitted = 0;
    while (performance.now() < end) {
      let client: Client;
      try {
        client = await connect({
          port: proxy.addr.port,
          window: 8,
          requestTimeoutMs: 5000,
          connectTimeoutMs: 5000,
          reconnect: number % 3 === 0 ? false : { minDelayMs: 1, maxDelayMs: 50 },
          ...(number % 2 === 0 ? { name: `client ${number}` } : {}),
        });
      } catch {
        continue; // the fault came before the session: tried again
      }
      const batch = Array.from({ length: between(random, 1, 40) }, () => {
        const text = `${number}/${submitted++}/${"x".repeat(between(random, 0, 60))}${submitted % 10}`;
        return submit(client, text, number % 5 === 0);
      });
      if (number % 4 === 0) await client.end();
      await Promise.all(batch);
      await client.close();
    }
    return submitted;
  };
  const counts = await within(
    Promise.all(Array.from({ length: clientCount }, (_, i) => run(i))),
    `the end of all clients, ${label}`,
    (seconds + 60) * 1000,
  );
  const { faults } = proxy.stats();
  await proxy[Symbol.asyncDispose]();
  await within(server.shutdown(), `the end of the server, ${label}`, 30_000);

  const submitted = counts.reduce((sum, count) => sum + count, 0);
  assertEquals(lies, [], label);
  const { accepted, refused, unsent, unknown } = outcomes;
  assertEquals(accepted + refused + unsent + unknown, submitted, label);
  assertGreater(accepted, clientCount, label);
  for (const { name, type } of proxy.toxics) {
    if (type === "slicer" || type === "latency") continue; // they harm nothing, and are not counted
    assertGreater(faults[name] ?? 0, 0, `${name} never struck, ${label}`);
  }
  const { connectionsOpen, inFlight } = server.stats();
  assertEquals({ connectionsOpen, inFlight }, { connectionsOpen: 0, inFlight: 0 }, label);
});
