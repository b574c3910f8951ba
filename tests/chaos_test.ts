// Load through a proxy that hurts it: whatever happens on the way, no answer is wrong, and nothing is left behind.

import { assert, assertEquals, assertGreater, assertMatch } from "@std/assert";
import { serve } from "../mod.ts";
import { faultProxy, load, newSeed, type Toxic } from "../testkit/mod.ts";
import { until } from "./support/wait.ts";

const seed = Number(Deno.env.get("SEED") ?? newSeed());

const toxics: Toxic[] = [
  { type: "slicer", stream: "upstream", attributes: { average_size: 40, size_variation: 30, delay: 0 } },
  { type: "slicer", stream: "downstream", attributes: { average_size: 20, size_variation: 15, delay: 0 } },
  { type: "latency", stream: "downstream", toxicity: 0.5, attributes: { latency: 2, jitter: 2 } },
  { type: "limit_data", stream: "upstream", toxicity: 0.3, attributes: { bytes: 5000 } },
  { type: "limit_data", stream: "downstream", toxicity: 0.2, attributes: { bytes: 1234 } },
  { type: "reset_peer", stream: "upstream", toxicity: 0.2, attributes: { timeout: 30 } },
];

Deno.test(`serve() gives no wrong answer to a load through faults, SEED=${seed}`, async () => {
  await using server = serve({ port: 0, poison: true }, async ({ payload }) => {
    if (payload[0] === 255) await Promise.resolve();
  });
  {
    await using proxy = await faultProxy({ upstream: server.addr, toxics, seed, resettable: true });
    const result = await load({
      target: `127.0.0.1:${proxy.addr.port}`,
      connections: 20,
      window: 16,
      payload: 30,
      durationMs: 3000,
      timeoutMs: 2000,
    });
    const { sent, answered, lost, duplicated, unknown, refused, errors } = result;
    assertEquals(sent, answered + lost);
    assertEquals([duplicated, unknown, refused], [0, 0, 0]);
    // The only protocol error that a cut connection makes is an answer without its end.
    if (errors.protocol > 0) assertMatch(result.messages.protocol!, /bytes into an answer/);
    assertGreater(answered, 100);
    const struck = Object.values(proxy.stats().faults).reduce((sum, count) => sum + count, 0);
    assert(struck > 0 && errors.read + errors.ended + errors.write + errors.protocol > 0, "no fault struck");
    // Whatever was answered was handled, and what was handled was sent.
    const { handled } = server.stats();
    assert(answered <= handled && handled <= sent, `${answered} answered, ${handled} handled, ${sent} sent`);
  }
  await until(() => server.stats().connectionsOpen === 0, "the server has closed what the proxy left");
  assertEquals(server.stats().inFlight, 0);
  const after = await load({ target: `127.0.0.1:${server.addr.port}`, requests: 500, connections: 4 });
  assertEquals([after.answered, after.lost], [500, 0]);
});
