// Cases: does the target live on when a client resets its connection, whenever that is?

import { joined, serials, submit, submits, uint32 } from "./bytes.ts";
import type { ServerCase } from "./case.ts";

const usual = {
  group: "reset",
  level: "MUST",
  // Derived: a request on a connection that is not lost is answered, whatever becomes of another connection.
  requirement:
    "A server MUST answer each request that it has read at most once, with the id of the request, and each exactly " +
    "once unless the connection is lost.",
  accepted: ["a request on another connection is answered"],
  closing: ["by the kit"],
} as const;

/** A reset behind some bytes; a second connection, open all the time, and a third, made afterwards, must work. */
function resetBehind(id: string, description: string, bytes: () => Uint8Array, delayMs = 0): ServerCase {
  return {
    ...usual,
    id,
    description,
    async run(trial) {
      const [peer, other] = await trial.connectMany(2);
      await other!.send(submit(1));
      await other!.expectSubmits([1]);
      await peer!.send(bytes());
      await trial.pause(delayMs);
      peer!.wire.reset();
      await trial.pause(20);
      await other!.send(submit(2));
      await other!.expectSubmits([2]);
      await trial.expectAlive();
    },
  };
}

export const resets: readonly ServerCase[] = [
  resetBehind("8.1/1", "A reset on a connection on which nothing was sent", () => new Uint8Array(0), 20),
  resetBehind("8.1/2", "A reset in the middle of a length", () => uint32(20).subarray(0, 2), 20),
  resetBehind("8.1/3", "A reset in the middle of a body", () => submit(1, "cut here").subarray(0, -4), 20),
  resetBehind("8.1/4", "A reset right behind a hundred requests", () => submits(1, 100)),
  resetBehind("8.1/5", "A reset behind something malformed", () => joined(submit(1), uint32(2)), 20),
  {
    ...usual,
    id: "8.1/6",
    description: "A reset 20 ms behind a FIN with answers due",
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.pause();
      await peer.send(submits(1, 500));
      peer.wire.fin();
      await trial.pause(20);
      peer.wire.reset();
      await trial.expectAlive();
    },
  },
  {
    ...usual,
    id: "8.1/7",
    description: "Fifty connections that are reset behind a request each, all at once",
    async run(trial) {
      const peers = await trial.connectMany(50);
      await Promise.all(peers.map((peer, index) => peer.send(submit(index + 1))));
      for (const { wire } of peers) wire.reset();
      const peer = await trial.connect();
      await peer.send(submits(1, 10));
      await peer.expectSubmits(serials(1, 10));
    },
  },
];
