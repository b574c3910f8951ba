// Cases: is the limit for a frame's length just where it is said to be, and does a promise cost nothing?

import { joined, request, submit, uint32 } from "./bytes.ts";
import { Misbehaviour, type ServerCase } from "./case.ts";

const limitError =
  "A `totalLength` above it is a framing error, and MUST be noticed when its four bytes have arrived; a receiver " +
  "MUST NOT wait for the body.";
const must = { group: "limits", level: "MUST" } as const;

/** A case that sends a request, then a length above the limit, with what is given behind it. */
function above(
  id: string,
  description: string,
  length: (limit: number) => number,
  cutAt?: number,
): ServerCase {
  return {
    ...must,
    id,
    description,
    requirement: limitError,
    accepted: ["the request before it is answered, and the target ends without waiting for a body"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect(), bytes = uint32(length(trial.options.maxFrameLength));
      await peer.send(submit(1), bytes.subarray(0, cutAt ?? 4));
      if (cutAt !== undefined) {
        await trial.pause(30);
        await peer.send(bytes.subarray(cutAt));
      }
      await peer.expectSubmits([1]);
      await peer.expectNothingMore();
    },
  };
}

export const limits: readonly ServerCase[] = [
  {
    ...must,
    id: "2.3/1",
    description: "A request of exactly the limit, and another behind it",
    requirement: "A frame of exactly the limit MUST be accepted.",
    accepted: ["both are answered"],
    closing: ["open", "fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, new Uint8Array(trial.options.maxFrameLength - 13)), submit(2));
      await peer.expectSubmits([1, 2]);
    },
  },
  {
    ...must,
    id: "2.3/2",
    description: "A request of one byte below the limit",
    requirement: "A frame of exactly the limit MUST be accepted.",
    accepted: ["it is answered"],
    closing: ["open", "fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, new Uint8Array(trial.options.maxFrameLength - 14)));
      await peer.expectSubmits([1]);
    },
  },
  above("2.3/3", "A length of one above the limit, and no body", (limit) => limit + 1),
  above("2.3/4", "A length of twice the limit, and no body", (limit) => limit * 2),
  above("2.3/5", "The length 0x7fffffff, and no body", () => 0x7fff_ffff),
  above("2.3/6", "The length 0x80000000, negative to who takes it for signed", () => 0x8000_0000),
  above("2.3/7", "The length 0xffffffff, minus one to who takes it for signed", () => 0xffff_ffff),
  above(
    "2.3/8",
    "A length of one above the limit, its last byte 30 ms behind the others",
    (limit) => limit + 1,
    3,
  ),
  {
    ...must,
    id: "2.3/9",
    description: "A length of one above the limit with all of its body, and a request behind it",
    requirement: limitError,
    accepted: ["neither is answered"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, new Uint8Array(trial.options.maxFrameLength - 12)), submit(2));
      await peer.expectNothingMore();
    },
  },
  {
    group: "limits",
    level: "SHOULD",
    id: "2.4/1",
    description: "128 connections that each promise a frame of the limit and send 5 bytes of it",
    requirement:
      "A receiver MUST NOT reserve memory for a `totalLength` that it has not accepted, and SHOULD reserve no more " +
      "than in proportion to the bytes that it has received.",
    accepted: ["the target's memory grows by less than half of what was promised"],
    closing: ["open", "fin"],
    alone: true,
    needs: "memory",
    async run(trial) {
      const { maxFrameLength, memory } = trial.options, count = 128;
      const peers = await trial.connectMany(count);
      // All connections are known to the target before its memory is first looked at.
      await Promise.all(peers.map((peer) => peer.send(submit(1))));
      for (const peer of peers) await peer.expectSubmits([1]);
      const before = await memory!();
      const begun = request(0x02, 2).subarray(4, 9);
      await Promise.all(peers.map((peer) => peer.send(joined(uint32(maxFrameLength), begun))));
      await trial.pause(200);
      const grown = await memory!() - before, promised = count * maxFrameLength;
      if (grown * 2 < promised) return;
      throw new Misbehaviour(`${promised} bytes were promised, and the target's memory grew by ${grown}`);
    },
  },
];
