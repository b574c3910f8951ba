// docs/reliability.md names tests: are they there?

import { assertEquals, assertGreaterOrEqual } from "@std/assert";

const document = await Deno.readTextFile(new URL("../docs/reliability.md", import.meta.url));
const rows = document.split("\n").filter((line) => /^\|.*`\w+_test\.ts`/.test(line));

Deno.test("docs/reliability.md has a row for each of at least 30 faults", () => {
  assertGreaterOrEqual(rows.length, 30);
});

Deno.test("docs/reliability.md names tests that exist, in every row", async () => {
  const missing: string[] = [];
  for (const row of rows) {
    for (const [, file, words] of row.matchAll(/`(\w+_test\.ts)` "([^"]+)"/g)) {
      const source = await Deno.readTextFile(new URL(file!, import.meta.url));
      if (!source.includes(words!)) missing.push(`${file}: ${words}`);
    }
  }
  assertEquals(missing, []);
});
