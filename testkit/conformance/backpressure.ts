// Cases: does the target stop reading when its answers are not read, and lose nothing by it?

import { answerAt, answerCommands, answerLength, joined, serials, submit, submits } from "./bytes.ts";
import { Misbehaviour, type Peer, type ServerCase, type Trial } from "./case.ts";

const usual = { group: "backpressure", level: "MUST", patience: 3, alone: true } as const;
const bound =
  "At a bound it MUST stop reading, so that the connection's flow control slows the client down, and MUST resume " +
  "when it is below; it MUST NOT drop requests or answers for that.";

/**
 * More than both sides' kernels and any sensible bound of the target's hold. A target that has taken so many bytes
 * of requests, whose answers are as long as they are, keeps them in its memory.
 */
const mostBytes = 33_554_432;
/** How long nothing more may be taken until the target is said to have stopped. */
const stoppedMs = 300;
/** Looked at so often, and counted in looks: while this process itself was held up, nobody looked. */
const lookMs = 10;

const batchCount = 5000;

/** Sends requests to a target whose answers are not read, until it takes no more. Returns how many were sent. */
async function fill(trial: Trial, peer: Peer): Promise<{ count: number; sending: Promise<void> }> {
  const batch = submits(1, batchCount);
  peer.wire.pause();
  let count = 0, sending = Promise.resolve();
  while (peer.wire.bytesSent < mostBytes && peer.wire.end === "open") {
    count += batchCount;
    let done = false;
    sending = peer.send(batch).then(() => void (done = true));
    for (let last = -1, quietLooks = 0; !done;) {
      await Promise.race([sending, trial.pause(lookMs)]);
      if (peer.wire.bytesSent !== last) [last, quietLooks] = [peer.wire.bytesSent, 0];
      else if (++quietLooks * lookMs >= stoppedMs) return { count, sending };
      if (trial.leftMs === 0) throw new Misbehaviour(`it still took bytes when ${last} had been sent`);
    }
  }
  if (peer.wire.end !== "open") {
    throw new Misbehaviour(`the connection ended after ${peer.wire.bytesSent} bytes of requests`);
  }
  throw new Misbehaviour(
    `it took ${peer.wire.bytesSent} bytes of requests without a stop, and no answer was read`,
  );
}

/** Reads the answers to `count` requests, and fails unless each batch's ids come as often as they were sent. */
async function readAll(trial: Trial, peer: Peer, count: number): Promise<void> {
  const times = new Uint32Array(batchCount + 1), { submit: command } = answerCommands[trial.options.dialect];
  for (let read = 0; read < count;) {
    const bytes = await peer.wire.readExactly(batchCount * answerLength, { timeoutMs: trial.leftMs }).catch(
      () => {
        throw new Misbehaviour(`${read} of ${count} answers were read, then no whole batch came`);
      },
    );
    for (let at = 0; at < bytes.length; at += answerLength, read++) {
      const answer = answerAt(bytes, at), serial = Number(answer?.id);
      if (answer?.command !== command || !(serial >= 1 && serial <= batchCount)) {
        throw new Misbehaviour(
          `answer ${read + 1} is none: ${bytes.subarray(at, at + answerLength).toHex()}`,
        );
      }
      times[serial]!++;
    }
  }
  const each = count / batchCount, wrong = times.findIndex((n, serial) => serial > 0 && n !== each);
  if (wrong > 0) {
    throw new Misbehaviour(`the id ${wrong} was sent ${each} times, and answered ${times[wrong]} times`);
  }
}

export const backpressure: readonly ServerCase[] = [
  {
    ...usual,
    id: "7.2/1",
    description: "Requests without an end, whose answers are not read",
    requirement: bound,
    accepted: [
      `the target stops reading: it takes no more bytes for ${stoppedMs} ms, before ${
        mostBytes / 1_048_576
      } MiB`,
    ],
    closing: ["open"],
    async run(trial) {
      await fill(trial, await trial.connect());
    },
  },
  {
    ...usual,
    id: "7.2/2",
    description: "The same until the target stops; then all answers are read",
    requirement: bound,
    accepted: ["the target resumes, and each request is answered once"],
    closing: ["open", "fin"],
    async run(trial) {
      const peer = await trial.connect(), { count, sending } = await fill(trial, peer);
      peer.wire.resume();
      await Promise.all([readAll(trial, peer, count), sending]);
    },
  },
  {
    ...usual,
    id: "7.2/3",
    description: "The same until the target stops, and a FIN; then all answers are read",
    requirement: "After the client's FIN, a server MUST send all answers that are due, then its own FIN.",
    accepted: ["each request is answered once, then the target ends with a FIN"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect(), { count } = await fill(trial, peer);
      peer.wire.fin();
      await trial.pause(50);
      peer.wire.resume();
      await readAll(trial, peer, count);
      await peer.expectNothingMore();
    },
  },
  {
    ...usual,
    id: "7.2/4",
    description: "The same until the target stops, while another connection sends requests",
    requirement: bound,
    accepted: ["the other connection's requests are answered"],
    closing: ["open"],
    async run(trial) {
      const [peer, other] = await trial.connectMany(2);
      await fill(trial, peer!);
      await other!.send(submits(1, 100));
      await other!.expectSubmits(serials(1, 100));
    },
  },
  {
    ...usual,
    id: "7.2/5",
    description: "The same until the target stops, and a reset",
    requirement: bound,
    accepted: ["a request on a new connection is answered"],
    closing: ["by the kit"],
    async run(trial) {
      const peer = await trial.connect();
      await fill(trial, peer);
      peer.wire.reset();
      await trial.expectAlive();
    },
  },
  {
    group: "backpressure",
    level: "MUST",
    id: "7.2/6",
    description: "4 MiB of long requests at once, read only afterwards",
    requirement: bound,
    accepted: ["each request is answered once"],
    closing: ["open", "fin"],
    patience: 2,
    async run(trial) {
      const peer = await trial.connect(), length = Math.min(65_536, trial.options.maxFrameLength);
      const count = Math.ceil(4_194_304 / length), payload = new Uint8Array(length - 13);
      peer.wire.pause();
      const sending = peer.send(joined(...serials(1, count).map((serial) => submit(serial, payload))));
      await trial.pause(100);
      peer.wire.resume();
      await peer.expectSubmits(serials(1, count));
      await sending;
    },
  },
];
