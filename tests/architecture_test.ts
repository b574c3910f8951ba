// The tree shows the architecture: imports point one way, and the codec is pure.

import { assertEquals } from "@std/assert";

const root = new URL("../", import.meta.url);

/** The rooms from the bottom up; each may import itself and those before it. */
const rooms = ["codec", "transport", "server", "client", "cli", "testkit"] as const;

/** What a room may not import although it lies below. */
const strangers: Record<string, readonly string[]> = { client: ["server"] };

function roomOf(path: string): string {
  const [first, ...rest] = path.split("/");
  // server.ts and client.ts are the doors of their rooms.
  return rest.length > 0 ? first! : first!.replace(/\.ts$/, "");
}

async function* sources(folder = ""): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(new URL(folder, root))) {
    const path = `${folder}${name}`;
    if (isDirectory) {
      if ((rooms as readonly string[]).includes(path.split("/")[0]!)) yield* sources(`${path}/`);
    } else if (name.endsWith(".ts")) yield path;
  }
}

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
  readonly dynamic: boolean;
}

/** All imports of the published modules, those in comments left out. */
async function imports(): Promise<Import[]> {
  const found: Import[] = [];
  for await (const from of sources()) {
    const code = (await Deno.readTextFile(new URL(from, root))).replaceAll(
      /\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm,
      "",
    );
    for (
      const [, kind, to] of code.matchAll(
        /\b(import type|export type|import|export)\s[^"';]*?from "([^"]+)"/g,
      )
    ) {
      const path = to!.startsWith(".") ? new URL(to!, new URL(from, root)).href.slice(root.href.length) : to!;
      found.push({ from, to: path, typeOnly: kind!.endsWith("type"), dynamic: false });
    }
    for (const [, to] of code.matchAll(/\bimport\("([^"]+)"\)/g)) {
      found.push({
        from,
        to: new URL(to!, new URL(from, root)).href.slice(root.href.length),
        typeOnly: false,
        dynamic: true,
      });
    }
  }
  return found;
}

Deno.test("the modules import one another one way", async () => {
  const all = await imports();
  assertEquals(all.length > 50, true, "the imports were not found");
  const wrong = all.filter(({ from, to, dynamic }) => {
    const [importer, imported] = [roomOf(from), roomOf(to)];
    if (!/\.ts$/.test(to) || importer === "mod") return false;
    if (importer === imported) return false;
    // A program is loaded by its module when that is run.
    if (dynamic && imported === "cli") return false;
    const below = (rooms as readonly string[]).slice(0, (rooms as readonly string[]).indexOf(importer));
    return !below.includes(imported) || (strangers[importer] ?? []).includes(imported);
  });
  assertEquals(wrong, []);
});

Deno.test("mod.ts and all that it loads import nothing but one another", async () => {
  const packages = (await imports()).filter(({ from, to }) =>
    !/^(?:cli|testkit)\//.test(from) && /^(?:@|node:)/.test(to)
  );
  assertEquals(packages, []);
});

for (
  const [room, forbidden] of [
    ["codec", /\bDeno\.|setTimeout|setInterval|AbortSignal\.timeout|\bfetch\(/],
    [
      "server",
      /setTimeout|setInterval|AbortSignal\.timeout|\bconsole\.|Deno\.(?!listen\b|Addr|NetAddr|TcpConn|Listener|args|errors)/,
    ],
    ["client", /setTimeout|setInterval|AbortSignal\.timeout|\bconsole\.|Deno\.(?!args|errors)/],
  ] as const
) {
  Deno.test(`${room} does nothing that belongs to another room`, async () => {
    const found: string[] = [];
    for await (const path of sources()) {
      if (roomOf(path) !== room) continue;
      const code = (await Deno.readTextFile(new URL(path, root))).replaceAll(
        /\/\*[\s\S]*?\*\/|\/\/.*$/gm,
        "",
      );
      const match = forbidden.exec(code);
      if (match) found.push(`${path}: ${match[0]}`);
    }
    assertEquals(found, []);
  });
}

Deno.test("no published module waits at its top level", async () => {
  const found: string[] = [];
  for await (const path of sources()) {
    if (/^(?:await|for await)\b/m.test(await Deno.readTextFile(new URL(path, root)))) found.push(path);
  }
  assertEquals(found, []);
});
