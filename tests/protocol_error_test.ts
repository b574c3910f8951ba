// What becomes of a peer that sends what the protocol does not allow? What came before is answered, the error
// is told, the peer sees an honest end, and nobody else is harmed.

import { assertEquals, assertInstanceOf } from "@std/assert";
import { type CloseCode, type Dialect, FrameError, type ServeOptions } from "../mod.ts";
import { serve, serveConnections, serveFrames } from "./support/doors.ts";
import { type ErrorFacts, factsOf, ServerEvents } from "./support/events.ts";
import { bodiesIn, selfCounting } from "./support/frames.ts";
import {
  ackFrame,
  acksIn,
  frameOf,
  joined,
  RawPeer,
  type ReadAck,
  request,
  submitFrame,
} from "./support/peer.ts";
import { turn } from "./support/turn.ts";
import { until, within } from "./support/wait.ts";

const maxFrameLength = 64;
const dialects = ["spec", "legacy"] as const;
const acks = { spec: { conn: 0x81, submit: 0x82 }, legacy: { conn: 0x80, submit: 0x81 } };

interface Violation {
  readonly what: string;
  readonly dialect: Dialect;
  readonly bytes: Uint8Array;
  readonly error: ErrorFacts;
}

/** A length field alone: whoever knows that it is bad need not wait for more. */
function lengthField(length: number): Uint8Array {
  return new Uint8Array([length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255]);
}

function badLengths(): { length: number; error: ErrorFacts }[] {
  return [
    ...[0, 1, 2, 3].map((length) => ({
      length,
      error: { name: "FrameError", code: "too-short", met: length, limit: 4 } as const,
    })),
    ...[maxFrameLength + 1, 0x7fff_ffff, 0xffff_fff6, 0xffff_ffff].map((length) => ({
      length,
      error: { name: "FrameError", code: "too-long", met: length, limit: maxFrameLength } as const,
    })),
  ];
}

function violationsOf(dialect: Dialect): Violation[] {
  const violations: Violation[] = badLengths().map(({ length, error }) => ({
    what: `length ${length}`,
    dialect,
    bytes: lengthField(length),
    error,
  }));
  for (let length = 4; length <= 12; length++) {
    const body = request(0x02, "12345678").subarray(4, length);
    violations.push({
      what: `length ${length}, below the fixed part`,
      dialect,
      bytes: frameOf(body),
      error: { name: "PacketError", code: "too-short", met: length - 4, limit: 9 },
    });
  }
  const command = (what: string, code: string, command: number, payload = "") =>
    violations.push({
      what: `${what} 0x${command.toString(16)}`,
      dialect,
      bytes: request(command, "12345678", payload),
      error: { name: "PacketError", code, met: command, limit: undefined },
    });
  for (const unknown of [0x00, 0x03, 0x7f, 0x83, 0xff]) {
    command("unknown command", "unknown-command", unknown, "x");
  }
  const own = acks[dialect], other = acks[dialect === "spec" ? "legacy" : "spec"];
  for (const answer of [own.conn, own.submit]) command("answer", "unexpected-command", answer, "\0");
  for (const answer of [other.conn, other.submit]) {
    if (answer !== own.conn && answer !== own.submit) {
      command("the other dialect's answer", "other-dialect", answer, "\0");
    }
  }
  return violations;
}

const violations = dialects.flatMap(violationsOf);
/** One that the framing finds, one that a whole packet shows, one in the other dialect. */
const someViolations = [
  violations.find(({ dialect, what }) => dialect === "spec" && what === "length 4294967286")!,
  violations.find(({ dialect, what }) => dialect === "spec" && what === "length 12, below the fixed part")!,
  violations.find(({ dialect, what }) => dialect === "legacy" && what === "the other dialect's answer 0x82")!,
];

/** What comes before the violation, and how it is to be answered. */
const before = [request(0x01, "00000001", "me"), submitFrame(2, "two"), submitFrame(3, "three")];
function answersBefore(dialect: Dialect): ReadAck[] {
  const { conn, submit } = acks[dialect];
  return acksIn(joined(ackFrame(1, 0, conn), ackFrame(2, 0, submit), ackFrame(3, 0, submit)));
}

interface Outcome {
  readonly handled: string[];
  readonly answers: ReadAck[];
  readonly events: string[];
  readonly told: ErrorFacts;
  readonly reason: CloseCode;
  /** Whether the reason names the very error of the event. */
  readonly sameError: boolean;
  readonly counted: number;
}

function expected({ dialect, error }: Violation, slow = false): Outcome {
  return {
    handled: ["two", "three"],
    answers: answersBefore(dialect),
    events: slow
      ? ["opened", "protocol-error", "settled", "settled", "closed"]
      : ["opened", "protocol-error", "closed"],
    told: error,
    reason: "protocol",
    sameError: true,
    counted: 1,
  };
}

/** How a peer lets the good frames and the bad one go; returns the answers that it has read meanwhile. */
type Sending = (peer: RawPeer, bad: Uint8Array) => Promise<ReadAck[]>;

const sendings: Record<string, Sending> = {
  "in one chunk with good frames": async (peer, bad) => {
    await peer.write(joined(...before, bad));
    return [];
  },
  "in pieces of one byte": async (peer, bad) => {
    for (const byte of joined(...before, bad)) await peer.write(new Uint8Array([byte]));
    return [];
  },
  "with megabytes behind it": async (peer, bad) => {
    await peer.write(joined(...before, bad), ...flood);
    return [];
  },
};
const sendingWithPause: Sending = async (peer, bad) => {
  await peer.write(...before);
  const answers = await peer.readAcks(3);
  await peer.write(bad);
  return answers;
};

const flood = Array.from({ length: 16 }, () => new Uint8Array(524_288).fill(0x02));

async function outcomeOf(
  { dialect, bytes }: Violation,
  send: Sending,
  options: ServeOptions = {},
  work?: (events: ServerEvents) => Promise<void>,
): Promise<Outcome> {
  const events = new ServerEvents(), handled: string[] = [], steps: string[] = [];
  const onEvent: ServeOptions["onEvent"] = (event) => {
    // What becomes of sessions, of limits and of the server itself is told too, and no matter here.
    if (!["authenticated", "limit", "draining", "drained"].includes(event.type)) steps.push(event.type);
    events.record(event);
  };
  await using server = serve(
    { port: 0, poison: true, maxFrameLength, dialect, onEvent, ...options },
    ({ payload }) => {
      if (work === undefined) return void handled.push(new TextDecoder().decode(payload));
      return work(events).then(() => {
        handled.push(new TextDecoder().decode(payload)); // a loan lasts until the handler settles
        steps.push("settled");
      });
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  const answers = await within(send(peer, bytes), "sent");
  answers.push(...await within(peer.readAcksToEnd(), "answers, then EOF"));
  peer[Symbol.dispose](); // the end was seen: let the server not wait for ours
  const { code, error } = await events.closed();
  const told = (await events.next("protocol-error")).error;
  return {
    handled,
    answers,
    events: steps,
    told: factsOf(told),
    reason: code,
    sameError: told === error,
    counted: server.stats().protocolErrors,
  };
}

for (const violation of violations) {
  const { what, dialect } = violation;
  Deno.test(`serve() answers what came before, tells and ends when ${what} comes (${dialect})`, async () => {
    const outcome = await outcomeOf(violation, sendings["in one chunk with good frames"]!);
    assertEquals(outcome, expected(violation));
  });
}

for (const violation of someViolations) {
  const { what } = violation;
  for (const [how, send] of Object.entries(sendings)) {
    Deno.test(`serve() answers at once what came before ${what} ${how}`, async () => {
      assertEquals(await outcomeOf(violation, send), expected(violation));
    });

    Deno.test(`serve() waits for slow handlers when ${what} comes ${how}`, async () => {
      const untilTold = async (events: ServerEvents) => void await events.next("protocol-error");
      assertEquals(await outcomeOf(violation, send, {}, untilTold), expected(violation, true));
    });

    Deno.test(`serve() finds ${what} behind what waits for its turn ${how}`, async () => {
      const outcome = await outcomeOf(violation, send, { maxInFlight: 1 }, () => turn());
      const events = ["opened", "settled", "settled", "protocol-error", "closed"];
      assertEquals(outcome, { ...expected(violation), events });
    });
  }

  Deno.test(`serve() tells and ends when ${what} comes after the answers were read`, async () => {
    assertEquals(await outcomeOf(violation, sendingWithPause), expected(violation));
  });

  Deno.test(`serve() discards while handlers are slow when ${what} comes before megabytes`, async () => {
    // The handlers settle after the peer has written everything: it must be able to, while they hold a slab.
    const written = Promise.withResolvers<void>();
    const send: Sending = async (peer, bad) => {
      await peer.write(joined(...before, bad), ...flood);
      written.resolve();
      return [];
    };
    assertEquals(await outcomeOf(violation, send, {}, () => written.promise), expected(violation, true));
  });
}

Deno.test("serve() handles no frame when it lies behind a bad one", async () => {
  const [, packet] = someViolations;
  const send: Sending = async (peer, bad) => {
    await peer.write(joined(...before, bad, submitFrame(4, "four")), submitFrame(5, "five"));
    return [];
  };
  assertEquals((await outcomeOf(packet!, send)).handled, ["two", "three"]);
});

Deno.test("serve() accepts a frame when it has just the limit", async () => {
  await using server = serve({ port: 0, poison: true, maxFrameLength }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(submitFrame(1, new Uint8Array(maxFrameLength - 13)));
  assertEquals(await within(peer.readAcks(1), "answer"), acksIn(ackFrame(1)));
});

/** Replies of 64 KiB: more than the kernel takes for a peer that does not read. */
const replyBytes = 65_532, replyCount = 200;

/** A server that repeats the request's number in a long reply, and a peer that asks 200 times, then errs. */
function serveLong(events: ServerEvents) {
  return serveFrames(
    // All replies may be pending: the bad frame is found although the peer has read nothing.
    { port: 0, poison: true, format: selfCounting, outboundHighWaterBytes: 2 ** 26, onEvent: events.record },
    (frame) => new Uint8Array(replyBytes).fill(frame[0]!),
  );
}

const longRequests = Array.from({ length: replyCount }, (_, index) => frameOf(new Uint8Array([index])));

function assertLongReplies(bytes: Uint8Array): void {
  const bodies = bodiesIn(bytes);
  assertEquals(bodies.map((body) => body[0]), longRequests.map((_, index) => index));
  assertEquals(
    bodies.every((body) => body.length === replyBytes && body.every((byte) => byte === body[0])),
    true,
  );
}

Deno.test("serveFrames() delivers megabytes when the peer first writes as many behind an error", async () => {
  const events = new ServerEvents();
  await using server = serveLong(events);
  using peer = await RawPeer.connect(server.addr.port);
  await within(peer.write(joined(...longRequests, lengthField(0)), ...flood), "written without reading");
  assertLongReplies(await within(peer.readToEnd(), "replies, then EOF"));
});

Deno.test("serveFrames() delivers megabytes when the peer reads while writing behind an error", async () => {
  const events = new ServerEvents();
  await using server = serveLong(events);
  using peer = await RawPeer.connect(server.addr.port);
  const replies = peer.readToEnd();
  await within(peer.write(joined(...longRequests, lengthField(0)), ...flood), "written");
  assertLongReplies(await within(replies, "replies, then EOF"));
});

Deno.test("serve() delivers answers and EOF, then ends, when a peer floods behind an error", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  const flooding = peer.write(joined(...before, lengthField(3)))
    .then(async () => {
      for (;;) await peer.write(...flood);
    })
    .catch(() => "cut");
  assertEquals(await within(peer.readAcksToEnd(), "answers, then EOF"), answersBefore("spec"));
  assertEquals(await within(flooding, "the flood is cut"), "cut");
  assertEquals((await events.closed()).code, "protocol");
});

Deno.test("serve() ends a connection when its peer neither reads nor closes behind an error", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...before, lengthField(3)));
  assertEquals((await events.closed()).code, "protocol");
  // What was due is there even now.
  assertEquals(await within(peer.readAcksToEnd(), "answers, then EOF"), answersBefore("spec"));
});

Deno.test("serve() tells and ends when the peer has half-closed behind an error", async () => {
  const events = new ServerEvents();
  await using server = serve({ port: 0, poison: true, onEvent: events.record }, () => {});
  using peer = await RawPeer.connect(server.addr.port);
  await peer.write(joined(...before, lengthField(3)));
  await peer.closeWrite();
  assertEquals(await within(peer.readAcksToEnd(), "answers, then EOF"), answersBefore("spec"));
  assertEquals((await events.closed()).code, "protocol");
});

for (const { length, error } of badLengths()) {
  Deno.test(`serveFrames() replies to what came before, tells and ends when it reads ${length}`, async () => {
    const events = new ServerEvents();
    await using server = serveFrames(
      { port: 0, poison: true, format: { ...selfCounting, maxFrameLength }, onEvent: events.record },
      async (frame) => {
        if (frame[0] === 1) await events.next("protocol-error"); // holds up the second one's reply
        return frame;
      },
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(frameOf(new Uint8Array([1])), frameOf(new Uint8Array([2])), lengthField(length)));
    const replies = bodiesIn(await within(peer.readToEnd(), "replies, then EOF"));
    peer[Symbol.dispose]();
    const { code } = await events.closed();
    assertEquals(
      { replies, code, error: factsOf((await events.next("protocol-error")).error) },
      { replies: [new Uint8Array([1]), new Uint8Array([2])], code: "protocol", error },
    );
  });

  Deno.test(`serveConnections() shows the error behind good frames when it reads ${length}`, async () => {
    const events = new ServerEvents(), frames: Uint8Array[] = [];
    await using server = serveConnections(
      { port: 0, poison: true, format: { ...selfCounting, maxFrameLength }, onEvent: events.record },
      async (connection) => {
        for await (const frame of connection.frames) {
          frames.push(frame);
          await connection.send(frame);
        }
      },
    );
    using peer = await RawPeer.connect(server.addr.port);
    await peer.write(joined(frameOf(new Uint8Array([1])), frameOf(new Uint8Array([2])), lengthField(length)));
    const replies = bodiesIn(await within(peer.readToEnd(), "replies, then EOF"));
    peer[Symbol.dispose]();
    const { code } = await events.closed(), good = [new Uint8Array([1]), new Uint8Array([2])];
    assertEquals(
      { frames, replies, code, error: factsOf((await events.next("protocol-error")).error) },
      { frames: good, replies: good, code: "protocol", error },
    );
  });
}

Deno.test("serveConnections() sends what its handler says when that has caught the error", async () => {
  await using server = serveConnections(
    { port: 0, poison: true, format: { ...selfCounting, maxFrameLength } },
    async (connection) => {
      try {
        for await (const _ of connection.frames);
      } catch (error) {
        assertInstanceOf(error, FrameError);
        await connection.send(new TextEncoder().encode(error.code));
      }
    },
  );
  using peer = await RawPeer.connect(server.addr.port);
  await within(peer.write(lengthField(65), ...flood), "written");
  const [body] = bodiesIn(await within(peer.readToEnd(), "reply, then EOF"));
  assertEquals(new TextDecoder().decode(body), "too-long");
});

Deno.test("serve() serves all other connections when one peer after the other errs", async () => {
  const events = new ServerEvents(), rounds = 20;
  await using server = serve({ port: 0, poison: true, onEvent: events.record, maxFrameLength }, () => turn());
  const peers = await Promise.all(Array.from({ length: 8 }, () => RawPeer.connect(server.addr.port)));
  try {
    for (let round = 1; round <= rounds; round++) {
      using bad = await RawPeer.connect(server.addr.port);
      const { bytes } = violations[round % violations.length]!;
      await Promise.all([
        bad.write(bytes, submitFrame(1)),
        ...peers.map((peer) => peer.write(submitFrame(round))),
      ]);
      assertEquals(await within(bad.readAcksToEnd(), "EOF"), []);
    }
    const answers = await within(Promise.all(peers.map((peer) => peer.readAcks(rounds))), "all answers");
    const all = acksIn(joined(...Array.from({ length: rounds }, (_, index) => ackFrame(index + 1))));
    assertEquals(answers, peers.map(() => all));
    await until(() => server.stats().connectionsOpen === peers.length, "the bad ones are gone");
    assertEquals(server.stats().protocolErrors, rounds);
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});
