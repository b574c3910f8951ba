// Cases: are connections served at the same time, and each by itself?

import { frame, joined, request, serials, submit, submits } from "./bytes.ts";
import { Misbehaviour, type ServerCase } from "./case.ts";

const usual = {
  group: "concurrency",
  level: "MUST",
  requirement:
    "A server MUST answer each request that it has read at most once, with the id of the request, and each exactly " +
    "once unless the connection is lost.",
  closing: ["open", "fin"],
} as const;

export const concurrency: readonly ServerCase[] = [
  {
    ...usual,
    id: "4.3/9",
    description: "A connection on which nothing is sent, and another made after it",
    accepted: ["the other one's request is answered while the first is open"],
    async run(trial) {
      await trial.connect();
      await trial.expectAlive();
    },
  },
  {
    ...usual,
    id: "4.3/10",
    description: "Fifty connections at once, twenty requests on each, with the same ids on all",
    accepted: ["each connection gets the answers to its own requests"],
    async run(trial) {
      const peers = await trial.connectMany(50);
      await Promise.all(peers.map(async (peer) => {
        await peer.send(submits(1, 20, "each"));
        await peer.expectSubmits(serials(1, 20));
      }));
    },
  },
  {
    ...usual,
    id: "4.3/11",
    description: "Twenty connections, a different number of requests on each, sent in turns byte by byte",
    accepted: ["each connection gets the answers to its own requests, and no other's"],
    async run(trial) {
      const peers = await trial.connectMany(20);
      const bytes = peers.map((_, index) => submits(100 * index + 1, 100 * index + 1 + index % 4));
      const longest = Math.max(...bytes.map(({ length }) => length));
      for (let at = 0; at < longest; at++) {
        await Promise.all(peers.map((peer, index) => peer.send(bytes[index]!.subarray(at, at + 1))));
      }
      await Promise.all(
        peers.map((peer, index) => peer.expectSubmits(serials(100 * index + 1, 100 * index + 1 + index % 4))),
      );
      await Promise.all(peers.map((peer) => peer.expectSilence(50)));
    },
  },
  {
    ...usual,
    id: "4.3/12",
    description: "Something malformed on one connection, while others are open",
    accepted: ["requests on the others are answered"],
    async run(trial) {
      const [peer, bad, worse] = await trial.connectMany(3);
      await peer!.send(submit(1));
      await peer!.expectSubmits([1]);
      await bad!.send(frame(new Uint8Array(0), 2));
      await worse!.send(joined(submit(1), request(0x44, 2)));
      await bad!.expectNothingMore();
      await peer!.send(submit(2));
      await peer!.expectSubmits([2]);
    },
  },
  {
    ...usual,
    id: "4.3/13",
    description: "A hundred connections one after the other, each with a request and a FIN",
    accepted: ["each request is answered, and each connection ended with a FIN"],
    closing: ["fin"],
    patience: 2,
    async run(trial) {
      for (const serial of serials(1, 100)) {
        const peer = await trial.connect();
        await peer.send(submit(serial));
        peer.wire.fin();
        await peer.expectSubmits([serial]);
        await peer.expectNothingMore();
        if (peer.wire.end !== "fin") throw new Misbehaviour(`connection ${serial} did not end with a FIN`);
        await peer.wire[Symbol.asyncDispose]();
      }
    },
  },
  {
    ...usual,
    id: "4.3/14",
    description: "A session on one connection, and a CONN on another",
    requirement: "A second CONN is answered 1, and the connection stays.",
    accepted: ["the other connection's CONN is its first one, and is accepted"],
    async run(trial) {
      const [peer, other] = await trial.connectMany(2);
      await peer!.open(1);
      const result = await other!.conn(1);
      if (result !== 0) throw new Misbehaviour(`the other connection's CONN was answered ${result}`);
    },
  },
];
