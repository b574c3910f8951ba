// The fault proxy as a library: what passes untouched, and what each toxic does to it.

import {
  assert,
  assertEquals,
  assertGreater,
  assertLessOrEqual,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { encodeFrame } from "../codec/mod.ts";
import {
  type FaultProxy,
  faultProxy,
  type FaultProxyOptions,
  type ProxyEvent,
  type Toxic,
} from "../testkit/proxy.ts";
import { newSeed } from "../testkit/random.ts";
import { Wire } from "../testkit/wire.ts";
import { WireListener } from "../testkit/wire_listener.ts";
import { joined, RawPeer } from "./support/peer.ts";
import { marked, plainFrame, plainFramesIn, RawServer, sameBytes } from "./support/raw_server.ts";
import { Recorder, settled, until, within } from "./support/wait.ts";

const seed = Number(Deno.env.get("SEED") ?? newSeed());
const label = `SEED=${seed}`;

/** A proxy, and both ends of its first connection. */
class Proxied implements AsyncDisposable {
  readonly client: RawPeer;
  readonly server: RawPeer;
  readonly proxy: FaultProxy;
  readonly events: Recorder<ProxyEvent>;
  readonly #listener: RawServer;

  private constructor(
    client: RawPeer,
    server: RawPeer,
    proxy: FaultProxy,
    events: Recorder<ProxyEvent>,
    listener: RawServer,
  ) {
    this.client = client;
    this.server = server;
    this.proxy = proxy;
    this.events = events;
    this.#listener = listener;
  }

  static async open(toxics: Toxic[] = [], options: Partial<FaultProxyOptions> = {}): Promise<Proxied> {
    const listener = new RawServer(), events = new Recorder<ProxyEvent>();
    const proxy = await faultProxy({
      upstream: { port: listener.port },
      toxics,
      seed,
      onEvent: events.record,
      ...options,
    });
    const client = await RawPeer.connect(proxy.addr.port);
    return new Proxied(client, await listener.accept(), proxy, events, listener);
  }

  /** Sends bytes up, half-closes, and gives what comes to the server up to its end. */
  async upload(...chunks: Uint8Array[]): Promise<Uint8Array> {
    const sent = this.client.write(...chunks).then(() => this.client.closeWrite()).catch(() => {});
    const bytes = await this.server.readToEnd();
    await sent;
    return bytes;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client[Symbol.dispose]();
    this.server[Symbol.dispose]();
    this.#listener[Symbol.dispose]();
    await within(this.proxy[Symbol.asyncDispose](), "the end of the proxy", 15_000);
    const { connectionsOpen, bufferedBytes } = this.proxy.stats();
    assertEquals({ connectionsOpen, bufferedBytes }, { connectionsOpen: 0, bufferedBytes: 0 }, label);
  }
}

/** Twenty frames, of four bytes of length and 5 to 24 of body. */
const frames = Array.from({ length: 20 }, (_, i) => plainFrame(marked(i, i + 5)));
const frameBytes = joined(...frames);

/** The toxics that keep every byte and the order, as strong as a short test can bear. */
const lossless: Toxic[] = [
  { type: "latency", stream: "upstream", attributes: { latency: 2, jitter: 2 } },
  { type: "bandwidth", stream: "upstream", attributes: { rate: 20_000 } },
  { type: "slicer", stream: "upstream", attributes: { average_size: 4096, size_variation: 4000 } },
  { type: "slow_close", stream: "upstream", attributes: { delay: 5 } },
  { type: "noop", stream: "upstream" },
];

for (const kind of ["Deno's sockets", "sockets that can be reset"]) {
  const options = { resettable: kind !== "Deno's sockets" };

  Deno.test(`faultProxy() passes bytes and each FIN by itself through ${kind}`, async () => {
    await using proxied = await Proxied.open([], options);
    const up = marked(1, 1_000_000), down = marked(2, 3_000_000);
    assertEquals(await proxied.upload(up), up);
    // The client's FIN has gone through; the other direction runs on.
    await proxied.server.write(marked(3, 10));
    assertEquals(await proxied.client.readExactly(10), marked(3, 10));
    const sent = proxied.server.write(down).then(() => proxied.server.closeWrite());
    assertEquals(await proxied.client.readToEnd(), down);
    await sent;
    const closed = await proxied.events.first((event) => event.type === "closed", "closed");
    assertEquals(closed.why, "ended");
    assertEquals(closed.upstream, { readBytes: up.length, writtenBytes: up.length });
    assertEquals(closed.downstream, { readBytes: down.length + 10, writtenBytes: down.length + 10 });
  });

  Deno.test(`faultProxy() passes a FIN from the server first through ${kind}`, async () => {
    await using proxied = await Proxied.open([], options);
    await proxied.server.closeWrite();
    assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
    assertEquals(await proxied.upload(marked(1, 1000)), marked(1, 1000));
  });

  Deno.test(`faultProxy() stops reading when the other side does not read, through ${kind}`, async () => {
    await using proxied = await Proxied.open([], options);
    const all = marked(1, 24_000_000);
    let sent = 0;
    const sending = (async () => {
      for (; sent < all.length; sent += 65_536) await proxied.client.write(all.subarray(sent, sent + 65_536));
      await proxied.client.closeWrite();
    })();
    await settled(() => sent);
    assert(sent < all.length, `all ${sent} bytes were taken`);
    assertLessOrEqual(proxied.proxy.stats().bufferedBytes, 600_000);
    // Right while the connection is open.
    const { readBytes, writtenBytes } = proxied.proxy.stats().upstream;
    assertLessOrEqual(readBytes, sent + 65_536);
    assertLessOrEqual(readBytes - writtenBytes, 600_000);
    assertEquals((await proxied.server.readToEnd()).length, all.length);
    await sending;
  });

  Deno.test(`faultProxy() closes a client and says why when its upstream is down, on ${kind}`, async () => {
    const events = new Recorder<ProxyEvent>();
    let port: number;
    {
      using gone = new RawServer();
      port = gone.port;
    }
    await using proxy = await faultProxy({ upstream: { port }, onEvent: events.record, ...options });
    for (let i = 1; i <= 3; i++) {
      using client = await RawPeer.connect(proxy.addr.port);
      await client.readToEnd().catch((error) => assert(error instanceof Deno.errors.ConnectionReset));
      const closed = await events.first(
        (event): event is Extract<ProxyEvent, { type: "closed" }> =>
          event.type === "closed" && event.connection === i,
        "closed",
      );
      assertEquals(closed.why, "upstream-failed");
    }
    assertEquals(events.items.filter(({ type }) => type === "upstream-failed").length, 3);
    assertEquals(proxy.stats().upstreamFailures, 3);
  });

  Deno.test(`faultProxy() holds nothing after many connections through ${kind}`, async () => {
    using listener = new RawServer();
    await using proxy = await faultProxy({ upstream: { port: listener.port }, ...options });
    for (let i = 0; i < 200; i++) {
      using client = await RawPeer.connect(proxy.addr.port);
      using server = await listener.accept();
      await client.write(marked(i, 100));
      await server.readExactly(100);
      // Each way to end in its turn: both FINs, an abrupt close on either side.
      if (i % 3 === 0) {
        await client.closeWrite();
        await server.closeWrite();
        await client.readToEnd();
      }
    }
    await until(() => proxy.stats().connectionsOpen === 0, "no connection is open");
    const { connectionsAccepted, bufferedBytes } = proxy.stats();
    assertEquals({ connectionsAccepted, bufferedBytes }, { connectionsAccepted: 200, bufferedBytes: 0 });
  });
}

Deno.test("faultProxy() passes a reset on as a reset when it is resettable", async () => {
  await using server = await WireListener.listen();
  await using proxy = await faultProxy({ upstream: { port: server.port }, resettable: true });
  using client = await RawPeer.connect(proxy.addr.port);
  await client.write(marked(1, 10));
  const upstream = await server.accept();
  await upstream.readExactly(10);
  upstream.reset();
  await assertRejects(() => client.readToEnd(), Deno.errors.ConnectionReset);

  await using again = await Wire.connect({ port: proxy.addr.port });
  await until(() => proxy.stats().connectionsAccepted === 2, "the second connection");
  again.reset();
  await until(() => proxy.stats().connectionsOpen === 0, "no connection is open");
});

Deno.test("faultProxy() lets other connections be when one is reset", async () => {
  await using proxied = await Proxied.open();
  await using other = await Wire.connect({ port: proxied.proxy.addr.port });
  await until(() => proxied.proxy.stats().connectionsOpen === 2, "two connections");
  other.reset();
  await until(() => proxied.proxy.stats().connectionsOpen === 1, "one connection");
  assertEquals(await proxied.upload(marked(1, 5000)), marked(1, 5000));
});

for (const toxic of lossless) {
  Deno.test(`${toxic.type} keeps every byte, the order and the FIN`, async () => {
    await using proxied = await Proxied.open([toxic]);
    const bytes = marked(1, 500_000);
    assertEquals(await proxied.upload(bytes), bytes, label);
    await proxied.server.write(marked(2, 10));
    assertEquals(await proxied.client.readExactly(10), marked(2, 10));
  });
}

Deno.test("latency delays bytes and FIN", async () => {
  await using proxied = await Proxied.open([
    { type: "latency", stream: "upstream", attributes: { latency: 60 } },
    { type: "latency", stream: "downstream", attributes: { latency: 60 } },
  ]);
  const from = performance.now();
  await proxied.upload(marked(1, 10));
  await proxied.server.closeWrite();
  await proxied.client.readToEnd();
  assertGreater(performance.now() - from, 118);
});

Deno.test("latency keeps a bounded number of bytes", async () => {
  await using proxied = await Proxied.open([{
    type: "latency",
    stream: "upstream",
    attributes: { latency: 3_600_000 },
  }]);
  let sent = 0;
  const sending = (async () => {
    for (; sent < 32_000_000; sent += 65_536) await proxied.client.write(marked(1, 65_536));
  })().catch(() => {});
  await settled(() => sent);
  assertLessOrEqual(proxied.proxy.stats().bufferedBytes, 6_000_000);
  // What is kept for an hour goes out as soon as it may.
  proxied.proxy.updateToxic("latency_upstream", { attributes: { latency: 0 } });
  assertEquals(await proxied.server.readExactly(65_536), marked(1, 65_536));
  proxied.proxy.removeToxic("latency_upstream");
  await proxied.server.readExactly(8_000_000);
  proxied.client[Symbol.dispose]();
  proxied.server[Symbol.dispose]();
  await sending;
});

Deno.test("bandwidth lets a rate through, and nothing when it is 0", async () => {
  await using proxied = await Proxied.open([{
    type: "bandwidth",
    stream: "upstream",
    attributes: { rate: 500 },
  }]);
  const from = performance.now();
  await proxied.client.write(marked(1, 100_000));
  await proxied.server.readExactly(100_000);
  assertGreater(performance.now() - from, 150);
  proxied.proxy.updateToxic("bandwidth_upstream", { attributes: { rate: 0 } });
  await proxied.client.write(marked(2, 1000));
  await until(() => proxied.proxy.stats().upstream.readBytes === 101_000, "all is read");
  assertEquals(proxied.proxy.stats().upstream.writtenBytes, 100_000);
  proxied.proxy.updateToxic("bandwidth_upstream", { attributes: { rate: 1000 } });
  assertEquals(await proxied.server.readExactly(1000), marked(2, 1000));
});

Deno.test("slow_close delays FIN and no byte", async () => {
  await using proxied = await Proxied.open([{
    type: "slow_close",
    stream: "upstream",
    attributes: { delay: 3_600_000 },
  }]);
  await proxied.client.write(marked(1, 10));
  await proxied.client.closeWrite();
  assertEquals(await proxied.server.readExactly(10), marked(1, 10));
  proxied.proxy.removeToxic("slow_close_upstream");
  assertEquals(await proxied.server.readToEnd(), new Uint8Array(0));
});

Deno.test("timeout drops bytes and closes when its time is over", async () => {
  await using proxied = await Proxied.open([{
    type: "timeout",
    stream: "upstream",
    attributes: { timeout: 3_600_000 },
  }]);
  await proxied.client.write(marked(1, 10));
  await until(() => proxied.proxy.stats().upstream.readBytes === 10, "it is read");
  proxied.proxy.updateToxic("timeout_upstream", { attributes: { timeout: 1 } });
  assertEquals(await proxied.server.readToEnd(), new Uint8Array(0));
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
});

Deno.test("timeout of 0 is a black hole, and closes when it is removed", async () => {
  await using proxied = await Proxied.open([{
    type: "timeout",
    stream: "upstream",
    attributes: { timeout: 0 },
  }]);
  await proxied.client.write(marked(1, 10));
  await until(() => proxied.proxy.stats().upstream.readBytes === 10, "it is read");
  assertEquals(proxied.proxy.stats().upstream.writtenBytes, 0);
  proxied.proxy.removeToxic("timeout_upstream");
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
});

Deno.test("reset_peer resets both sides", async () => {
  await using proxied = await Proxied.open([{
    type: "reset_peer",
    stream: "upstream",
    attributes: { timeout: 10 },
  }]);
  await proxied.client.write(marked(1, 10));
  await assertRejects(() => proxied.client.readToEnd(), Deno.errors.ConnectionReset);
  await assertRejects(() => proxied.server.readToEnd(), Deno.errors.ConnectionReset);
});

Deno.test("reset_peer that is added strikes connections accepted from then on", async () => {
  await using proxied = await Proxied.open();
  const { port } = proxied.proxy.addr;
  await proxied.proxy.addToxic({ type: "reset_peer", stream: "upstream", attributes: { timeout: 0 } });
  assertEquals(proxied.proxy.addr.port, port);
  assertEquals(await proxied.upload(marked(1, 10)), marked(1, 10));
  using client = await RawPeer.connect(port);
  await client.write(marked(1, 10));
  await assertRejects(() => client.readToEnd(), Deno.errors.ConnectionReset);
});

Deno.test("reset_peer that is removed before its time loses nothing", async () => {
  await using proxied = await Proxied.open([
    { type: "reset_peer", stream: "upstream", attributes: { timeout: 3_600_000 } },
  ]);
  await proxied.client.write(marked(1, 10));
  await until(() => proxied.proxy.stats().upstream.readBytes === 10, "it is read");
  proxied.proxy.removeToxic("reset_peer_upstream");
  assertEquals(await proxied.upload(marked(2, 10)), joined(marked(1, 10), marked(2, 10)));
});

Deno.test("slicer cuts at the same bytes however they come", async () => {
  const attributes = { average_size: 100, size_variation: 50 };
  const cuts: number[][] = [];
  for (const chunks of [[frameBytes, frameBytes], [joined(frameBytes, frameBytes)]]) {
    await using proxied = await Proxied.open([{ type: "slicer", stream: "upstream", attributes }]);
    for (const chunk of chunks) {
      await proxied.client.write(chunk);
      const { length } = chunk;
      await proxied.server.readExactly(length);
    }
    let at = 0;
    cuts.push(proxied.events.items.flatMap((event) => event.type === "written" ? [at += event.bytes] : []));
  }
  // Where a chunk ends there is one more cut.
  assertEquals(new Set([...cuts[1]!, frameBytes.length]), new Set(cuts[0]!), label);
  assertGreater(cuts[0]!.length, 5);
});

Deno.test("limit_data closes once its bytes have passed", async () => {
  await using proxied = await Proxied.open([{
    type: "limit_data",
    stream: "upstream",
    attributes: { bytes: 1234 },
  }]);
  assertEquals(await proxied.upload(marked(1, 3000)), marked(1, 3000).subarray(0, 1234));
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
});

Deno.test("limit_time closes when its time is over", async () => {
  await using proxied = await Proxied.open([{ type: "limit_time", attributes: { time: 3_600_000 } }]);
  await proxied.client.write(marked(1, 10));
  assertEquals(await proxied.server.readExactly(10), marked(1, 10));
  proxied.proxy.updateToxic("limit_time_downstream", { attributes: { time: 1 } });
  assertEquals(await proxied.server.readToEnd(), new Uint8Array(0));
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
});

Deno.test("packet_loss drops chunks, all of them where the rate is 1", async () => {
  await using proxied = await Proxied.open([{
    type: "packet_loss",
    stream: "upstream",
    attributes: { loss_rate: 1 },
  }]);
  assertEquals(await proxied.upload(marked(1, 10)), new Uint8Array(0));
  proxied.proxy.updateToxic("packet_loss_upstream", { attributes: { loss_rate: 0, correlation: 1 } });
  assertEquals(proxied.proxy.stats().faults, { packet_loss_upstream: 1 });
});

Deno.test("packet_loss goes on behind a loss when it is correlated", async () => {
  await using proxied = await Proxied.open([
    { type: "packet_loss", stream: "upstream", attributes: { loss_rate: 1, correlation: 0 } },
  ]);
  const chunk = async (mark: number) => {
    const before = proxied.proxy.stats().upstream.readBytes;
    await proxied.client.write(marked(mark, 10));
    await until(() => proxied.proxy.stats().upstream.readBytes === before + 10, "it is read");
  };
  await chunk(1);
  proxied.proxy.updateToxic("packet_loss_upstream", { attributes: { loss_rate: 0, correlation: 1 } });
  await chunk(2);
  proxied.proxy.updateToxic("packet_loss_upstream", { attributes: { correlation: 0 } });
  assertEquals(await proxied.upload(marked(3, 10)), marked(3, 10));
});

Deno.test("corrupt changes the byte at an offset", async () => {
  await using proxied = await Proxied.open([{
    type: "corrupt",
    stream: "upstream",
    attributes: { offset: 700 },
  }]);
  const bytes = marked(1, 1000);
  assertEquals(differences(await proxied.upload(bytes), bytes), [700]);
});

Deno.test("corrupt changes the same share of the bytes when the seed is the same", async () => {
  const struck: number[][] = [], bytes = marked(1, 20_000);
  for (const chunks of [[bytes], [bytes.subarray(0, 7), bytes.subarray(7, 9000), bytes.subarray(9000)]]) {
    await using proxied = await Proxied.open([{
      type: "corrupt",
      stream: "upstream",
      attributes: { share: 0.01 },
    }]);
    struck.push(differences(await proxied.upload(...chunks), bytes));
    assertEquals(proxied.proxy.stats().faults.corrupt_upstream, struck[0]!.length);
  }
  assertEquals(struck[0], struck[1], label);
  assertGreater(struck[0]!.length, 100, label);
  assertLessOrEqual(struck[0]!.length, 320, label);
});

Deno.test("half_open swallows a FIN until it is removed", async () => {
  await using proxied = await Proxied.open([{ type: "half_open", stream: "upstream" }]);
  await proxied.client.write(marked(1, 10));
  await proxied.client.closeWrite();
  assertEquals(await proxied.server.readExactly(10), marked(1, 10));
  await proxied.events.first((event) => event.type === "fault", "the FIN is swallowed");
  await proxied.server.write(marked(2, 10));
  assertEquals(await proxied.client.readExactly(10), marked(2, 10));
  assert(!proxied.events.items.some(({ type }) => type === "fin"));
  proxied.proxy.removeToxic("half_open_upstream");
  assertEquals(await proxied.server.readToEnd(), new Uint8Array(0));
});

Deno.test("half_open ends with the other side's end", async () => {
  await using proxied = await Proxied.open([{ type: "half_open", stream: "upstream" }]);
  await proxied.client.closeWrite();
  await proxied.events.first((event) => event.type === "fault", "the FIN is swallowed");
  await proxied.server.closeWrite();
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
  await until(() => proxied.proxy.stats().connectionsOpen === 0, "no connection is open");
});

/** Frames by number, from 1. */
function numbered(...numbers: number[]): Uint8Array {
  return joined(...numbers.map((number) => frames[number - 1]!));
}
const all = frames.map((_, i) => i + 1);

for (
  const [toxic, expected] of [
    [{ type: "frame_drop", attributes: { nth: 3 } }, numbered(...all.filter((n) => n !== 3))],
    [{ type: "frame_drop", attributes: { every: 4 } }, numbered(...all.filter((n) => n % 4 !== 0))],
    [{ type: "frame_drop", attributes: { share: 1 } }, numbered()],
    [{ type: "frame_duplicate", attributes: { nth: 20 } }, numbered(...all, 20)],
    [
      { type: "frame_duplicate", attributes: { every: 10 } },
      numbered(...all.flatMap((n) => n % 10 ? [n] : [n, n])),
    ],
    [{ type: "frame_reorder", attributes: { nth: 1 } }, numbered(2, 1, ...all.slice(2))],
    [
      { type: "frame_reorder", attributes: { every: 1 } },
      numbered(...all.map((n) => n % 2 ? n + 1 : n - 1)),
    ],
    [{ type: "frame_reorder", attributes: { nth: 20 } }, numbered(...all)],
    [
      { type: "frame_truncate", attributes: { nth: 2, keep: 6 } },
      joined(frames[0]!, frames[1]!.subarray(0, 6), ...frames.slice(2)),
    ],
    [
      { type: "frame_length", attributes: { nth: 2, value: 0x01020304 } },
      joined(frames[0]!, new Uint8Array([1, 2, 3, 4]), frames[1]!.subarray(4), ...frames.slice(2)),
    ],
    [
      { type: "frame_length", attributes: { nth: 1, add: -6 } },
      joined(new Uint8Array([255, 255, 255, 255]), frames[0]!.subarray(4), ...frames.slice(1)),
    ],
  ] as [Toxic, Uint8Array][]
) {
  Deno.test(`${toxic.type} does so with ${JSON.stringify(toxic.attributes)} however bytes come`, async () => {
    for (const size of [65_536, 7, 1]) {
      // What comes to the toxic has been cut before.
      const slicer: Toxic = { type: "slicer", stream: "upstream", attributes: { average_size: size } };
      await using proxied = await Proxied.open([slicer, { ...toxic, stream: "upstream" }]);
      assertEquals(await proxied.upload(frameBytes), expected, `pieces of ${size}`);
    }
  });
}

Deno.test("frame_truncate cuts a random part, the same when the seed is the same", async () => {
  const received: Uint8Array[] = [];
  for (let i = 0; i < 2; i++) {
    await using proxied = await Proxied.open([{
      type: "frame_truncate",
      stream: "upstream",
      attributes: { share: 0.5 },
    }]);
    received.push(await proxied.upload(frameBytes));
  }
  assertEquals(received[0], received[1], label);
  assert(received[0]!.length < frameBytes.length, label);
});

Deno.test("frame_corrupt changes bytes of the frame, and not its length", async () => {
  await using proxied = await Proxied.open([
    { type: "frame_corrupt", stream: "upstream", attributes: { every: 2, count: 3 } },
  ]);
  const received = plainFramesIn(await proxied.upload(frameBytes));
  const changed = received.map((frame, i) => differences(frame, frames[i]!.subarray(4)).length);
  assertEquals(changed, frames.map((_, i) => i % 2 === 0 ? 0 : 3), label);
});

Deno.test("frame toxics follow any format", async () => {
  const format = {
    lengthFieldOffset: 3,
    lengthFieldLength: 2,
    byteOrder: "little",
    lengthAdjustment: 1,
  } as const;
  const odd = Array.from({ length: 6 }, (_, i) => encodeFrame(marked(i, 10 + i), format));
  await using proxied = await Proxied.open([{
    type: "frame_drop",
    stream: "upstream",
    attributes: { nth: 2, format },
  }]);
  assertEquals(await proxied.upload(...odd), joined(odd[0]!, ...odd.slice(2)));
});

Deno.test("frame toxics pass what is no frame, and what is left of one", async () => {
  const bad = joined(frames[0]!, new Uint8Array([255, 0, 0, 0, 1, 2, 3]), frames[1]!);
  const cut = joined(frames[0]!, frames[1]!.subarray(0, 7)),
    header = joined(frames[0]!, new Uint8Array([0, 0]));
  for (const bytes of [bad, cut, header]) {
    await using proxied = await Proxied.open([{
      type: "frame_reorder",
      stream: "upstream",
      attributes: { nth: 2 },
    }]);
    assertEquals(await proxied.upload(bytes), bytes);
  }
});

Deno.test("frame toxics let a frame through as its bytes come", async () => {
  await using proxied = await Proxied.open([{
    type: "frame_drop",
    stream: "upstream",
    attributes: { nth: 2 },
  }]);
  await proxied.client.write(frames[0]!.subarray(0, 6));
  assertEquals(await proxied.server.readExactly(6), frames[0]!.subarray(0, 6));
  assertEquals(
    await proxied.upload(frames[0]!.subarray(6), ...frames.slice(1, 3)),
    joined(frames[0]!.subarray(6), frames[2]!),
  );
});

Deno.test("a toxic that goes and comes while bytes pass loses none and swaps none", async () => {
  await using proxied = await Proxied.open();
  const bytes = marked(1, 3_000_000);
  let uploaded = false;
  const upload = proxied.upload(bytes).finally(() => uploaded = true);
  for (let i = 0; i < 40 && !uploaded; i++) {
    for (const toxic of lossless) await proxied.proxy.addToxic(toxic);
    await new Promise((resolve) => setTimeout(resolve, 2));
    proxied.proxy.updateToxic("slicer_upstream", { attributes: { average_size: 10_000 } });
    proxied.proxy.updateToxic("latency_upstream", { toxicity: i % 2 });
    proxied.proxy.updateToxic("bandwidth_upstream", { attributes: { rate: 40_000 } });
    await new Promise((resolve) => setTimeout(resolve, 2));
    for (const { name } of i % 2 ? proxied.proxy.toxics : proxied.proxy.toxics.reverse()) {
      proxied.proxy.removeToxic(name);
    }
  }
  assertEquals(await within(upload, "all bytes", 30_000), bytes);
});

Deno.test("a frame toxic that goes lets go of the frame that it keeps", async () => {
  await using proxied = await Proxied.open([{
    type: "frame_reorder",
    stream: "upstream",
    attributes: { nth: 1 },
  }]);
  await proxied.client.write(frames[0]!, frames[1]!.subarray(0, 2));
  await until(() => proxied.proxy.stats().upstream.readBytes === frames[0]!.length + 2, "it is read");
  proxied.proxy.removeToxic("frame_reorder_upstream");
  assertEquals(await proxied.upload(joined(frames[1]!.subarray(2), frames[2]!)), numbered(1, 2, 3));
});

for (
  const [type, expected] of [
    ["frame_reorder", [2, 1, 3]],
    ["frame_drop", [1, 3]],
    ["frame_duplicate", [1, 2, 2, 3]],
  ] as const
) {
  Deno.test(`${type} does to the whole frame what it began when it goes in its midst`, async () => {
    const attributes = { nth: type === "frame_reorder" ? 1 : 2 };
    await using proxied = await Proxied.open([{ type, stream: "upstream", attributes }]);
    const sent = joined(...frames.slice(0, 3)), half = frames[0]!.length + 7;
    await proxied.client.write(sent.subarray(0, half));
    await until(() => proxied.proxy.stats().upstream.readBytes === half, "it is read");
    proxied.proxy.removeToxic(`${type}_upstream`);
    assertEquals(await proxied.upload(sent.subarray(half)), numbered(...expected));
  });
}

for (const resettable of [false, true]) {
  Deno.test(`frame_duplicate keeps a copy that a later toxic does not change, resettable ${resettable}`, async () => {
    await using proxied = await Proxied.open([
      { type: "frame_duplicate", stream: "upstream", attributes: { nth: 1 } },
      { type: "frame_corrupt", stream: "upstream", attributes: { nth: 1 } },
    ], { resettable });
    const frame = frames[0]!, received = await proxied.upload(frame);
    assert(!sameBytes(received.subarray(0, frame.length), frame), "the first is corrupt");
    assertEquals(received.subarray(frame.length), frame);
  });
}

Deno.test("a toxic that takes the name of one which is going is its own", async () => {
  await using proxied = await Proxied.open([{
    type: "frame_drop",
    stream: "upstream",
    attributes: { nth: 1 },
  }]);
  await proxied.client.write(frames[0]!.subarray(0, 6));
  await until(() => proxied.proxy.stats().upstream.readBytes === 6, "it is read");
  proxied.proxy.removeToxic("frame_drop_upstream");
  await proxied.proxy.addToxic({ type: "frame_drop", stream: "upstream", attributes: { nth: 9 } });
  proxied.proxy.updateToxic("frame_drop_upstream", { attributes: { nth: 2 } });
  // The first frame goes to its end with the first toxic; the new one counts from what it sees.
  assertEquals(await proxied.upload(joined(frames[0]!.subarray(6), ...frames.slice(1, 4))), numbered(2, 4));
});

Deno.test("toxicity strikes a share of the connections, the same when the seed is the same", async () => {
  const struck: string[] = [];
  for (let run = 0; run < 2; run++) {
    using listener = new RawServer();
    await using proxy = await faultProxy({
      upstream: { port: listener.port },
      toxics: [{ type: "limit_data", stream: "upstream", toxicity: 0.5, attributes: { bytes: 1 } }],
      seed: 7,
    });
    let text = "";
    for (let i = 0; i < 30; i++) {
      using client = await RawPeer.connect(proxy.addr.port);
      using server = await listener.accept();
      await client.write(marked(i, 10));
      await client.closeWrite();
      text += (await server.readToEnd()).length === 1 ? "x" : "-";
    }
    struck.push(text);
  }
  assertEquals(struck[0], struck[1]);
  assert(/x/.test(struck[0]!) && /-/.test(struck[0]!), struck[0]);
});

Deno.test("faults of a connection do not depend on what runs beside it", async () => {
  const toxics: Toxic[] = [
    { type: "frame_drop", stream: "upstream", attributes: { share: 0.3 } },
    { type: "frame_corrupt", stream: "upstream", attributes: { share: 0.3 } },
    { type: "frame_duplicate", stream: "downstream", attributes: { share: 0.3 } },
  ];
  const received: Uint8Array[] = [];
  for (const busy of [false, true]) {
    await using proxied = await Proxied.open(toxics);
    const noise: RawPeer[] = [];
    for (let i = 0; busy && i < 3; i++) {
      const peer = await RawPeer.connect(proxied.proxy.addr.port);
      await peer.write(frameBytes);
      noise.push(peer);
    }
    const down = proxied.server.write(frameBytes).then(() => proxied.client.readExactly(frameBytes.length));
    received.push(await proxied.upload(frameBytes), await down);
    for (const peer of noise) peer[Symbol.dispose]();
  }
  assertEquals(received.slice(0, 2), received.slice(2), label);
});

Deno.test("update() switches a proxy off, which closes its connections, and on again on its port", async () => {
  await using proxied = await Proxied.open();
  const { port } = proxied.proxy.addr;
  await proxied.proxy.update({ enabled: false });
  assertEquals(await proxied.client.readToEnd(), new Uint8Array(0));
  await assertRejects(() => RawPeer.connect(port), Deno.errors.ConnectionRefused);
  assertEquals([proxied.proxy.enabled, proxied.proxy.stats().connectionsOpen], [false, 0]);
  await proxied.proxy.update({ enabled: true });
  assertEquals(proxied.proxy.addr.port, port);
  using client = await RawPeer.connect(port);
  await client.closeWrite();
});

Deno.test("faultProxy() refuses toxics that are wrong, and says why", async () => {
  const refused: [object, string][] = [
    [{ type: "latenzy" }, "type must be one of latency, bandwidth,"],
    [{ type: "latency", stream: "sideways" }, 'stream must be upstream or downstream, and is "sideways"'],
    [{ type: "latency", toxicity: 2 }, "toxicity must be a number from 0 to 1, and is 2"],
    [{ type: "latency", attributes: { latency: -1 } }, "latency must be a number of at least 0, and is -1"],
    [{ type: "latency", attributes: { delay: 1 } }, "latency has no attribute delay; it has latency, jitter"],
    [{ type: "slicer" }, "slicer needs one of average_size, and has 0"],
    [
      { type: "limit_data", attributes: { bytes: 1.5 } },
      "bytes must be a whole number of at least 0, and is 1.5",
    ],
    [{ type: "frame_drop" }, "frame_drop needs one of nth, every, share, and has 0"],
    [{ type: "frame_drop", attributes: { nth: 1, every: 2 } }, "needs one of nth, every, share, and has 2"],
    [
      { type: "frame_drop", attributes: { nth: 1, format: { lengthFieldLength: 5 } } },
      "lengthFieldLength must be",
    ],
    [
      { type: "frame_drop", attributes: { nth: 1, format: { length: 5 } } },
      "length is not a field of frame formats",
    ],
    [
      { type: "frame_length", attributes: { nth: 1, value: 256, format: { lengthFieldLength: 1 } } },
      "value must be a whole number from 0 to 255, and is 256",
    ],
    [{ type: "noop", colour: 1 }, "colour is not a field of toxics"],
  ];
  await using proxy = await faultProxy({ upstream: { port: 1 }, seed });
  for (const [toxic, message] of refused) {
    await assertRejects(() => proxy.addToxic(toxic as Toxic), RangeError, message);
  }
  assertEquals(proxy.toxics, []);
  await proxy.addToxic({ type: "corrupt", attributes: { share: 0.5 } });
  await assertRejects(
    () => proxy.addToxic({ type: "corrupt", attributes: { share: 1 } }),
    RangeError,
    "corrupt_downstream",
  );
  assertThrows(() => proxy.updateToxic("other", {}), RangeError, "there is none of the name other");
  assertThrows(() => proxy.removeToxic("other"), RangeError, "there is none of the name other");
  // Who asks for one alternative gives up the other.
  assertEquals(proxy.updateToxic("corrupt_downstream", { attributes: { offset: 5 } }).attributes, {
    offset: 5,
  });
});

/** Where two pieces of the same length differ. */
function differences(a: Uint8Array, b: Uint8Array): number[] {
  assertEquals(a.length, b.length);
  return Array.from(a.keys()).filter((i) => a[i] !== b[i]);
}
