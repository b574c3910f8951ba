// Cases: does a target that is told to stop deliver what is due, and end? They need one that the kit can start.

import { answerAt, answerLength, serials, submit, submits } from "./bytes.ts";
import { type LaunchedTarget, Misbehaviour, type ServerCase, type Trial } from "./case.ts";

const usual = { group: "drain", level: "MUST", needs: "launch", patience: 5, closing: ["fin"] } as const;
const stopping = "the server is stopping; the request was never handled: safe to send again";
const notBegun = "A server MUST NOT answer 4 to a request that it has begun to handle.";
const due =
  "A server MUST answer each request that it has read at most once, with the id of the request, and each exactly " +
  "once unless the connection is lost.";

/** Ends the client's side too, once the target has ended its own, and fails unless the target then ends by itself. */
async function expectExit(trial: Trial, target: LaunchedTarget): Promise<number | null> {
  const { wire } = trial.peers[0]!;
  // Judged as the closing; a FIN of ours would hide it.
  if (wire.end === "open") return null;
  wire.fin();
  const status = await Promise.race([target.exited, trial.pause(trial.leftMs).then(() => null)]);
  if (status === null) throw new Misbehaviour("it had not ended when the time limit was over");
  return status;
}

export const drain: readonly ServerCase[] = [
  {
    ...usual,
    id: "5.1/1",
    description: "SIGTERM with a connection on which nothing is under way",
    requirement:
      "Either side ends its sending with a FIN (half-close) between two frames, and goes on receiving.",
    accepted: ["the connection is ended with a FIN, and the target ends"],
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target);
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      target.terminate();
      await peer.expectNothingMore();
      await expectExit(trial, target);
    },
  },
  {
    ...usual,
    id: "5.1/2",
    description: "SIGTERM, and a request 100 ms later on a connection that is open",
    requirement: stopping,
    accepted: ["it is answered 4, or not at all because the target has ended the connection with a FIN"],
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target);
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      target.terminate();
      await trial.pause(100);
      await peer.send(submit(2));
      const { bytes } = await peer.wire.readToEnd({ timeoutMs: trial.leftMs });
      const answer = answerAt(bytes);
      if (bytes.length > answerLength || (bytes.length > 0 && answer?.result !== 4)) {
        throw new Misbehaviour(`${bytes.length} bytes came: ${bytes.subarray(0, answerLength).toHex()}`);
      }
      await expectExit(trial, target);
    },
  },
  {
    ...usual,
    id: "5.1/3",
    description: "SIGTERM in the middle of a frame",
    requirement: "A truncated frame MUST NOT be handled.",
    accepted: ["it is not answered, the connection is ended with a FIN, and the target ends"],
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target);
      await peer.send(submit(1), submit(2, "cut").subarray(0, -2));
      await peer.expectSubmits([1]);
      target.terminate();
      await peer.expectNothingMore();
      await expectExit(trial, target);
    },
  },
  {
    ...usual,
    id: "5.3/1",
    description: "A thousand requests that are answered, unread, when SIGTERM comes",
    requirement: due,
    accepted: ["each is answered once, and then the connection is ended with a FIN"],
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target);
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      peer.wire.pause();
      await peer.send(submits(2, 1001));
      await trial.pause(200);
      target.terminate();
      await trial.pause(50);
      peer.wire.resume();
      await peer.expectSubmits(serials(2, 1001));
      await peer.expectNothingMore();
      await expectExit(trial, target);
    },
  },
  {
    ...usual,
    id: "5.3/2",
    description:
      "Requests whose answers fill the connection's windows when SIGTERM comes, and are read afterwards",
    requirement: due,
    accepted: [
      "whole answers, each to a request that was sent and none twice, then a FIN; what was not read needs none",
    ],
    alone: true,
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target), count = 800_000;
      peer.wire.pause();
      const bytes = submits(1, count), started = performance.now();
      peer.send(bytes);
      // Until nothing more is taken: the target waits to write.
      for (let last = -1; last !== peer.wire.bytesSent && performance.now() - started < 5000;) {
        last = peer.wire.bytesSent;
        await trial.pause(300);
      }
      target.terminate();
      await trial.pause(100);
      peer.wire.resume();
      const { bytes: came, end } = await peer.wire.readToEnd({ timeoutMs: trial.leftMs });
      if (end !== "fin") return; // judged as the closing
      if (came.length % answerLength !== 0) throw new Misbehaviour("an answer was cut by the target's FIN");
      const seen = new Uint8Array(count + 1);
      for (let at = 0; at < came.length; at += answerLength) {
        const answer = answerAt(came, at), serial = Number(answer?.id);
        if (!(serial >= 1 && serial <= count)) {
          throw new Misbehaviour(`an answer came to no request, at byte ${at}`);
        }
        if (seen[serial]!++ > 0) throw new Misbehaviour(`the request ${serial} was answered twice`);
      }
      if (came.length === 0) throw new Misbehaviour("no answer came");
    },
  },
  {
    ...usual,
    id: "5.3/3",
    description: "SIGTERM while a client sends requests one by one",
    requirement: notBegun,
    accepted: ["each answer before the FIN has its request's id, and none is 0 once one was 4"],
    async run(trial) {
      const target = await trial.launch(), peer = await trial.connect(target);
      let stopped = false;
      for (let serial = 1; trial.leftMs > 0; serial++) {
        if (serial === 50) target.terminate();
        await peer.send(submit(serial));
        const bytes = await peer.wire.readExactly(answerLength, { timeoutMs: trial.leftMs }).catch(() =>
          null
        );
        if (bytes === null) break;
        const answer = answerAt(bytes);
        if (Number(answer?.id) !== serial) {
          throw new Misbehaviour(`request ${serial} was answered ${bytes.toHex()}`);
        }
        if (stopped && answer?.result === 0) {
          throw new Misbehaviour("a request was handled behind one answered 4");
        }
        stopped ||= answer?.result === 4;
      }
      if (peer.wire.end === "open") throw new Misbehaviour("it went on to serve until the time limit");
      await expectExit(trial, target);
    },
  },
  {
    ...usual,
    level: "SHOULD",
    id: "8.1/8",
    description: "SIGTERM without a connection, and a look at the exit status",
    requirement: stopping,
    accepted: ["the target ends with status 0, and then refuses connections"],
    closing: ["fin", "open", "reset"],
    async run(trial) {
      const target = await trial.launch();
      const first = await trial.connect(target);
      await first.send(submit(1));
      await first.expectSubmits([1]);
      first.wire.fin();
      await first.expectNothingMore();
      target.terminate();
      const status = await expectExit(trial, target);
      if (status !== 0) throw new Misbehaviour(`it ended with status ${status}`);
      const accepted = await trial.connect(target).then(() => true, () => false);
      if (accepted) throw new Misbehaviour("its port still accepts connections");
    },
  },
];
