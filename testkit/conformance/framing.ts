// Cases: are frames found however the bytes are cut, and are lengths read as the protocol says?

import { between, randomFrom } from "../random.ts";
import { answerLength, idOf, joined, pieces, serials, submit, submits, utf8 } from "./bytes.ts";
import { Misbehaviour, type ServerCase } from "./case.ts";

const cutting = "How the bytes are cut into segments, reads or writes means nothing.";
const counting = "`totalLength` counts itself: it is the length of the body plus 4.";

/** What most cases have in common: the target answers, and may leave the connection open or end it in order. */
const usual = { group: "framing", level: "MUST", closing: ["open", "fin"] } as const;
const each = ["each request is answered once, with SUBMIT-ACK and its id"];

/** A case whose bytes, cut in some way, hold the requests 1 to `count`. */
function cut(
  id: string,
  description: string,
  count: number,
  chunks: () => Iterable<Uint8Array>,
): ServerCase {
  return {
    ...usual,
    id,
    description,
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      await peer.wire.sendChunked(chunks());
      await peer.expectSubmits(serials(1, count));
    },
  };
}

export const framing: readonly ServerCase[] = [
  cut("1.1/1", "One request in one segment", 1, () => [submit(1, "one")]),
  cut("1.1/2", "One request, one byte at a time", 1, () => pieces(submit(1, "byte by byte"), 1)),
  {
    ...usual,
    id: "1.1/3",
    description: "A request for each place where it can be cut in two",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect(), length = submit(1, "cut").length;
      for (const at of serials(1, length - 1)) {
        const bytes = submit(at, "cut");
        await peer.wire.sendChunked([bytes.subarray(0, at), bytes.subarray(at)]);
        await peer.expectSubmits([at]);
      }
    },
  },
  {
    ...usual,
    id: "1.1/4",
    description: "A length that comes in two parts, 30 ms apart, cut behind its first, second and third byte",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      for (const at of [1, 2, 3]) {
        const bytes = submit(at, "length");
        await peer.send(bytes.subarray(0, at));
        await trial.pause(30);
        await peer.send(bytes.subarray(at));
        await peer.expectSubmits([at]);
      }
    },
  },
  {
    ...usual,
    id: "1.1/5",
    description: "A length, and its body 30 ms later",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect(), bytes = submit(1, "body");
      await peer.send(bytes.subarray(0, 4));
      await trial.pause(30);
      await peer.send(bytes.subarray(4));
      await peer.expectSubmits([1]);
    },
  },
  cut("1.1/6", "Two requests in one segment", 2, () => [submits(1, 2, "two")]),
  cut("1.1/7", "A hundred requests in one segment", 100, () => [submits(1, 100, "many")]),
  cut("1.1/8", "One request and a half, then the rest", 2, () => {
    const bytes = submits(1, 2, "half"), half = bytes.length * 3 / 4;
    return [bytes.subarray(0, half), bytes.subarray(half)];
  }),
  {
    ...usual,
    id: "1.1/9",
    description:
      "A request with the next one's first bytes, up to its whole length, for each number of these",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      for (const [index, extra] of [1, 2, 3, 4].entries()) {
        const first = 2 * index + 1, bytes = submits(first, first + 1), end = bytes.length / 2 + extra;
        await peer.send(bytes.subarray(0, end));
        await peer.expectSubmits([first]);
        await peer.send(bytes.subarray(end));
        await peer.expectSubmits([first + 1]);
      }
    },
  },
  ...[2, 3, 5, 7, 13, 16].map((length, index) =>
    cut(
      `1.1/${10 + index}`,
      `Twelve requests in pieces of ${length} bytes`,
      12,
      () => pieces(submits(1, 12, "x"), length),
    )
  ),
  {
    ...usual,
    id: "1.1/16",
    description: "A long request in segments of 1000 bytes, and a short one right behind it",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      const payload = new Uint8Array(Math.min(100_000, trial.options.maxFrameLength - 13));
      const bytes = joined(submit(1, payload), submit(2, "short"));
      await peer.wire.sendChunked(pieces(bytes, Math.max(1000, bytes.length / 50)));
      await peer.expectSubmits([1, 2]);
    },
  },
  {
    ...usual,
    id: "1.1/17",
    description: "Two hundred requests of many lengths, cut at places drawn from seed 7",
    requirement: cutting,
    accepted: each,
    async run(trial) {
      const random = randomFrom(7);
      const bytes = joined(
        ...serials(1, 200).map((serial) => submit(serial, new Uint8Array(between(random, 0, 300)))),
      );
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < bytes.length;) {
        const end = at + between(random, 1, 1500);
        chunks.push(bytes.subarray(at, end));
        at = end;
      }
      const peer = await trial.connect();
      await peer.wire.sendChunked(chunks);
      await peer.expectSubmits(serials(1, 200));
    },
  },
  {
    ...usual,
    id: "1.2/1",
    description: "A connection on which nothing is sent for 100 ms, then a request",
    requirement: "There is no preamble: the first byte that each side sends is the first byte of a frame.",
    accepted: ["nothing comes before the request, and then its answer"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.expectSilence(100);
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
    },
  },
  {
    ...usual,
    id: "1.3/1",
    description: "A request of 258 bytes, whose length has two bytes that are not 0",
    requirement: "All integers are unsigned and big-endian.",
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, new Uint8Array(258 - 13)), submit(2));
      await peer.expectSubmits([1, 2]);
    },
  },
  {
    ...usual,
    id: "1.3/2",
    description: "A request, and a look at the length of its answer",
    requirement: "All integers are unsigned and big-endian.",
    accepted: ["the first four bytes that come are 00 00 00 0e"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      const bytes = await peer.wire.readExactly(4, { timeoutMs: trial.leftMs });
      if (bytes.toHex() !== "0000000e") throw new Misbehaviour(`the first four bytes are ${bytes.toHex()}`);
    },
  },
  {
    ...usual,
    id: "2.1/1",
    description: "Two requests, the first one with a payload of five bytes",
    requirement: counting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, "12345"), submit(2));
      await peer.expectSubmits([1, 2]);
    },
  },
  {
    ...usual,
    id: "2.1/2",
    description: "Requests with payloads of 0 to 64 bytes, one behind the other",
    requirement: counting,
    accepted: each,
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(...serials(1, 65).map((serial) => submit(serial, new Uint8Array(serial - 1))));
      await peer.expectSubmits(serials(1, 65));
    },
  },
  {
    ...usual,
    id: "2.1/3",
    description: "A payload that looks like a whole request of its own",
    requirement: "The payload is any bytes, none too.",
    accepted: ["one answer, to the outer request alone, before the next request's"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, submit(7)), submit(2));
      await peer.expectSubmits([1, 2]);
      await peer.expectSilence(50);
    },
  },
  {
    ...usual,
    id: "4.2/1",
    description: "A request, and a look at how many bytes come",
    requirement: "The body of an answer is exactly 10 bytes, its frame 14.",
    accepted: [`${answerLength} bytes, and none more within 100 ms`],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, utf8(idOf(1))));
      await peer.expectSubmits([1]);
      await peer.expectSilence(100);
    },
  },
];
