// The one timer that all deadlines share.

import { assert, assertEquals } from "@std/assert";
import { Ticker } from "../transport/deadline.ts";
import { until } from "./support/wait.ts";

/** Counts what is ticked. */
class Counter {
  readonly ticks: number[] = [];
  tick(now: number): void {
    this.ticks.push(now);
  }
}

Deno.test("Ticker ticks for all that it was given, and no more for what was taken away", async () => {
  const ticker = new Ticker(20), first = new Counter(), second = new Counter();
  ticker.add(first);
  await until(() => first.ticks.length === 2, "two ticks");
  ticker.add(second);
  await until(() => second.ticks.length === 2, "two ticks for both");
  ticker.delete(first);
  await until(() => second.ticks.length === 4, "two ticks for the other");
  ticker.delete(second);
  assertEquals([first.ticks, second.ticks], [[1, 2, 3, 4], [3, 4, 5, 6]]);
});

Deno.test("Ticker meets no deadline early when it goes on with a tick that was under way", async () => {
  const limitMs = 40, ticker = new Ticker(limitMs);
  const early: number[] = [];
  for (let i = 0; i < 10; i++) {
    const start = performance.now(), due = ticker.after(limitMs), counter = new Counter();
    ticker.add(counter);
    await until(() => ticker.now >= due, "the deadline");
    const passedMs = performance.now() - start;
    if (passedMs < limitMs - 1) early.push(passedMs); // timers count whole milliseconds
    ticker.delete(counter);
    await new Promise((resolve) => setTimeout(resolve, i)); // the tick under way goes on for a while
  }
  assertEquals(early, []);
});

Deno.test("Ticker has one timer under way however often it is left and taken up again", async () => {
  const { timeout } = AbortSignal;
  let timers = 0;
  AbortSignal.timeout = (ms) => {
    timers++;
    return timeout.call(AbortSignal, ms);
  };
  try {
    const ticker = new Ticker(60_000), counter = new Counter();
    for (let i = 0; i < 1000; i++) {
      ticker.add(counter);
      ticker.delete(counter);
    }
    assertEquals(timers, 1);
    const fast = new Ticker(20);
    fast.add(counter);
    fast.delete(counter);
    await new Promise((resolve) => setTimeout(resolve, 30)); // it rings for nobody
    fast.add(counter);
    await until(() => counter.ticks.length > 0, "it ticks again");
    fast.delete(counter);
    assertEquals(counter.ticks.length, 1);
    assert(timers >= 3 && timers <= 4, `${timers} timers`);
  } finally {
    AbortSignal.timeout = timeout;
  }
});

Deno.test("Ticker keeps a process alive while it ticks for something, and no longer", async () => {
  const ends = async (script: string) => {
    const module = JSON.stringify(new URL("../transport/deadline.ts", import.meta.url).href);
    const { stdout, code } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", `import { Ticker } from ${module};\nconst ticker = new Ticker(40);\n${script}`],
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0);
    return new TextDecoder().decode(stdout);
  };
  const counts = "const each = { tick(now) { console.log(now); if (now === 3) ticker.delete(each); } };";
  assertEquals(await ends(`${counts} ticker.add(each);`), "1\n2\n3\n");
  assertEquals(await ends(`${counts} ticker.add(each); ticker.delete(each);`), "");
});
