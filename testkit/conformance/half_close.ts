// Cases: is the end of the client's bytes met in order: answers due are sent, a truncated frame is not handled?

import { joined, request, serials, submit, submits } from "./bytes.ts";
import type { ServerCase } from "./case.ts";

const must = { group: "half-close", level: "MUST", closing: ["fin"] } as const;
const allDue = "After the client's FIN, a server MUST send all answers that are due, then its own FIN.";
const truncation =
  "The end anywhere inside a frame is a truncation, also right after `totalLength`. A truncated frame MUST NOT be " +
  "handled.";

/** Requests 1 to `count`, then a FIN right behind them. */
function ended(
  id: string,
  description: string,
  count: number,
  chunks: () => Iterable<Uint8Array>,
): ServerCase {
  return {
    ...must,
    id,
    description,
    requirement: allDue,
    accepted: ["all requests are answered, then the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.wire.sendChunked(chunks());
      peer.wire.fin();
      await peer.expectSubmits(serials(1, count));
      await peer.expectNothingMore();
    },
  };
}

/** A request, the first bytes of another, and a FIN. */
function truncated(id: string, description: string, bytes: Uint8Array): ServerCase {
  return {
    ...must,
    id,
    description: `A request, then ${description}, and a FIN`,
    requirement: truncation,
    accepted: ["the whole request is answered and the truncated one not, then the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1), bytes);
      peer.wire.fin();
      await peer.expectSubmits([1]);
      await peer.expectNothingMore();
    },
  };
}

const second = submit(2, "truncated");

export const halfClose: readonly ServerCase[] = [
  {
    ...must,
    id: "2.5/1",
    description: "A FIN on a connection on which nothing was sent",
    requirement: "The end of a side's bytes between two frames is an orderly end (section 8).",
    accepted: ["nothing comes but the target's FIN"],
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.fin();
      await peer.expectNothingMore();
    },
  },
  truncated("2.5/2", "one byte of a length", second.subarray(0, 1)),
  truncated("2.5/3", "three bytes of a length", second.subarray(0, 3)),
  truncated("2.5/4", "a whole length and nothing behind it", second.subarray(0, 4)),
  truncated("2.5/5", "half an id", second.subarray(0, 9)),
  truncated("2.5/6", "a request that lacks all of its payload", second.subarray(0, 13)),
  truncated("2.5/7", "a request that lacks one byte", second.subarray(0, -1)),
  {
    ...must,
    id: "2.5/8",
    description: "A request cut in its payload, and a FIN 50 ms later",
    requirement: truncation,
    accepted: ["nothing comes but the target's FIN"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(second.subarray(0, -3));
      await trial.pause(50);
      peer.wire.fin();
      await peer.expectNothingMore();
    },
  },
  ended("8.2/1", "A request and a FIN right behind it", 1, () => [submit(1)]),
  ended("8.2/2", "A hundred requests and a FIN right behind them", 100, () => [submits(1, 100, "due")]),
  ended("8.2/3", "Five thousand requests and a FIN right behind them", 5000, () => [submits(1, 5000)]),
  ended(
    "8.2/4",
    "A request byte by byte, and a FIN",
    1,
    () => Array.from(submit(1), (b) => new Uint8Array([b])),
  ),
  {
    ...must,
    id: "8.2/5",
    description: "A request of the limit and a FIN right behind it",
    requirement: allDue,
    accepted: ["it is answered, then the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      const sending = peer.send(submit(1, new Uint8Array(trial.options.maxFrameLength - 13)));
      peer.wire.fin();
      await sending;
      await peer.expectSubmits([1]);
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.2/6",
    description: "A CONN and two SUBMITs, and a FIN right behind them",
    requirement: allDue,
    accepted: ["all three are answered, then the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(joined(request(0x01, 1, trial.options.conn), submits(2, 3)));
      peer.wire.fin();
      await peer.expectAnswers([{ type: "conn", id: 1 }, { type: "submit", id: 2 }, {
        type: "submit",
        id: 3,
      }]);
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.2/7",
    description: "A request that is answered, and a FIN 50 ms later",
    requirement: allDue,
    accepted: ["the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      await trial.pause(50);
      peer.wire.fin();
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.2/8",
    description: "A thousand requests and a FIN, with answers read only 100 ms later",
    requirement: allDue,
    accepted: ["all requests are answered, then the target ends with a FIN"],
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.pause();
      await peer.send(submits(1, 1000));
      peer.wire.fin();
      await trial.pause(100);
      peer.wire.resume();
      await peer.expectSubmits(serials(1, 1000));
      await peer.expectNothingMore();
    },
  },
];
