// The fault proxy's HTTP API, driven by toxiproxy's own client for Node, and the program around it.

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { type Proxy, Toxiproxy } from "toxiproxy-node-client";
import { type ProxyApi, serveProxies } from "../testkit/proxy/api.ts";
import type { ProxyEvent } from "../testkit/proxy.ts";
import { RawPeer } from "./support/peer.ts";
import { Program } from "./support/program.ts";
import { marked, plainFrame, RawServer } from "./support/raw_server.ts";
import { until, within } from "./support/wait.ts";

/** An API, its client, and an upstream server. */
class Bench implements AsyncDisposable {
  readonly api: ProxyApi = serveProxies({ port: 0, seed: 7 });
  readonly url = `http://127.0.0.1:${this.api.addr.port}`;
  readonly client = new Toxiproxy(this.url);
  readonly upstream = new RawServer();

  /** A proxy that the client made. */
  create(name = "redis"): Promise<Proxy> {
    return this.client.createProxy({
      name,
      listen: "localhost:0",
      upstream: `127.0.0.1:${this.upstream.port}`,
    });
  }

  /** Sends a request by hand; its status and what it says. */
  async ask(
    method: string,
    path: string,
    body?: unknown,
    headers: HeadersInit = {},
  ): Promise<[number, unknown]> {
    const text = body === undefined ? null : typeof body === "string" ? body : JSON.stringify(body);
    const response = await fetch(`${this.url}${path}`, { method, body: text, headers });
    const said = await response.text();
    return [response.status, /^[{[]/.test(said) ? JSON.parse(said) : said];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.upstream[Symbol.dispose]();
    await within(this.api[Symbol.asyncDispose](), "the end of the API", 15_000);
  }
}

function portOf({ listen }: Proxy): number {
  return Number(listen.split(":").at(-1));
}

Deno.test("toxiproxy's client makes, reads, changes and removes proxies", async () => {
  await using bench = new Bench();
  assertMatch(await bench.client.getVersion(), /^\{"version": ?"2\.\d+\.\d+"\}\s*$/);
  const proxy = await bench.create();
  assertMatch(proxy.listen, /^127\.0\.0\.1:\d+$/);
  assertEquals([proxy.name, proxy.enabled], ["redis", true]);
  assertEquals((await bench.client.get("redis")).toJson(), proxy.toJson());
  assertEquals(Object.keys(await bench.client.getAll()), ["redis"]);

  const { listen, upstream } = proxy;
  const down = await proxy.update({ enabled: false, listen, upstream });
  assertEquals(down.enabled, false);
  await assertRejects(() => RawPeer.connect(portOf(proxy)), Deno.errors.ConnectionRefused);
  await bench.client.reset();
  assertEquals((await bench.client.get("redis")).enabled, true);
  await proxy.remove();
  assertEquals(await bench.client.getAll(), {});
});

Deno.test("toxiproxy's client populates, again and again", async () => {
  await using bench = new Bench();
  const list = ["a", "b"].map((name) => ({
    name,
    listen: "localhost:0",
    upstream: `127.0.0.1:${bench.upstream.port}`,
  }));
  const { a, b } = await bench.client.populate(list);
  using open = await RawPeer.connect(portOf(a!));
  using server = await bench.upstream.accept();
  const again = await bench.client.populate(list);
  assertEquals([again.a!.listen, again.b!.listen], [a!.listen, b!.listen]);
  await open.write(marked(1, 10));
  assertEquals(await server.readExactly(10), marked(1, 10));
  // Another upstream makes another proxy.
  await bench.client.populate([{ ...list[0]!, upstream: "127.0.0.1:1" }]);
  assertEquals((await bench.client.get("a")).upstream, "127.0.0.1:1");
  assertEquals(await open.readToEnd(), new Uint8Array(0));
});

Deno.test("toxiproxy's client adds, reads, changes and removes toxics, which strike", async () => {
  await using bench = new Bench();
  const proxy = await bench.create();
  const toxic = await proxy.addToxic({
    name: "limit",
    type: "limit_data",
    stream: "upstream",
    toxicity: 1,
    attributes: { bytes: 5 },
  });
  const read = await proxy.getToxic("limit");
  assertEquals(read.toJson(), {
    name: "limit",
    type: "limit_data",
    stream: "upstream",
    toxicity: 1,
    attributes: { bytes: 5 },
  });
  const upload = async () => {
    using client = await RawPeer.connect(portOf(proxy));
    using server = await bench.upstream.accept();
    await client.write(marked(1, 20));
    await client.closeWrite();
    return (await server.readToEnd()).length;
  };
  assertEquals(await upload(), 5);
  const changed = await toxic.update({ ...toxic.toJson(), attributes: { bytes: 7 } });
  assertEquals(changed.attributes, { bytes: 7 });
  assertEquals(await upload(), 7);
  await toxic.remove();
  assertEquals(await upload(), 20);
});

Deno.test("toxiproxy's client adds each of toxiproxy's toxics, and others, with what it leaves out", async () => {
  await using bench = new Bench();
  const proxy = await bench.create();
  // As JavaScript calls it: its types ask for more than toxiproxy does.
  const add = async (body: object) => {
    const { name, stream, toxicity, attributes } = await proxy.addToxic(
      body as Parameters<Proxy["addToxic"]>[0],
    );
    assertEquals([stream, toxicity], ["downstream", 1]);
    return [name, attributes];
  };
  for (
    const [type, given, complete] of [
      ["latency", { latency: 10 }, { latency: 10, jitter: 0 }],
      ["bandwidth", { rate: 1000 }, { rate: 1000 }],
      ["slow_close", { delay: 5 }, { delay: 5 }],
      ["timeout", {}, { timeout: 0 }],
      ["reset_peer", { timeout: 5 }, { timeout: 5 }],
      ["slicer", { average_size: 9 }, { average_size: 9, size_variation: 0, delay: 0 }],
      ["limit_data", { bytes: 9 }, { bytes: 9 }],
      ["packet_loss", { loss_rate: 0.5 }, { loss_rate: 0.5, correlation: 0 }],
      ["noop", undefined, {}],
      ["corrupt", { share: 0.1 }, { share: 0.1 }],
      ["limit_time", { time: 5 }, { time: 5 }],
      ["half_open", {}, {}],
    ] as const
  ) assertEquals(await add({ type, attributes: given }), [`${type}_downstream`, complete]);
  const [, toxics] = await bench.ask("GET", "/proxies/redis/toxics");
  assertEquals((toxics as unknown[]).length, 12);
  await bench.client.reset();
  assertEquals(await bench.ask("GET", "/proxies/redis/toxics"), [200, []]);
});

Deno.test("toxiproxy's client learns of an error", async () => {
  await using bench = new Bench();
  // The client leaves the body of an error unread, which would be a leak of the test's.
  const { fetch } = globalThis;
  globalThis.fetch = async (...request) => {
    const response = await fetch(...request);
    return new Response(await response.arrayBuffer(), response);
  };
  try {
    await assertRejects(() => bench.client.get("none"), Error, "404");
    await bench.create();
    await assertRejects(() => bench.create(), Error, "409");
  } finally {
    globalThis.fetch = fetch;
  }
});

Deno.test("the API answers what is wrong with toxiproxy's statuses and errors", async () => {
  await using bench = new Bench();
  await bench.create();
  await bench.ask("POST", "/proxies/redis/toxics", { type: "noop" });
  const upstream = "127.0.0.1:1";
  for (
    const [method, path, body, status, error] of [
      ["GET", "/proxies/none", undefined, 404, "proxy not found"],
      ["DELETE", "/proxies/none", undefined, 404, "proxy not found"],
      ["GET", "/proxies/none/toxics", undefined, 404, "proxy not found"],
      ["GET", "/proxies/redis/toxics/none", undefined, 404, "toxic not found"],
      ["PATCH", "/proxies/redis/toxics/none", {}, 404, "toxic not found"],
      ["POST", "/proxies", { upstream }, 400, "missing required field: name"],
      ["POST", "/proxies", { name: "a" }, 400, "missing required field: upstream"],
      ["POST", "/proxies", { name: "redis", upstream }, 409, "proxy already exists"],
      ["POST", "/proxies", "{", 400, /^bad request body: /],
      ["POST", "/proxies", { name: "a", upstream: "nowhere" }, 400, /"nowhere" is no address as HOST:PORT/],
      ["POST", "/populate", [{ name: "a" }], 400, "missing required field: upstream at proxy 1"],
      ["POST", "/populate", {}, 400, /^bad request body: /],
      ["POST", "/proxies/redis/toxics", { type: "none" }, 400, "invalid toxic type"],
      [
        "POST",
        "/proxies/redis/toxics",
        { type: "noop", stream: "up" },
        400,
        "stream was invalid, can be either upstream or downstream",
      ],
      ["POST", "/proxies/redis/toxics", { type: "noop" }, 409, "toxic already exists"],
      [
        "POST",
        "/proxies/redis/toxics",
        { type: "latency", attributes: { latency: "1" } },
        400,
        /latency must be a number of at least 0, and is "1"/,
      ],
    ] as [string, string, unknown, number, string | RegExp][]
  ) {
    const [met, said] = await bench.ask(method, path, body);
    const { error: message, status: inBody } = said as { error: string; status: number };
    assertEquals([met, inBody], [status, status], `${method} ${path}: ${JSON.stringify(said)}`);
    if (typeof error === "string") assertEquals(message, error);
    else assertMatch(message, error);
  }
  assertEquals((await bench.ask("GET", "/none"))[0], 404);
  assertEquals((await bench.ask("PUT", "/proxies"))[0], 404);
  // Nothing of what was refused is there.
  assertEquals([...bench.api.proxies.keys()], ["redis"]);
});

Deno.test("the API keeps browsers out", async () => {
  await using bench = new Bench();
  const [status] = await bench.ask("GET", "/proxies", undefined, { "user-agent": "Mozilla/5.0 (X11)" });
  assertEquals(status, 403);
});

Deno.test("the API tells counts while connections are open", async () => {
  await using bench = new Bench();
  const proxy = await bench.create();
  using client = await RawPeer.connect(portOf(proxy));
  using server = await bench.upstream.accept();
  await client.write(marked(1, 1000));
  await server.readExactly(1000);
  await bench.ask("POST", "/proxies/redis/toxics", {
    type: "frame_drop",
    stream: "upstream",
    attributes: { nth: 1 },
  });
  await client.write(plainFrame(marked(1, 10)), plainFrame(marked(2, 10)));
  assertEquals(await server.readExactly(14), plainFrame(marked(2, 10)));
  await until(() => bench.api.proxies.get("redis")!.stats().upstream.writtenBytes === 1014, "it is counted");
  const [, json] = await bench.ask("GET", "/proxies/redis");
  const { stats, seed } = json as { stats: Record<string, unknown>; seed: number };
  assertEquals(seed, 7);
  assertEquals(
    [stats.connectionsOpen, stats.upstream, stats.faults],
    [1, { readBytes: 1028, writtenBytes: 1014 }, { frame_drop_upstream: 1 }],
  );
  const [, metrics] = await bench.ask("GET", "/metrics");
  const of = `proxy="redis",listener="${proxy.listen}",upstream="${proxy.upstream}"`;
  for (
    const line of [
      `toxiproxy_proxy_received_bytes_total{direction="upstream",${of}} 1028`,
      `toxiproxy_proxy_sent_bytes_total{direction="upstream",${of}} 1014`,
      `framewire_proxy_connections_open{${of}} 1`,
      `framewire_proxy_faults_total{toxic="frame_drop_upstream",${of}} 1`,
    ]
  ) assert((metrics as string).includes(`\n${line}\n`), `${line} in ${metrics}`);
});

Deno.test("PATCH changes what POST does", async () => {
  await using bench = new Bench();
  await bench.create();
  const [, toxic] = await bench.ask("POST", "/proxies/redis/toxics", {
    type: "latency",
    attributes: { latency: 5 },
  });
  assertEquals(await bench.ask("PATCH", "/proxies/redis/toxics/latency_downstream", { toxicity: 0.5 }), [
    200,
    {
      ...toxic as object,
      toxicity: 0.5,
    },
  ]);
  const [status, proxy] = await bench.ask("PATCH", "/proxies/redis", { enabled: false });
  assertEquals([status, (proxy as { enabled: boolean }).enabled], [200, false]);
});

/** The command lines that `--help` shows at its end. */
async function examples(): Promise<string[]> {
  await using program = new Program("testkit/proxy.ts", ["--help"], ["-A"]);
  assertEquals(await program.exit(), 0);
  const [, end] = program.stdout.split("Examples:\n");
  return end!.split("\n").filter((line) => line.startsWith("  deno run ")).map((line) => line.trim());
}

Deno.test("testkit/proxy.ts --help ends with three examples that serve the API", async () => {
  const lines = await examples();
  assertEquals(lines.length, 3);
  for (const line of lines) {
    const words = line.split(" ").slice(3);
    // On a port of the test's own.
    await using program = new Program(words[0]!, [...words.slice(1), "--api", "127.0.0.1:0"], ["-A"]);
    await program.says("listening on ");
    const [, url, seed] = program.stdout.match(/listening on (127\.0\.0\.1:\d+), seed (\d+)\n/)!;
    if (line.includes("--seed 7")) assertEquals(seed, "7");
    const response = await fetch(`http://${url}/proxies`);
    assertEquals(Object.keys(await response.json()), line.includes("--config") ? ["submit"] : []);
    program.signal("SIGTERM");
    assertEquals([await program.exit(), program.stderr], [0, ""]);
  }
});

Deno.test("testkit/proxy.ts writes a trace, the same faults for the same seed", async () => {
  const folder = await Deno.makeTempDir();
  const faults: unknown[] = [];
  try {
    for (const run of ["one", "two"]) {
      using upstream = new RawServer();
      const config = `${folder}/config.json`, trace = `${folder}/${run}.jsonl`;
      const toxics = [{ type: "frame_drop", stream: "upstream", attributes: { share: 0.3 } }];
      const list = [{ name: "a", listen: "127.0.0.1:0", upstream: `127.0.0.1:${upstream.port}`, toxics }];
      await Deno.writeTextFile(config, JSON.stringify(list));
      await using program = new Program(
        "testkit/proxy.ts",
        ["--api", "127.0.0.1:0", "--config", config, "--seed", "42", "--trace", trace],
        ["-A"],
      );
      await program.says("listening on ");
      using client = await RawPeer.connect(Number(program.stdout.match(/^a: 127\.0\.0\.1:(\d+) to /)![1]));
      using server = await upstream.accept();
      for (let i = 0; i < 40; i++) await client.write(plainFrame(marked(i, 20)));
      await client.closeWrite();
      const { length } = await server.readToEnd();
      await server.closeWrite();
      await client.readToEnd();
      program.signal("SIGINT");
      assertEquals(await program.exit(), 0);
      const events = (await Deno.readTextFile(trace)).trim().split("\n").map((line) =>
        JSON.parse(line) as ProxyEvent
      );
      assertEquals([events[0]!.type, events.at(-1)!.type], ["opened", "closed"]);
      const struck = events.filter((event) => event.type === "fault").map(({ atMs, ...fault }) => {
        assertEquals(typeof atMs, "number");
        return fault;
      });
      assertEquals(length, (40 - struck.length) * 24);
      assert(struck.length > 3, `${struck.length} faults`);
      faults.push(struck);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  assertEquals(faults[0], faults[1]);
});

Deno.test("testkit/proxy.ts says what is wrong in one line", async () => {
  const folder = await Deno.makeTempDir(), bad = `${folder}/bad.json`, wrong = `${folder}/wrong.json`;
  await Deno.writeTextFile(bad, "{");
  await Deno.writeTextFile(wrong, JSON.stringify([{ name: "a" }]));
  using taken = new RawServer();
  try {
    for (
      const [args, status, line] of [
        [
          ["--api", "nowhere"],
          2,
          /^proxy: --api needs HOST:PORT, and got nowhere; --help shows what there is\n$/,
        ],
        [
          ["--api", `127.0.0.1:${taken.port}`],
          1,
          /^proxy: cannot listen on 127.*: the port is in use; choose/,
        ],
        [
          ["--config", `${folder}/none.json`],
          2,
          /^proxy: --config names .*none.json, which cannot be read \(NotFound\)/,
        ],
        [["--config", bad], 2, /^proxy: --config names .*bad.json, which is no JSON/],
        [
          ["--api", "127.0.0.1:0", "--config", wrong],
          2,
          /^proxy: cannot begin with .*wrong.json: missing required field: upstream at proxy 1\n$/,
        ],
        [
          ["--trace", `${folder}/none/trace`],
          2,
          /^proxy: --trace names .*none\/trace, which cannot be written \(NotFound\)/,
        ],
      ] as [string[], number, RegExp][]
    ) {
      await using program = new Program("testkit/proxy.ts", args, ["-A"]);
      assertEquals(await program.exit(), status, program.stderr);
      assertMatch(program.stderr, line);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
