// Cases: do commands, ids, payloads and results mean what the protocol says, in the dialect that was set?

import { answerCommands, idOf, joined, request, serials, shownByte, submit, utf8 } from "./bytes.ts";
import { Misbehaviour, NotJudged, type ServerCase } from "./case.ts";

const must = { group: "packets", level: "MUST", closing: ["open", "fin"] } as const;
const opaque =
  "A server MUST treat the id as eight opaque bytes, and MUST answer requests with equal ids each by itself.";
const anyPayload = "The payload is any bytes, none too.";
const dialects = "Both sides of a connection use one dialect, set beforehand.";

/** A SUBMIT with an id that is answered as it stands. */
function withId(id: string, description: string, bytes: string): ServerCase {
  return {
    ...must,
    id,
    description,
    requirement: opaque,
    accepted: ["the answer has the same eight bytes as its id"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(bytes, "id"));
      await peer.expectSubmits([bytes]);
    },
  };
}

/** A SUBMIT with a payload, and another behind it. */
function withPayload(id: string, description: string, payload: Uint8Array): ServerCase {
  return {
    ...must,
    id,
    description,
    requirement: anyPayload,
    accepted: ["it is answered, and so is the request behind it"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1, payload), submit(2, "behind"));
      await peer.expectSubmits([1, 2]);
    },
  };
}

export const packets: readonly ServerCase[] = [
  {
    ...must,
    id: "6.1/1",
    description: "A CONN, and a look at its answer's command",
    requirement: dialects,
    accepted: ["CONN-ACK as the dialect numbers it: 0x81 in spec, 0x80 in legacy"],
    async run(trial) {
      await (await trial.connect()).conn(1);
    },
  },
  {
    ...must,
    id: "6.1/2",
    description: "A SUBMIT, and a look at its answer's command",
    requirement: dialects,
    accepted: ["SUBMIT-ACK as the dialect numbers it: 0x82 in spec, 0x81 in legacy"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      const [answer] = await peer.answers(1), { submit: command } = answerCommands[trial.options.dialect];
      if (answer!.command === command) return;
      throw new Misbehaviour(`the answer has the command ${shownByte(answer!.command)}`);
    },
  },
  {
    ...must,
    id: "3.2/5",
    description: "The smallest request, of 13 bytes",
    requirement: "The body of a request is at least 9 bytes; the smallest frame of one is 13 bytes.",
    accepted: ["it is answered"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
    },
  },
  withId("3.4/1", "An id of the digits 12345678", "12345678"),
  withId("3.4/2", "An id whose bytes are all 0", "\0".repeat(8)),
  withId("3.4/3", "An id whose bytes are all 0xff", "\xff".repeat(8)),
  withId("3.4/4", "An id of letters and blanks", " aB c-Z "),
  withId("3.4/5", "An id of bytes that are no UTF-8", "\xc3\x28\xa0\xed\xa0\x80\xfe\xf8"),
  withId("3.4/6", "The id 99999999, the last one", "99999999"),
  {
    ...must,
    id: "3.4/7",
    description: "Three requests with one id in one segment",
    requirement: opaque,
    accepted: ["three answers with that id"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(5, "a"), submit(5, "b"), submit(5, "c"));
      await peer.expectSubmits([5, 5, 5]);
    },
  },
  {
    ...must,
    id: "3.4/8",
    description: "Requests whose ids run backwards, with gaps",
    requirement: opaque,
    accepted: ["each is answered with its id"],
    async run(trial) {
      const peer = await trial.connect(), ids = [900, 70, 99_999_999, 1, 12, 11];
      await peer.send(...ids.map((id) => submit(id)));
      await peer.expectSubmits(ids);
    },
  },
  {
    ...must,
    id: "3.4/9",
    description: "An id that was answered before, again",
    requirement: opaque,
    accepted: ["it is answered again"],
    async run(trial) {
      const peer = await trial.connect();
      for (let turn = 0; turn < 2; turn++) {
        await peer.send(submit(1, "again"));
        await peer.expectSubmits([1]);
      }
    },
  },
  withPayload("3.5/1", "No payload", new Uint8Array(0)),
  withPayload("3.5/2", "A payload of every byte from 0 to 255", Uint8Array.from(serials(0, 255))),
  withPayload("3.5/3", "A payload of a hundred zeros", new Uint8Array(100)),
  withPayload("3.5/4", "A payload that begins as a length does", joined(new Uint8Array(3), utf8("\x03rest"))),
  {
    ...must,
    id: "9.1/1",
    description: "A SUBMIT on a connection without a CONN",
    requirement: "A client MAY do without, unless the server demands it.",
    accepted: ["it is answered, with any result"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
    },
  },
  {
    ...must,
    id: "9.1/2",
    description: "A CONN, and a SUBMIT once it is answered",
    requirement: "CONN opens a session; its payload is free: a client's name, a token.",
    accepted: ["both are answered"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.open(1);
      await peer.send(submit(2));
      await peer.expectSubmits([2]);
    },
  },
  {
    ...must,
    id: "9.2/1",
    description: "A CONN and two SUBMITs in one segment",
    requirement: "A server MUST NOT handle requests behind a CONN that it has not decided.",
    accepted: ["each is answered with its own command and id"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(request(0x01, 1, trial.options.conn), submit(2), submit(3));
      await peer.expectAnswers([{ type: "conn", id: 1 }, { type: "submit", id: 2 }, {
        type: "submit",
        id: 3,
      }]);
    },
  },
  {
    ...must,
    level: "SHOULD",
    id: "9.2/2",
    description: "A CONN and a SUBMIT in one segment, and a look at the order of their answers",
    requirement: "A server MUST NOT handle requests behind a CONN that it has not decided.",
    accepted: ["the CONN's answer comes first"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(request(0x01, 1, trial.options.conn), submit(2));
      const [first] = await peer.answers(1);
      if (first!.id !== idOf(1)) throw new Misbehaviour("the SUBMIT's answer came before the CONN's");
    },
  },
  {
    ...must,
    id: "9.3/1",
    description: "A SUBMIT before the CONN, the CONN, and another SUBMIT",
    requirement: "A server that demands CONN answers a SUBMIT before it with 2, and the connection stays.",
    accepted: ["all are answered, and the last one's result is not 2"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submit(1));
      await peer.expectSubmits([1]);
      await peer.open(2);
      await peer.send(submit(3));
      const [result] = await peer.expectSubmits([3]);
      if (result === 2) {
        throw new Misbehaviour("a SUBMIT behind an accepted CONN was answered 2, not connected");
      }
    },
  },
  {
    ...must,
    id: "9.4/1",
    description: "A second CONN, and a SUBMIT behind it",
    requirement: "A second CONN is answered 1, and the connection stays.",
    accepted: ["the second CONN is answered 1, and the SUBMIT is answered"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.open(1);
      const result = await peer.conn(2);
      if (result !== 1) throw new Misbehaviour(`the second CONN was answered ${result}`);
      await peer.send(submit(3));
      await peer.expectSubmits([3]);
    },
  },
  {
    ...must,
    id: "9.4/2",
    description: "Two CONNs and a SUBMIT in one segment",
    requirement: "A second CONN is answered 1, and the connection stays.",
    accepted: ["the answer with the second CONN's id has the result 1, and the SUBMIT is answered"],
    async run(trial) {
      const peer = await trial.connect(), { conn } = trial.options;
      await peer.send(request(0x01, 1, conn), request(0x01, 2, conn), submit(3));
      await peer.expectAnswers([
        { type: "conn", id: 1 },
        { type: "conn", id: 2, result: 1 },
        { type: "submit", id: 3 },
      ]);
    },
  },
  {
    ...must,
    id: "9.5/1",
    description: "A CONN that the target refuses (--refused-conn), and a SUBMIT behind it",
    requirement: "A CONN that is refused is answered with its result, and the server then closes.",
    accepted: ["the CONN is answered with a result above 0, and nothing more comes"],
    closing: ["fin"],
    async run(trial) {
      const { refusedConn } = trial.options;
      if (refusedConn === undefined) {
        throw new NotJudged("which CONN the target refuses is not known; say it with --refused-conn");
      }
      const peer = await trial.connect();
      await peer.send(request(0x01, 1, refusedConn), submit(2));
      const [answer] = await peer.answers(1);
      if (answer!.id !== idOf(1)) throw new Misbehaviour("the first answer is not the CONN's");
      if (answer!.result === 0) throw new Misbehaviour("the CONN was accepted");
      await peer.expectNothingMore();
    },
  },
];
