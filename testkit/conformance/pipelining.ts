// Cases: is each of many requests under way answered exactly once, with its own id?

import { idOf, joined, request, serials, submit, submits } from "./bytes.ts";
import type { ServerCase } from "./case.ts";

const must = { group: "pipelining", level: "MUST", closing: ["open", "fin"] } as const;
const once =
  "A server MUST answer each request that it has read at most once, with the id of the request, and each exactly " +
  "once unless the connection is lost.";
const accepted = ["each request is answered once with its own id, in any order, and nothing more comes"];

export const pipelining: readonly ServerCase[] = [
  {
    ...must,
    id: "4.3/1",
    description: "A thousand requests, one by one, each when the one before is answered",
    requirement: once,
    accepted,
    async run(trial) {
      const peer = await trial.connect();
      for (const serial of serials(1, 1000)) {
        await peer.send(submit(serial));
        await peer.expectSubmits([serial]);
      }
    },
  },
  {
    ...must,
    id: "4.3/2",
    description: "Two thousand requests at once",
    requirement: once,
    accepted,
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submits(1, 2000));
      await peer.expectSubmits(serials(1, 2000));
      await peer.expectSilence(50);
    },
  },
  {
    ...must,
    id: "4.3/3",
    description: "Twenty thousand requests with payloads, sent while answers are read",
    requirement: once,
    accepted,
    patience: 3,
    async run(trial) {
      const peer = await trial.connect();
      const sending = peer.send(submits(1, 20_000, "sixteen bytes or"));
      await peer.expectSubmits(serials(1, 20_000));
      await sending;
    },
  },
  {
    ...must,
    id: "4.3/4",
    description: "Requests with long and short payloads in turn, all at once",
    requirement: once,
    accepted,
    async run(trial) {
      const peer = await trial.connect(), long = Math.min(50_000, trial.options.maxFrameLength - 13);
      const sending = peer.send(
        ...serials(1, 20).map((serial) => submit(serial, new Uint8Array(serial % 2 === 0 ? long : 1))),
      );
      await peer.expectSubmits(serials(1, 20));
      await sending;
    },
  },
  {
    ...must,
    id: "4.3/5",
    description: "A CONN, a second one and three SUBMITs in one segment",
    requirement: once,
    accepted: [
      "five answers, each with the command and id of its own request, the second CONN's with the result 1",
    ],
    async run(trial) {
      const peer = await trial.connect(), { conn } = trial.options;
      await peer.send(request(0x01, 1, conn), request(0x01, 2, conn), submits(3, 5));
      await peer.expectAnswers([
        { type: "conn", id: 1 },
        { type: "conn", id: 2, result: 1 },
        ...[3, 4, 5].map((id) => ({ type: "submit", id } as const)),
      ]);
      await peer.expectSilence(50);
    },
  },
  {
    ...must,
    id: "7.1/1",
    description:
      "Requests sent on while earlier ones are under way, in ten bursts, with nothing read between",
    requirement: "A client MAY send requests without waiting for answers.",
    accepted,
    async run(trial) {
      const peer = await trial.connect();
      for (let burst = 0; burst < 10; burst++) {
        await peer.send(submits(burst * 50 + 1, burst * 50 + 50));
        await trial.pause(5);
      }
      await peer.expectSubmits(serials(1, 500));
    },
  },
  {
    ...must,
    id: "7.1/2",
    description: "Ids that wrap in one burst: from 99999998 over 99999999 to 00000001",
    requirement: "After `99999999` comes `00000001`.",
    accepted,
    async run(trial) {
      const peer = await trial.connect(), ids = [99_999_998, 99_999_999, 1, 2];
      await peer.send(joined(...ids.map((id) => submit(idOf(id)))));
      await peer.expectSubmits(ids);
    },
  },
];
