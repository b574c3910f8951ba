// What network code gets wrong, each by its name, at the server's three doors.

import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import {
  FrameError,
  serve,
  serveConnections,
  serveFrames,
  type Server,
  type ServerEvent,
  type Submit,
  type SubmitErrorHandler,
  submitFormat,
  type SubmitPeer,
  type SubmitResult,
} from "../mod.ts";
import { Connection } from "../transport/connection.ts";
import { Ticker } from "../transport/deadline.ts";
import { SlabPool } from "../transport/slab.ts";
import { Wire } from "../testkit/mod.ts";
import { ackFrame, idOf, joined, RawPeer, request, submitFrame } from "./support/peer.ts";
import {
  idsOf,
  marked,
  plainFrame,
  plainFramesIn,
  sameBytes,
  UnhandledRejections,
} from "./support/raw_server.ts";
import { Recorder, settled, until, within } from "./support/wait.ts";

const base = { port: 0, poison: true, drainTimeoutMs: 5000 } as const;
const plain = { initialBytesToStrip: 4 } as const;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Gives up even where it is the end of a test that hangs. */
function test(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, fn, timeout: 15_000 });
}

/** Tells events of one type, and of one connection where its number is given. */
function event<T extends ServerEvent["type"]>(type: T, connection?: number) {
  return (event: ServerEvent): event is Extract<ServerEvent, { type: T }> =>
    event.type === type &&
    (connection === undefined || "connection" in event && event.connection === connection);
}

/** Resolves with the reason why connection `number` was closed. */
async function closedReason(events: Recorder<ServerEvent>, number = 1) {
  return (await events.first(event("closed", number), `connection ${number} is closed`)).reason;
}

/** Exchanges one request, which shows that a server is well. */
async function exchange(peer: RawPeer, serial: number, payload: string, what = "an answer"): Promise<number> {
  await peer.write(submitFrame(serial, payload));
  const [ack] = await within(peer.readAcks(1), what);
  assertEquals(ack!.id, idOf(serial));
  return ack!.result;
}

/** A server of each kind that answers a frame at once. */
const doors: {
  name: string;
  start(onEvent: (event: ServerEvent) => void): Server;
  frame: Uint8Array;
}[] = [
  {
    name: "serve",
    start: (onEvent) => serve({ ...base, onEvent }, () => {}),
    frame: submitFrame(1, "hello"),
  },
  {
    name: "serveFrames",
    frame: plainFrame("hello, hello"),
    start: (onEvent) => serveFrames({ ...base, onEvent, format: plain }, (frame) => frame),
  },
  {
    name: "serveConnections",
    frame: plainFrame("hello, hello"),
    start: (onEvent) =>
      serveConnections({ ...base, onEvent, format: plain }, async (connection) => {
        for await (const frame of connection.frames) await connection.send(frame);
      }),
  },
];

for (const { name, start, frame } of doors) {
  test(`${name}() idles and can be shut down when a connection sends nothing`, async () => {
    const events = new Recorder<ServerEvent>();
    await using server = start(events.record);
    using peer = await RawPeer.connect(server.addr.port);
    await events.first(event("opened"), "the connection is accepted");
    const stopped = server.shutdown();
    assertEquals((await within(peer.readToEnd(), "the server's FIN")).length, 0);
    peer[Symbol.dispose]();
    await within(stopped, "the server has stopped", 3000);
    assertEquals((await closedReason(events)).bytesRead, 0);
  });

  test(`${name}() ends the connection when the peer closes with nothing sent`, async () => {
    const events = new Recorder<ServerEvent>();
    await using server = start(events.record);
    using peer = await RawPeer.connect(server.addr.port);
    await peer.closeWrite();
    assertEquals((await within(peer.readToEnd(), "the server's FIN")).length, 0);
    const { code, error, bytesRead, bytesWritten } = await closedReason(events);
    assertEquals({ code, error, bytesRead, bytesWritten }, {
      code: "ended",
      error: null,
      bytesRead: 0,
      bytesWritten: 0,
    });
  });

  test(`${name}() says reset when the peer resets an idle connection`, async () => {
    const events = new Recorder<ServerEvent>();
    await using server = start(events.record);
    await using wire = await Wire.connect({ port: server.addr.port });
    await events.first(event("opened"), "the connection is accepted");
    wire.reset();
    const { code, error } = await closedReason(events);
    assertEquals(code, "reset");
    assertInstanceOf(error, Deno.errors.ConnectionReset);
  });

  test(`${name}() harms no other connection when one is reset in mid-frame`, async () => {
    const events = new Recorder<ServerEvent>();
    await using server = start(events.record);
    using other = await RawPeer.connect(server.addr.port);
    await events.first(event("opened", 1), "the other connection is accepted");
    await using wire = await Wire.connect({ port: server.addr.port });
    await wire.send(frame.subarray(0, 12));
    await until(() => server.stats().bytesRead === 12, "the half is read");
    wire.reset();
    assertEquals((await closedReason(events, 2)).code, "reset");
    assertEquals(events.items.filter(event("protocol-error")), []);
    await other.write(frame);
    await within(other.readExactly(14), "an answer on the other connection");
  });
}

test("serve() answers a frame that comes in two parts, cut at whatever byte", async () => {
  await using server = serve(base, ({ payload }) => payload.length);
  using peer = await RawPeer.connect(server.addr.port);
  const frame = submitFrame(7, "ab");
  for (let cut = 1, sent = 0; cut < frame.length; cut++) {
    await peer.write(frame.subarray(0, cut));
    await until(() => server.stats().bytesRead === sent + cut, "the front is read by itself");
    await peer.write(frame.subarray(cut));
    sent += frame.length;
    const [ack] = await within(peer.readAcks(1), `the answer to a frame cut at ${cut}`);
    assertEquals(ack, { command: 0x82, id: idOf(7), result: 2 });
  }
});

test("serve() answers the whole frame at once when part of the next comes with it", async () => {
  await using server = serve(base, ({ payload }) => payload.length);
  using peer = await RawPeer.connect(server.addr.port);
  const second = submitFrame(2, "abc");
  await peer.write(joined(submitFrame(1, "a"), second.subarray(0, 9)));
  assertEquals((await within(peer.readAcks(1), "the first answer"))[0]!.result, 1);
  await peer.write(second.subarray(9));
  assertEquals((await within(peer.readAcks(1), "the second answer"))[0]!.result, 3);
});

test("serve() answers every frame when many come in one chunk", async () => {
  await using server = serve(base, ({ payload }) => payload.length);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...Array.from({ length: 200 }, (_, i) => submitFrame(i + 1, "x".repeat(i)))));
  const acks = await within(peer.readAcks(200), "all answers");
  assertEquals(acks, idsOf(1, 200).map((id, i) => ({ command: 0x82, id, result: i })));
});

test("serve() answers all that is due when the peer half-closes behind its requests", async () => {
  const events = new Recorder<ServerEvent>(), gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, onEvent: events.record }, () => gate.promise);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1), submitFrame(2), submitFrame(3));
  await peer.closeWrite();
  await until(() => server.stats().inFlight === 3, "all are being handled");
  gate.resolve();
  assertEquals((await within(peer.readAcksToEnd(), "answers and FIN")).map(({ id }) => id), idsOf(1, 3));
  const { code, bytesRead, bytesWritten } = await closedReason(events);
  assertEquals({ code, bytesRead, bytesWritten }, { code: "ended", bytesRead: 39, bytesWritten: 42 });
});

test("serve() goes on when a peer closes without reading its answers", async () => {
  const events = new Recorder<ServerEvent>(), gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, onEvent: events.record }, () => gate.promise);
  using unhandled = new UnhandledRejections();
  const peer = await RawPeer.connect(server.addr.port);
  await peer.write(...Array.from({ length: 50 }, (_, i) => submitFrame(i + 1)));
  peer[Symbol.dispose]();
  await until(() => server.stats().inFlight === 50, "all are being handled");
  gate.resolve();
  await closedReason(events);
  using other = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(other, 1, ""), 0);
  assertEquals([unhandled.reasons, server.stats().inFlight], [[], 0]);
});

test("serve() answers what came before, then says truncated, when the peer ends in mid-frame", async () => {
  const events = new Recorder<ServerEvent>();
  await using server = serve({ ...base, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(submitFrame(1), submitFrame(2, "0123456789").subarray(0, 15)));
  await peer.closeWrite();
  assertEquals((await within(peer.readAcksToEnd(), "answers and FIN")).map(({ id }) => id), [idOf(1)]);
  const { code, error } = await closedReason(events);
  assertInstanceOf(error, FrameError);
  assertEquals([code, error.code, error.length, error.limit], ["truncated", "truncated", 15, 23]);
  assertEquals(events.items.filter(event("protocol-error")).length, 1);
  assertEquals(server.stats().protocolErrors, 1);
});

for (const door of ["serveFrames", "serveConnections"]) {
  test(`${door}() harms no other connection when one is reset in mid-write`, async () => {
    using unhandled = new UnhandledRejections();
    const events = new Recorder<ServerEvent>();
    const format = { ...plain, maxFrameLength: 64_000_000 };
    const answer = (frame: Uint8Array) => frame.length === 0 ? new Uint8Array(32_000_000) : frame;
    const options = { ...base, onEvent: events.record, format };
    await using server = door === "serveFrames"
      ? serveFrames(options, answer)
      : serveConnections(options, async (connection) => {
        for await (const frame of connection.frames) await connection.send(answer(frame));
      });
    using other = await RawPeer.connect(server.addr.port);
    await events.first(event("opened", 1), "the other connection is accepted");
    await using wire = await Wire.connect({ port: server.addr.port });
    wire.pause();
    await wire.send(plainFrame(""));
    await until(() => server.stats().bytesWritten > 0, "the answer is being written");
    const written = await settled(() => server.stats().bytesWritten);
    assert(written < 32_000_000, "the server waits in mid-write");
    wire.reset();
    assertEquals((await closedReason(events, 2)).code, "reset");
    await other.write(plainFrame("well"));
    assertEquals(text(await within(other.readExactly(8), "an answer")).slice(4), "well");
    assertEquals([unhandled.reasons, events.items.filter(event("handler-error"))], [[], []]);
  });
}

test("submit.signal and peer.signal abort when the connection is reset with handlers in flight", async () => {
  using unhandled = new UnhandledRejections();
  const events = new Recorder<ServerEvent>(), gates: PromiseWithResolvers<void>[] = [];
  const signals: AbortSignal[] = [], payloads: Uint8Array[] = [];
  await using server = serve({ ...base, onEvent: events.record }, (submit, peer) => {
    const { payload, signal } = submit;
    if (text(payload) === "now") return;
    signals.push(signal, peer.signal);
    payloads.push(payload);
    return (gates[gates.length] = Promise.withResolvers<void>()).promise;
  });
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(joined(submitFrame(1, "aaaa"), submitFrame(2, "bbbb"), submitFrame(3, "cccc")));
  await until(() => gates.length === 3, "all handlers run");
  assert(signals.every(({ aborted }) => !aborted));
  wire.reset();
  await until(() => signals.every(({ aborted }) => aborted), "all signals are aborted");
  for (const signal of signals) assertInstanceOf(signal.reason, Deno.errors.ConnectionReset);
  assertEquals((await closedReason(events)).code, "reset");
  assertEquals(server.stats().inFlight, 0);
  // They settle when nobody waits for them any more, each in its own way, and have their bytes until then.
  using other = await RawPeer.connect(server.addr.port);
  for (let i = 1; i <= 30; i++) assertEquals(await exchange(other, i, "now"), 0);
  assertEquals(payloads.map(text), ["aaaa", "bbbb", "cccc"]);
  gates[0]!.resolve();
  gates[1]!.reject(new Error("too late"));
  assertEquals(await exchange(other, 31, "now"), 0);
  gates[2]!.resolve();
  assertEquals(await exchange(other, 32, "now"), 0);
  assertEquals(unhandled.reasons, []);
});

test("submit.signal aborts when the connection is reset with as many handlers in flight as may be", async () => {
  const signals: AbortSignal[] = [], gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, maxInFlight: 2, drainTimeoutMs: 200 }, ({ signal }) => {
    signals.push(signal);
    return gate.promise;
  });
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(joined(submitFrame(1), submitFrame(2), submitFrame(3)));
  await until(() => signals.length === 2, "two handlers run");
  await settled(() => server.stats().bytesRead, 30);
  wire.reset();
  await until(() => signals.every(({ aborted }) => aborted), "all signals are aborted", 2000);
  gate.resolve();
});

test("peer.signal has the reset as its reason also when it is asked for after the reset", async () => {
  const events = new Recorder<ServerEvent>(), seen = Promise.withResolvers<SubmitPeer>();
  const gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, onEvent: events.record }, (_, peer) => {
    seen.resolve(peer);
    return gate.promise;
  });
  await using wire = await Wire.connect({ port: server.addr.port });
  await wire.send(submitFrame(1));
  const peer = await within(seen.promise, "the handler is called");
  wire.reset();
  await closedReason(events);
  gate.resolve();
  assertInstanceOf(peer.signal.reason, Deno.errors.ConnectionReset);
});

const noResults: { name: string; handler: (submit: Submit) => unknown }[] = [
  {
    name: "throws",
    handler: () => {
      throw new Error("no");
    },
  },
  {
    name: "throws null",
    handler: () => {
      throw null;
    },
  },
  { name: "rejects", handler: () => Promise.reject(new Error("no")) },
  { name: "rejects with null", handler: () => Promise.reject(null) },
  ...[256, -1, 1.5, NaN, Infinity, "x", "1", true, null, {}, [1], 1n, Symbol("x")].flatMap((result) => {
    const shown = typeof result === "string" ? `"${result}"` : Array.isArray(result) ? "[1]" : String(result);
    const kind = typeof result === "bigint" ? "1n" : shown;
    return [
      { name: `returns ${kind}`, handler: () => result },
      { name: `resolves with ${kind}`, handler: () => Promise.resolve(result) },
    ];
  }),
];

for (const { name, handler } of noResults) {
  test(`serve() answers 5 and lives on when a handler ${name}`, async () => {
    using unhandled = new UnhandledRejections();
    const events = new Recorder<ServerEvent>();
    await using server = serve(
      { ...base, drainTimeoutMs: 500, onEvent: events.record },
      (submit) => submit.payload.length === 0 ? 9 : handler(submit) as SubmitResult,
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(submitFrame(1, "bad"));
    const [ack] = await within(peer.readAcks(1), "an answer", 2000);
    assertEquals(ack, { command: 0x82, id: idOf(1), result: 5 });
    assertEquals(await exchange(peer, 2, ""), 9);
    assertEquals(events.items.filter(event("handler-error", 1)).length, 1);
    assertEquals([server.stats().handlerErrors, server.stats().inFlight], [1, 0]);
    assertEquals(unhandled.reasons, []);
  });
}

test("serve() answers whatever a handler returns from 0 to 255, at once or later", async () => {
  await using server = serve(base, ({ payload }) => payload[1] ? Promise.resolve(payload[0]!) : payload[0]);
  using peer = await RawPeer.connect(server.addr.port);
  const results = Array.from({ length: 512 }, (_, i) => i & 255);
  await peer.write(
    joined(...results.map((result, i) => submitFrame(i + 1, new Uint8Array([result, i >> 8])))),
  );
  const acks = await within(peer.readAcks(512), "all answers");
  acks.sort((a, b) => a.id < b.id ? -1 : 1);
  assertEquals(acks.map(({ result }) => result), results);
});

test("serve() answers 6, aborts and frees the place when a handler never settles", async () => {
  const events = new Recorder<ServerEvent>(), stuck = Promise.withResolvers<Submit>();
  await using server = serve(
    { ...base, handlerTimeoutMs: 40, maxInFlight: 1, onEvent: events.record },
    (submit) => {
      if (text(submit.payload) === "next") return 3;
      stuck.resolve(submit);
      return new Promise<void>(() => {});
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "stuck"), submitFrame(2, "next"));
  const acks = await within(peer.readAcks(2), "both answers");
  assertEquals(acks.map(({ id, result }) => [id, result]), [[idOf(1), 6], [idOf(2), 3]]);
  const { signal } = await stuck.promise;
  assert(signal.aborted);
  assertEquals((signal.reason as DOMException).name, "TimeoutError");
  const reached = events.items.filter(event("limit", 1)).map(({ limit }) => limit);
  assertEquals(reached.filter((limit) => limit === "handlerTimeoutMs").length, 1);
  const { limits: { handlerTimeoutMs }, handlerErrors, inFlight } = server.stats();
  assertEquals({ handlerTimeoutMs, handlerErrors, inFlight }, {
    handlerTimeoutMs: 1,
    handlerErrors: 0,
    inFlight: 0,
  });
});

test("serve() does not cut a handler before handlerTimeoutMs", async () => {
  await using server = serve(
    { ...base, handlerTimeoutMs: 300 },
    () => new Promise<number>((resolve) => setTimeout(() => resolve(8), 200)),
  );
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(peer, 1, ""), 8);
});

test("submit.payload keeps its bytes when its handler was cut by the deadline", async () => {
  const kept: Uint8Array[] = [], submits: Submit[] = [];
  const never = new Promise<void>(() => {});
  await using server = serve({ ...base, handlerTimeoutMs: 40 }, (submit) => {
    if (submit.payload.length !== 100) return;
    kept.push(submit.payload);
    submits.push(submit);
    return never;
  });
  using peer = await RawPeer.connect(server.addr.port);
  const payloads = [1, 2, 3, 4, 5].map((mark) => marked(mark, 100));
  for (const [i, payload] of payloads.entries()) {
    await peer.write(submitFrame(i + 1, payload));
    await until(() => kept.length === i + 1, "the handler is called");
  }
  assertEquals((await within(peer.readAcks(5), "the answers")).map(({ result }) => result), [6, 6, 6, 6, 6]);
  for (let serial = 6; serial <= 100; serial++) await exchange(peer, serial, "x".repeat(serial * 11));
  assertEquals(payloads.map((payload, i) => sameBytes(kept[i]!, payload)), new Array(5).fill(true));
  assertEquals(
    payloads.map((payload, i) => sameBytes(submits[i]!.payload, payload)),
    new Array(5).fill(true),
  );
});

test("serve() drops what a handler does after it was cut by the deadline", async () => {
  using unhandled = new UnhandledRejections();
  const gates: PromiseWithResolvers<number>[] = [];
  await using server = serve({ ...base, handlerTimeoutMs: 40 }, ({ payload }) => {
    if (payload.length > 0) return 9;
    return (gates[gates.length] = Promise.withResolvers<number>()).promise;
  });
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(peer, 1, ""), 6);
  assertEquals(await exchange(peer, 2, ""), 6);
  gates[0]!.resolve(0);
  gates[1]!.reject(new Error("too late"));
  assertEquals(await exchange(peer, 3, "now"), 9, "one answer and no second one in between");
  assertEquals([unhandled.reasons, server.stats().inFlight], [[], 0]);
});

test("submit.payload is whole when a handler looks again behind an await, with slow ones beside it", async () => {
  const gate = Promise.withResolvers<void>(), turn = () => new Promise<void>((go) => setTimeout(go, 5));
  const seen = new Map<string, Uint8Array>();
  await using server = serve(base, async ({ id, payload }) => {
    await (id <= idOf(3) ? gate.promise : turn());
    seen.set(id, payload.slice());
  });
  using peer = await RawPeer.connect(server.addr.port);
  // Each comes in a chunk of its own; the first ones hold their slabs for a long time.
  for (let serial = 1, sent = 0; serial <= 20; serial++) {
    const frame = submitFrame(serial, marked(serial, 50));
    await peer.write(frame);
    sent += frame.length;
    await until(() => server.stats().bytesRead === sent, "the chunk is read");
    if (serial > 3) await within(peer.readAcks(1), "the answer to a fast one");
  }
  gate.resolve();
  await within(peer.readAcks(3), "the answers to the slow ones");
  const wrong = idsOf(1, 20).filter((id, i) => !sameBytes(seen.get(id)!, marked(i + 1, 50)));
  assertEquals(wrong, []);
});

test("submit.payload cannot be asked for when its handler has settled", async () => {
  const submits: Submit[] = [];
  await using server = serve(base, (submit) => {
    submits.push(submit);
    if (submit.payload.length > 0) return Promise.resolve();
  });
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals([await exchange(peer, 1, ""), await exchange(peer, 2, "later")], [0, 0]);
  for (const submit of submits) {
    assertThrows(() => submit.payload, TypeError, "payload");
    assertThrows(() => submit.id, TypeError, "id");
  }
});

const onErrors: { name: string; onError: SubmitErrorHandler; result: number; errors: number }[] = [
  { name: "returns a result", onError: () => 77, result: 77, errors: 1 },
  { name: "returns 0", onError: () => 0, result: 0, errors: 1 },
  { name: "resolves with a result", onError: () => Promise.resolve(78), result: 78, errors: 1 },
  {
    name: "looks at the submit",
    onError: (error, { id, payload }) => (error as Error).message === `no ${id} ${text(payload)}` ? 79 : 80,
    result: 79,
    errors: 1,
  },
  { name: "returns nothing", onError: () => {}, result: 5, errors: 1 },
  { name: "resolves with nothing", onError: () => Promise.resolve(), result: 5, errors: 1 },
  {
    name: "throws itself",
    onError: () => {
      throw new Error("worse");
    },
    result: 5,
    errors: 2,
  },
  { name: "rejects itself", onError: () => Promise.reject(new Error("worse")), result: 5, errors: 2 },
  { name: "returns no result", onError: () => 256, result: 5, errors: 2 },
];

for (const { name, onError, result, errors } of onErrors) {
  for (const way of ["throws", "rejects"]) {
    test(`serve() answers ${result} when a handler ${way} and onError ${name}`, async () => {
      const events = new Recorder<ServerEvent>();
      const fail = ({ id, payload }: Submit) => {
        throw new Error(`no ${id} ${text(payload)}`);
      };
      await using server = serve(
        { ...base, onEvent: events.record, onError },
        way === "throws" ? fail : async (submit) => {
          await Promise.resolve();
          fail(submit);
        },
      );
      using peer = await RawPeer.connect(server.addr.port);
      assertEquals(await exchange(peer, 1, "why"), result);
      assertEquals([events.items.filter(event("handler-error", 1)).length, server.stats().inFlight], [
        errors,
        0,
      ]);
    });
  }
}

for (const door of ["serve", "serveFrames"]) {
  for (const way of ["throws", "rejects"]) {
    test(`${door}() calls onError once when a handler ${way} and onError rejects itself`, async () => {
      const seen: unknown[] = [], bad = new Error("bad");
      const onError = (error: unknown) => {
        seen.push(error);
        return Promise.reject(new Error("worse"));
      };
      const handler = () => {
        if (way === "rejects") return Promise.reject(bad);
        throw bad;
      };
      await using server = door === "serve"
        ? serve({ ...base, onError }, handler)
        : serveFrames({ ...base, format: plain, onError }, handler);
      using peer = await RawPeer.connect(server.addr.port);
      await peer.write(door === "serve" ? submitFrame(1) : plainFrame("x"));
      await peer.closeWrite();
      await within(peer.readToEnd(), "FIN");
      assertEquals(seen, [bad]);
    });
  }
}

test("serve() hurts nobody when an onEvent listener throws", async () => {
  let calls = 0;
  const onEvent = () => {
    calls++;
    throw new Error("a listener's own trouble");
  };
  await using server = serve({ ...base, onEvent }, ({ payload }) => {
    if (payload.length > 0) throw new Error("one event more");
  });
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals([await exchange(peer, 1, ""), await exchange(peer, 2, "bad")], [0, 5]);
  peer[Symbol.dispose]();
  await until(() => server.stats().connectionsOpen === 0, "the connection is closed");
  assertEquals([calls, server.stats().listenerErrors], [3, 3]);
});

test("peer.close() lets the answers that are due arrive, then FIN, when a handler calls it", async () => {
  const events = new Recorder<ServerEvent>(), gate = Promise.withResolvers<void>(), why = new Error("enough");
  await using server = serve({ ...base, onEvent: events.record }, ({ payload }, peer) => {
    if (text(payload) === "slow") return gate.promise;
    peer.close(why);
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(submitFrame(1, "slow"), submitFrame(2, "close"), submitFrame(3, "slow")));
  assertEquals((await within(peer.readAcks(1), "the answer to the one that closes"))[0]!.id, idOf(2));
  gate.resolve();
  const acks = await within(peer.readAcksToEnd(), "the slow answer and FIN");
  assertEquals(acks.map(({ id }) => id), [idOf(1)]);
  peer[Symbol.dispose]();
  const { code, error } = await closedReason(events);
  assertEquals([code, error, server.stats().handled], ["closed", why, 2]);
});

test("peer.close() loses no answer when the peer goes on sending and reads late", async () => {
  await using server = serve(base, ({ payload }, peer) => {
    if (text(payload) === "close") peer.close();
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(submitFrame(1), submitFrame(2, "close")));
  await until(() => server.stats().handled === 2, "both are handled");
  for (let i = 0; i < 20; i++) await peer.write(submitFrame(3, marked(i, 10_000)));
  await peer.closeWrite();
  const acks = await within(peer.readAcksToEnd(), "answers and FIN");
  assertEquals(acks.map(({ id }) => id), [idOf(1), idOf(2)]);
});

test("serve() answers the first CONN 0, a second one 1, and stays", async () => {
  await using server = serve(base, (_, { session }) => session === null ? 9 : session.length);
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(peer, 1, ""), 9);
  await peer.write(request(0x01, idOf(2), "gauge 7"), request(0x01, idOf(3), "another"));
  assertEquals(await within(peer.readAcks(2), "both answers"), [
    { command: 0x81, id: idOf(2), result: 0 },
    { command: 0x81, id: idOf(3), result: 1 },
  ]);
  assertEquals(await exchange(peer, 4, ""), 7);
});

test("peer.session is what CONN brought, for its connection alone, also when that was nothing", async () => {
  const sessions: (string | null)[] = [];
  await using server = serve(base, (_, { session }) => void sessions.push(session && text(session)));
  using first = await RawPeer.connect(server.addr.port);
  using second = await RawPeer.connect(server.addr.port);
  using third = await RawPeer.connect(server.addr.port);
  await first.write(joined(request(0x01, idOf(1), "first"), submitFrame(2)));
  await within(first.readAcks(2), "answers");
  await second.write(joined(request(0x01, idOf(1)), submitFrame(2)));
  await within(second.readAcks(2), "answers");
  assertEquals(await exchange(third, 1, ""), 0);
  // Much else has been through the slabs before it is looked at again.
  for (let serial = 3; serial < 50; serial++) await exchange(first, serial, "x".repeat(serial * 20));
  assertEquals(sessions.slice(0, 3), ["first", "", null]);
  assertEquals(sessions.slice(3), new Array(47).fill("first"));
});

test("serve() cuts all connections and finishes when its signal is aborted", async () => {
  const events = new Recorder<ServerEvent>(), controller = new AbortController(), why = new Error("cut");
  const stuck = Promise.withResolvers<Submit>();
  await using server = serve({ ...base, signal: controller.signal, onEvent: events.record }, (submit) => {
    stuck.resolve(submit);
    return new Promise<void>(() => {});
  });
  using idle = await RawPeer.connect(server.addr.port);
  using busy = await RawPeer.connect(server.addr.port);
  await busy.write(submitFrame(1));
  const { signal } = await within(stuck.promise, "the handler is called");
  await until(() => server.stats().connectionsOpen === 2, "both are accepted");
  controller.abort(why);
  await within(server.finished, "the server has finished", 2000);
  assertEquals([signal.aborted, signal.reason], [true, why]);
  for (const peer of [idle, busy]) assertEquals((await within(peer.readToEnd(), "the cut")).length, 0);
  const reasons = events.items.filter(event("closed")).map(({ reason: { code, error } }) => ({
    code,
    error,
  }));
  assertEquals(reasons, [{ code: "aborted", error: why }, { code: "aborted", error: why }]);
});

test("serve() throws the signal's reason when that is aborted already", () => {
  const why = new Error("too late");
  assertEquals(assertThrows(() => serve({ ...base, signal: AbortSignal.abort(why) }, () => {})), why);
});

test("shutdown() ends at once when the signal is aborted in the middle of it", async () => {
  const controller = new AbortController();
  await using server = serve({ ...base, signal: controller.signal }, () => new Promise<void>(() => {}));
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  await until(() => server.stats().inFlight === 1, "the handler is called");
  const stopped = server.shutdown();
  controller.abort(new Error("cut"));
  await within(stopped, "the server has stopped", 2000);
});

test("shutdown() answers what was read before, and 4 to what comes later while answers are due", async () => {
  const events = new Recorder<ServerEvent>(), gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, onEvent: events.record }, ({ payload }) => {
    if (text(payload) === "wait") return gate.promise;
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "wait"), submitFrame(2, "wait"));
  await until(() => server.stats().inFlight === 2, "both are being handled");
  const stopped = server.shutdown();
  let serial = 2, result;
  do result = await exchange(peer, ++serial, "now"); while (result === 0 && serial < 10_000);
  assertEquals(result, 4);
  const { handled } = server.stats();
  assertEquals(await exchange(peer, ++serial, "wait"), 4);
  assertEquals(server.stats().handled, handled, "what is answered 4 was never handled");
  gate.resolve();
  const acks = await within(peer.readAcksToEnd(), "the answers due and FIN");
  assertEquals(acks.map(({ id, result }) => [id, result]), [[idOf(1), 0], [idOf(2), 0]]);
  peer[Symbol.dispose]();
  await within(stopped, "the server has stopped");
  assertEquals((await closedReason(events)).code, "shutdown");
});

test("shutdown() is no truncation when a peer has sent half a frame", async () => {
  const events = new Recorder<ServerEvent>();
  await using server = serve({ ...base, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "half").subarray(0, 9));
  await until(() => server.stats().bytesRead === 9, "the half is read");
  const stopped = server.shutdown();
  await within(peer.readToEnd(), "FIN");
  peer[Symbol.dispose]();
  await within(stopped, "the server has stopped");
  const types = events.items.map(({ type }) => type).filter((type) => !type.startsWith("drain"));
  assertEquals(types, ["opened", "closed"]);
  assertEquals((await closedReason(events)).code, "shutdown");
});

test("shutdown() answers what is due and ends when a peer had half-closed before", async () => {
  const gate = Promise.withResolvers<void>();
  await using server = serve({ ...base, drainTimeoutMs: 1000 }, () => gate.promise);
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  await peer.closeWrite();
  await until(() => server.stats().inFlight === 1, "the handler is called");
  await settled(() => server.stats().bytesRead, 30); // the FIN comes right behind
  const stopped = server.shutdown();
  await until(() => portIsFree(server.addr.port), "the listener is closed");
  gate.resolve();
  assertEquals((await within(peer.readAcksToEnd(), "the answer and FIN")).length, 1);
  await within(stopped, "the server has stopped", 3000);
});

test("shutdown() ends after drainTimeoutMs when a handler is stuck", async () => {
  const events = new Recorder<ServerEvent>(), stuck = Promise.withResolvers<Submit>();
  await using server = serve({ ...base, drainTimeoutMs: 100, onEvent: events.record }, (submit) => {
    stuck.resolve(submit);
    return new Promise<void>(() => {});
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1));
  const { signal } = await within(stuck.promise, "the handler is called");
  await within(server.shutdown(), "the server has stopped", 3000);
  const { code, limit } = await closedReason(events);
  assertEquals([code, limit], ["limit", "drainTimeoutMs"]);
  assert(signal.aborted);
  assertEquals(server.stats().inFlight, 0);
});

test("shutdown() ends after drainTimeoutMs when a peer never closes", async () => {
  await using server = serve({ ...base, drainTimeoutMs: 100 }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(peer, 1, ""), 0);
  await within(server.shutdown(), "the server has stopped", 3000);
  assertEquals(server.stats().connectionsOpen, 0);
});

test("shutdown() ends after drainTimeoutMs when a peer never reads", async () => {
  await using server = serveFrames(
    { ...base, drainTimeoutMs: 100, format: { ...plain, maxFrameLength: 64_000_000 } },
    () => new Uint8Array(32_000_000),
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(plainFrame(""));
  await until(() => server.stats().bytesWritten > 0, "the answer is being written");
  await within(server.shutdown(), "the server has stopped", 3000);
  assertEquals(server.stats().connectionsOpen, 0);
});

test("shutdown() does the same once when it is called twice, and finished resolves", async () => {
  await using server = serve(base, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(await exchange(peer, 1, ""), 0);
  const both = Promise.all([server.shutdown(), server.shutdown()]);
  assertEquals((await within(peer.readToEnd(), "FIN")).length, 0);
  peer[Symbol.dispose]();
  await within(both, "both calls resolve");
  await within(server.finished, "finished resolves");
  await within(server.shutdown(), "a third call resolves");
});

test("shutdown() closes the listener when there is no connection", async () => {
  const server = serve(base, () => {});
  const { port } = server.addr;
  await within(server.shutdown(), "the server has stopped", 2000);
  const again = Deno.listen({ hostname: "127.0.0.1", port });
  again.close();
});

for (const { name, start } of doors) {
  test(`${name}() throws AddrInUse when the port is taken`, async () => {
    await using taken = start(() => {});
    const { port } = taken.addr;
    const again = {
      serve: () => serve({ ...base, port }, () => {}),
      serveFrames: () => serveFrames({ ...base, port }, () => {}),
      serveConnections: () => serveConnections({ ...base, port }, () => {}),
    }[name]!;
    assertThrows(again, Deno.errors.AddrInUse);
  });
}

const outOfRange: Record<string, unknown[]> = {
  port: [-1, 65_536, 1.5, NaN, "80"],
  outboundHighWaterBytes: [0, -1, 1.5, NaN],
  outboundLowWaterBytes: [-1, 0.5, NaN, 1_048_577],
  writeTimeoutMs: [0, -1, NaN, 2 ** 31],
  drainTimeoutMs: [-1, NaN, Infinity, 2 ** 31],
  maxInFlight: [0, -1, 1.5, NaN],
  handlerTimeoutMs: [0, -1, NaN, 2 ** 31],
  maxFrameLength: [0, 3, -1, NaN, 1.5, Infinity],
  dialect: ["french"],
};

for (const [field, values] of Object.entries(outOfRange)) {
  for (const value of values) {
    const shown = JSON.stringify(value) === "null" ? String(value) : JSON.stringify(value);
    test(`serve() throws a RangeError that names ${field} when that is ${shown}`, () => {
      assertThrows(() => serve({ ...base, [field]: value }, () => {}), RangeError, field);
    });
  }
}

test("serveFrames() replies in the order of arrival when handlers settle in any order", async () => {
  const gates: PromiseWithResolvers<void>[] = [];
  await using server = serveFrames({ ...base, format: plain }, (frame) => {
    if (frame[0]! % 3 === 0) return frame; // at once
    return (gates[frame[0]!] = Promise.withResolvers<void>()).promise.then(() => frame);
  });
  using peer = await RawPeer.connect(server.addr.port);
  const bodies = Array.from({ length: 100 }, (_, i) => new Uint8Array([i + 1, i]));
  await peer.write(joined(...bodies.map(plainFrame)));
  await until(() => server.stats().handled === 100, "all handlers are called");
  await peer.closeWrite();
  // 37 has no common divisor with 101: every number comes once, in no order.
  for (let i = 1; i <= 100; i++) {
    gates[i * 37 % 101]?.resolve();
    await Promise.resolve();
  }
  assertEquals(plainFramesIn(await within(peer.readToEnd(), "replies and FIN")), bodies);
});

test("serveFrames() sends nothing for a frame when its handler returns or resolves with nothing", async () => {
  await using server = serveFrames({ ...base, format: plain }, (frame) => {
    return [
      frame,
      undefined,
      null,
      Promise.resolve(),
      Promise.resolve(null),
      Promise.resolve(frame),
    ][frame[0]!];
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...[0, 1, 2, 3, 4, 5, 2, 0].map((kind) => plainFrame(new Uint8Array([kind])))));
  await peer.closeWrite();
  const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
  assertEquals(replies.map(([kind]) => kind), [0, 5, 0]);
});

for (const length of [0, 1, 100, 16_379, 16_380, 16_384, 20_000, 102_400]) {
  for (const way of ["at once", "in a microtask", "in any order", "one of them much later"]) {
    test(`serveFrames() echoes frames of ${length} bytes unharmed when handlers settle ${way}`, async () => {
      const count = length > 50_000 ? 24 : 60, slow = Promise.withResolvers<void>();
      let calls = 0;
      await using server = serveFrames({ ...base, format: plain }, (frame) => {
        const call = calls++;
        if (way === "at once") return frame;
        if (way === "in a microtask") return Promise.resolve().then(() => frame);
        if (way === "one of them much later") return call === 2 ? slow.promise.then(() => frame) : frame;
        return new Promise((resolve) => setTimeout(() => resolve(frame), call * 7 % 5));
      });
      using peer = await RawPeer.connect(server.addr.port);
      const frames = Array.from({ length: count }, (_, i) => plainFrame(marked(i, length)));
      const sent = peer.write(...frames).then(() => peer.closeWrite());
      await until(() => calls > 2, "handlers are called");
      await until(() => calls === count || server.stats().inFlight > 0, "the slow one waits");
      if (way === "one of them much later") await settled(() => calls, 50);
      slow.resolve();
      const echoed = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
      await sent;
      assertEquals(echoed.length, count);
      assertEquals(echoed.findIndex((frame, i) => !sameBytes(frame, marked(i, length))), -1, "a wrong reply");
    });
  }
}

test("serveFrames() sends the right bytes when replies are overlapping parts of one frame", async () => {
  const seen: Uint8Array[] = [];
  await using server = serveFrames({ ...base, format: plain }, async (frame) => {
    seen.push(frame.slice());
    await Promise.resolve();
    return frame.subarray(10, frame.length - 10);
  });
  using peer = await RawPeer.connect(server.addr.port);
  const bodies = [30, 300, 30_000].map((length) => marked(length, length));
  await peer.write(...bodies.map(plainFrame));
  await peer.closeWrite();
  const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
  assertEquals(replies, bodies.map((body) => body.subarray(10, body.length - 10)));
  assertEquals(seen, bodies);
});

for (const length of [10, 20_000]) {
  test(`serveFrames() sends each reply as it was when handlers fill one buffer of ${length} again`, async () => {
    const scratch = new Uint8Array(length), gate = Promise.withResolvers<void>();
    await using server = serveFrames({ ...base, format: plain }, (frame) => {
      if (frame[0] === 0) return gate.promise.then(() => frame);
      return scratch.fill(frame[0]!);
    });
    using peer = await RawPeer.connect(server.addr.port);
    // The first one waits, so the others wait for their turn.
    await peer.write(joined(...[0, 1, 2, 3].map((value) => plainFrame(new Uint8Array([value])))));
    await until(() => server.stats().handled === 4, "all are handled");
    gate.resolve();
    await peer.closeWrite();
    const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
    assertEquals(replies.map((reply) => [reply[0], reply.length]), [[0, 1], [1, length], [2, length], [
      3,
      length,
    ]]);
  });
}

const frameFailures: { name: string; fail(): unknown; error(error: unknown): boolean }[] = [
  {
    name: "throws",
    fail: () => {
      throw new Error("no");
    },
    error: (error) => (error as Error).message === "no",
  },
  {
    name: "throws null",
    fail: () => {
      throw null;
    },
    error: (error) => error === null,
  },
  {
    name: "rejects",
    fail: () => Promise.reject(new Error("no")),
    error: (error) => (error as Error).message === "no",
  },
  { name: "returns a string", fail: () => "no", error: (error) => error instanceof TypeError },
  {
    name: "resolves with a number",
    fail: () => Promise.resolve(1),
    error: (error) => error instanceof TypeError,
  },
  {
    name: "returns a reply over the limit",
    fail: () => new Uint8Array(997),
    error: (error) => error instanceof FrameError && error.code === "too-long" && error.length === 1001,
  },
  {
    name: "resolves with a reply over the limit",
    fail: () => Promise.resolve(new Uint8Array(100_000)),
    error: (error) => error instanceof FrameError && error.code === "too-long",
  },
];

for (const { name, fail, error: isRight } of frameFailures) {
  for (const others of ["at once", "later"]) {
    test(`serveFrames() closes behind the replies before it when a handler ${name}, others settle ${others}`, async () => {
      const events = new Recorder<ServerEvent>(), gate = Promise.withResolvers<void>();
      await using server = serveFrames(
        { ...base, onEvent: events.record, format: { ...plain, maxFrameLength: 1000 } },
        (frame) => {
          if (frame[0] === 3) return fail() as Uint8Array;
          return others === "at once" ? frame : gate.promise.then(() => frame);
        },
      );
      using peer = await RawPeer.connect(server.addr.port);
      await peer.write(joined(...[1, 2, 3, 4, 5].map((number) => plainFrame(new Uint8Array([number])))));
      await until(() => server.stats().handled >= 3, "the handler fails");
      gate.resolve();
      const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
      assertEquals(replies.map(([number]) => number), [1, 2]);
      peer[Symbol.dispose]();
      const { code, error } = await closedReason(events);
      assertEquals([code, isRight(error)], ["handler", true], String(error));
      const errors = events.items.filter(event("handler-error", 1));
      assertEquals([errors.length, isRight(errors[0]!.error), server.stats().handlerErrors], [1, true, 1]);
    });
  }
}

test("serveFrames() accepts a reply of exactly the limit", async () => {
  await using server = serveFrames(
    { ...base, format: { ...plain, maxFrameLength: 1000 } },
    () => new Uint8Array(996),
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(plainFrame("go"));
  assertEquals((await within(peer.readExactly(1000), "the reply")).length, 1000);
});

test("serveFrames() closes behind the replies before it when a handler takes too long", async () => {
  const events = new Recorder<ServerEvent>();
  await using server = serveFrames(
    { ...base, handlerTimeoutMs: 40, onEvent: events.record, format: plain },
    (frame) => frame[0] === 2 ? new Promise<void>(() => {}) : frame,
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...[1, 2, 3].map((number) => plainFrame(new Uint8Array([number])))));
  const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
  assertEquals(replies.map(([number]) => number), [1]);
  peer[Symbol.dispose]();
  const { code, error } = await closedReason(events);
  assertEquals([code, (error as DOMException).name], ["handler", "TimeoutError"]);
  assertEquals(server.stats().limits.handlerTimeoutMs, 1);
});

for (const way of ["throws", "rejects"]) {
  test(`serveFrames() replies with what onError returns when a handler ${way}, and goes on`, async () => {
    const fail = () => {
      throw new Error("no");
    };
    await using server = serveFrames(
      { ...base, format: plain, onError: (_, frame) => joined(frame, new Uint8Array([0xee])) },
      (frame) => frame[0] === 2 ? way === "throws" ? fail() : Promise.resolve().then(fail) : frame,
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(...[1, 2, 3].map((number) => plainFrame(new Uint8Array([number])))));
    await peer.closeWrite();
    const replies = plainFramesIn(await within(peer.readToEnd(), "replies and FIN"));
    assertEquals(replies.map((reply) => [...reply]), [[1], [2, 0xee], [3]]);
    assertEquals(server.stats().handlerErrors, 1);
  });
}

test("serveFrames() closes when onError throws itself", async () => {
  const events = new Recorder<ServerEvent>(), worse = new Error("worse");
  const fail = (error: Error) => {
    throw error;
  };
  await using server = serveFrames(
    { ...base, onEvent: events.record, format: plain, onError: () => fail(worse) },
    () => fail(new Error("bad")),
  );
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(plainFrame("x"));
  assertEquals((await within(peer.readToEnd(), "FIN")).length, 0);
  peer[Symbol.dispose]();
  const { code, error } = await closedReason(events);
  assertEquals([code, error, server.stats().handlerErrors], ["handler", worse, 2]);
});

for (const thrown of [new Error("no"), "text", null, undefined]) {
  test(`serveConnections() closes and tells when a handler throws ${thrown}`, async () => {
    const events = new Recorder<ServerEvent>();
    await using server = serveConnections(
      { ...base, drainTimeoutMs: 500, onEvent: events.record, format: plain },
      async (connection) => {
        await connection.send(new Uint8Array([7]));
        throw thrown;
      },
    );
    using peer = await RawPeer.connect(server.addr.port);
    assertEquals([...await within(peer.readToEnd(), "what was sent, and FIN", 3000)], [0, 0, 0, 1, 7]);
    peer[Symbol.dispose]();
    const { code, error } = await closedReason(events);
    assertEquals([code, error], ["handler", thrown ?? null]);
    assertEquals(events.items.filter(event("handler-error", 1)).map(({ error }) => error), [thrown]);
  });
}

test("serveConnections() closes the polite way when a handler returns at once", async () => {
  const events = new Recorder<ServerEvent>();
  await using server = serveConnections({ ...base, onEvent: events.record, format: plain }, (connection) => {
    connection.send(new Uint8Array([7]));
  });
  using peer = await RawPeer.connect(server.addr.port);
  for (let i = 0; i < 20; i++) await peer.write(plainFrame(marked(i, 10_000)));
  assertEquals([...await within(peer.readToEnd(), "what was sent, and FIN")], [0, 0, 0, 1, 7]);
  peer[Symbol.dispose]();
  const { code, error } = await closedReason(events);
  assertEquals([code, error], ["closed", null]);
});

test("serveConnections() speaks first when its handler does", async () => {
  await using server = serveConnections({ ...base, format: plain }, async (connection) => {
    await connection.send(new TextEncoder().encode("hello"));
    for await (const frame of connection.frames) await connection.send(frame);
  });
  using peer = await RawPeer.connect(server.addr.port);
  assertEquals(text((await within(peer.readExactly(9), "the greeting")).subarray(4)), "hello");
  await peer.write(plainFrame("and you"));
  assertEquals(text((await within(peer.readExactly(11), "the echo")).subarray(4)), "and you");
});

test("connection.send() never mixes frames when many tasks send at once", async () => {
  const tasks = 16, each = 40;
  await using server = serveConnections({ ...base, format: plain }, async (connection) => {
    await Promise.all(Array.from({ length: tasks }, async (_, task) => {
      const buffer = new Uint8Array(45_000);
      for (let turn = 0; turn < each; turn++) {
        // Every length around the border between copying and not, and one buffer used again and again.
        const length = [3, 100, 16_379, 16_380, 16_384, 40_000][(task + turn) % 6]!;
        buffer.fill(task * 16 + turn % 16);
        buffer[0] = task;
        buffer[1] = turn;
        await connection.send(buffer.subarray(0, length));
      }
    }));
  });
  using peer = await RawPeer.connect(server.addr.port);
  const frames = plainFramesIn(await within(peer.readToEnd(), "all frames and FIN"));
  assertEquals(frames.length, tasks * each);
  const turns = new Array<number>(tasks).fill(0);
  for (const frame of frames) {
    const [task, turn] = frame as unknown as [number, number];
    assertEquals(turn, turns[task]!++, `the order of task ${task}`);
    const fill = task * 16 + turn % 16;
    assert(frame.subarray(2).every((byte) => byte === fill), `frame ${turn} of task ${task} is mixed`);
  }
});

test("connection.send() puts frames in the order of the calls when none is waited for", async () => {
  const lengths = [3, 20_000, 5, 16_380, 1, 100_000, 2];
  await using server = serveConnections({ ...base, format: plain }, async (connection) => {
    await Promise.all(lengths.map((length, i) => connection.send(marked(i, length))));
  });
  using peer = await RawPeer.connect(server.addr.port);
  const frames = plainFramesIn(await within(peer.readToEnd(), "all frames and FIN"));
  assertEquals(frames.map(({ length }) => length), lengths);
  assert(frames.every((frame, i) => sameBytes(frame, marked(i, lengths[i]!))));
});

test("serveConnections() says reset when its handler swallows the error of the frames", async () => {
  const events = new Recorder<ServerEvent>();
  await using server = serveConnections(
    { ...base, onEvent: events.record, format: plain },
    async (connection) => {
      try {
        for await (const frame of connection.frames) await connection.send(frame);
      } catch {
        // A handler that does not care.
      }
    },
  );
  await using wire = await Wire.connect({ port: server.addr.port });
  await events.first(event("opened"), "the connection is accepted");
  wire.reset();
  assertEquals((await closedReason(events)).code, "reset");
});

test("serveConnections() gives the handler what was read before when it is shut down", async () => {
  const gate = Promise.withResolvers<void>(), seen: string[] = [];
  await using server = serveConnections({ ...base, format: plain }, async (connection) => {
    for await (const frame of connection.frames) {
      seen.push(text(frame));
      await connection.send(frame);
      await gate.promise;
    }
  });
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(plainFrame("one"));
  await within(peer.readExactly(7), "the first echo");
  await peer.write(plainFrame("two"));
  await until(() => server.stats().bytesRead === 14, "the second frame is read");
  const stopped = server.shutdown();
  // A connect that is refused shows that the listener is closed, and the connections are being drained.
  await until(() => portIsFree(server.addr.port), "the listener is closed");
  gate.resolve();
  assertEquals(text((await within(peer.readToEnd(), "the second echo and FIN")).subarray(4)), "two");
  peer[Symbol.dispose]();
  await within(stopped, "the server has stopped");
  assertEquals(seen, ["one", "two"]);
});

test("serve() leaves nothing on the wire that is not asked for", async () => {
  await using server = serve(base, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, "a"), submitFrame(2, "b"));
  await peer.closeWrite();
  assertEquals(await within(peer.readToEnd(), "answers and FIN"), joined(ackFrame(1), ackFrame(2)));
});

test("Connection.tick() waits writeTimeoutMs for the first bytes too when they are pending at the first tick", async () => {
  const stuck = Promise.withResolvers<never>();
  stuck.promise.catch(() => {});
  const socket = {
    read: () => stuck.promise,
    write: () => stuck.promise,
    closeWrite: () => Promise.resolve(),
    [Symbol.dispose]: () => stuck.reject(new Deno.errors.Interrupted("operation canceled")),
  };
  const ticker = new Ticker(1000); // ticks of 250 ms, of which the test makes each
  const remoteAddr: Deno.NetAddr = { transport: "tcp", hostname: "127.0.0.1", port: 1 };
  const connection = new Connection(socket, remoteAddr, {
    format: submitFormat(),
    slabs: new SlabPool({ poison: true }),
    limits: { writeTimeoutMs: 1000, frameTimeoutMs: Infinity, idleTimeoutMs: Infinity },
    ticker,
    budget: null,
  });
  connection.out.put(new Uint8Array(10));
  connection.out.flush();
  let ticks = 0;
  while (connection.open && ticks < 100) connection.tick(ticker.now = ++ticks, false);
  assertEquals((await connection.closed).code, "limit");
  assert(ticks >= 4 && ticks <= 8, `cut at tick ${ticks}`);
});

function portIsFree(port: number): boolean {
  try {
    Deno.listen({ hostname: "127.0.0.1", port }).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) return false;
    throw error;
  }
}
