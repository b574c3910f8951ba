// Cases: is a slow client served all the same, and does it slow nobody else down?

import { type Answer, pieces, serials, shownId, submit, submits } from "./bytes.ts";
import { Misbehaviour, type ServerCase } from "./case.ts";

const cutting = "How the bytes are cut into segments, reads or writes means nothing.";
const once =
  "A server MUST answer each request that it has read at most once, with the id of the request, and each exactly " +
  "once unless the connection is lost.";
const usual = { group: "slow", level: "MUST", closing: ["open", "fin"] } as const;

export const slow: readonly ServerCase[] = [
  {
    ...usual,
    id: "1.1/18",
    description: "A request whose bytes come one by one, 20 ms apart",
    requirement: cutting,
    accepted: ["it is answered"],
    async run(trial) {
      const peer = await trial.connect();
      for (const byte of pieces(submit(1, "slow"), 1)) {
        await peer.send(byte);
        await trial.pause(20);
      }
      await peer.expectSubmits([1]);
    },
  },
  {
    ...usual,
    id: "4.3/6",
    description: "Thirty connections that stop in the middle of a frame, and one that does not",
    requirement: once,
    accepted: ["the one's requests are answered, and then the others', when their frames are whole"],
    async run(trial) {
      const peer = await trial.connect(),
        others = await trial.connectMany(30),
        bytes = submit(1, "in two parts");
      await Promise.all(others.map((other) => other.send(bytes.subarray(0, 10))));
      await peer.send(submits(1, 50));
      await peer.expectSubmits(serials(1, 50));
      await Promise.all(others.map((other) => other.send(bytes.subarray(10))));
      await Promise.all(others.map((other) => other.expectSubmits([1])));
    },
  },
  {
    ...usual,
    id: "4.3/7",
    description:
      "A client that reads nothing for 200 ms while 500 answers wait, and then one answer at a time",
    requirement: once,
    accepted: ["each request is answered once"],
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.pause();
      await peer.send(submits(1, 500));
      await trial.pause(200);
      peer.wire.resume();
      const due = new Set(serials(1, 500));
      while (due.size > 0) {
        const [{ id }] = await peer.answers(1) as [Answer];
        if (!due.delete(Number(id))) {
          throw new Misbehaviour(`an answer came with the id ${shownId(id)}, not due`);
        }
      }
    },
  },
  {
    ...usual,
    id: "4.3/8",
    description: "A request, nothing for half a second, and another",
    requirement: once,
    accepted: ["both are answered, or the target ends the idle connection with a FIN before the second"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      await trial.pause(500);
      // How long a connection may be idle is the server's own policy.
      if (peer.wire.end === "fin") return;
      await peer.send(submit(2));
      await peer.expectSubmits([2]);
    },
  },
];
