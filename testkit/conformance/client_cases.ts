// Cases for clients: are requests framed and numbered as they should be, and is everything that may come endured?

import { answer, answerCommands, frame, joined, pieces, request, shownId, uint32 } from "./bytes.ts";
import { type CaseText, Misbehaviour, NotJudged } from "./case.ts";
import type { ClientCase, ClientTrial, Guest, Request } from "./client_trial.ts";
import { sorted } from "./suite.ts";

const must = { group: "client", level: "MUST", closing: ["fin"] } as const;
const cutting = "How the bytes are cut into segments, reads or writes means nothing.";
const goesOn = ["the client submits as much as it does when nothing is done to it, then ends"];
const gives = ["the client ends the connection, and then itself"];

type Reply = (guest: Guest, requests: Request[], trial: ClientTrial) => Promise<void>;

/** A case whose answers come in a way that the client must endure. */
function endured(
  text: Pick<CaseText, "id" | "description" | "requirement">,
  reply: Reply,
): ClientCase {
  return {
    ...must,
    accepted: goesOn,
    ...text,
    run: async (trial, guest) => void await guest.serveAll((requests) => reply(guest, requests, trial)),
  };
}

/** A case in which the first SUBMIT is answered by bytes that end the conversation. */
function fatal(
  text: Pick<CaseText, "id" | "description" | "requirement">,
  bytes: (submit: Request, trial: ClientTrial) => Uint8Array,
): ClientCase {
  return {
    ...must,
    accepted: gives,
    // What the client had no time to read may come back as a reset.
    closing: ["fin", "reset"],
    ...text,
    async run(trial, guest) {
      await guest.wire.send(bytes(await guest.firstSubmit(), trial));
      // A FIN of the kit's would end a client too that takes no notice.
      await trial.expectExit();
    },
  };
}

/** All cases for clients, by section and number. */
export const clientCases: readonly ClientCase[] = sorted([
  {
    ...must,
    id: "2.1/1",
    description: "Requests that are answered as they come",
    requirement: "A frame is `totalLength`, four bytes, followed by a body.",
    accepted: ["frames of 13 bytes to the limit, nothing else, and a FIN between two of them"],
    run: async (_, guest) => void await guest.serveAll(),
  },
  {
    ...must,
    id: "3.1/1",
    description: "The commands of all requests",
    requirement: "Requests go from the client to the server.",
    accepted: ["CONN, 0x01, and SUBMIT, 0x02, alone"],
    // An answer can be made to these two alone.
    run: async (_, guest) => void await guest.serveAll(),
  },
  {
    ...must,
    id: "3.3/1",
    description: "The ids of all requests",
    requirement:
      "`id` is the request's serial number, eight ASCII digits: `00000001` for a client's first request, and one more " +
      "for each.",
    accepted: ["00000001 for the first request, CONN or not, and one more for each"],
    async run(_, guest) {
      for (const [index, { id }] of (await guest.serveAll()).entries()) {
        const expected = String(index + 1).padStart(8, "0");
        if (id !== expected) {
          throw new Misbehaviour(`request ${index + 1} has the id ${shownId(id)}, not ${expected}`);
        }
      }
    },
  },
  {
    ...must,
    id: "3.3/2",
    description: "The ids of requests that are under way at the same time, answered late",
    requirement: "A client MUST skip an id whose request is still pending.",
    accepted: ["no two of them have the same id"],
    async run(_, guest) {
      await guest.serveAll(async (requests) => {
        const ids = requests.map(({ id }) => id);
        if (new Set(ids).size < ids.length) {
          throw new Misbehaviour(`the ids ${ids.map(shownId).join(", ")} came`);
        }
        await guest.reply(requests);
      });
    },
  },
  {
    ...must,
    id: "9.2/1",
    description: "A CONN that is answered only after 300 ms",
    requirement: "A client that sends CONN MUST wait for its answer before the first SUBMIT.",
    accepted: ["nothing comes before the answer"],
    async run(_, guest) {
      const conn = await guest.next();
      if (conn?.command !== 0x01) throw new NotJudged("the client sends no CONN");
      if (await guest.next(300) !== null) {
        throw new Misbehaviour("a request came before the CONN was answered");
      }
      await guest.reply([conn]);
      await guest.serveAll();
    },
  },
  {
    ...must,
    id: "9.5/1",
    description: "A CONN that is refused, and a FIN",
    requirement: "A CONN that is refused is answered with its result, and the server then closes.",
    accepted: ["no SUBMIT comes, and the client ends"],
    async run(trial, guest) {
      const conn = await guest.next();
      if (conn?.command !== 0x01) throw new NotJudged("the client sends no CONN");
      await guest.reply([conn], () => 1);
      guest.wire.fin();
      if (await guest.next() !== null) {
        throw new Misbehaviour("a request came behind a CONN that was refused");
      }
      await trial.expectExit();
    },
  },
  endured(
    { id: "1.1/1", description: "Answers that come byte by byte", requirement: cutting },
    (guest, requests) =>
      guest.wire.sendChunked(pieces(joined(...requests.map((request) => guest.answer(request))), 1)),
  ),
  endured(
    { id: "1.1/2", description: "Answers cut in two, each at another place", requirement: cutting },
    async (guest, requests) => {
      for (const [index, request] of requests.entries()) {
        const bytes = guest.answer(request), at = 1 + index % (bytes.length - 1);
        await guest.wire.sendChunked([bytes.subarray(0, at), bytes.subarray(at)]);
      }
    },
  ),
  endured(
    { id: "1.1/3", description: "Answers in segments of 21 bytes: one and a half", requirement: cutting },
    (guest, requests) =>
      guest.wire.sendChunked(pieces(joined(...requests.map((request) => guest.answer(request))), 21)),
  ),
  endured(
    {
      id: "4.4/1",
      description:
        "Answers in the reverse order of the requests under way, the last one 100 ms behind the others",
      requirement: "Answers MAY come in any order.",
    },
    async (guest, requests, trial) => {
      await guest.reply(requests.slice(1).toReversed());
      await trial.expectWaiting();
      await guest.reply(requests.slice(0, 1));
    },
  ),
  endured(
    {
      id: "4.5/1",
      description: "Answers with ids that were never sent, before the true ones and between them",
      requirement: "A client SHOULD count both and MUST NOT treat them as fatal.",
    },
    async (guest, requests, trial) => {
      await guest.reply([{ command: 0x02, id: "87654321" }]);
      await trial.expectWaiting();
      await guest.reply(requests.flatMap((request) => [{ command: 0x02, id: "76543210" }, request]));
    },
  ),
  endured(
    {
      id: "4.5/2",
      description: "Each SUBMIT's answer twice",
      requirement: "A client SHOULD count both and MUST NOT treat them as fatal.",
    },
    async (guest, requests, trial) => {
      const [first, ...others] = requests as [Request, ...Request[]];
      await guest.reply(first.command === 0x02 ? [first, first] : [first]);
      if (others.length > 0) await trial.expectWaiting();
      await guest.reply(others.flatMap((request) => [request, request]));
    },
  ),
  endured(
    {
      id: "5.1/1",
      description: "SUBMITs that are refused: the result 1",
      requirement:
        "`result` 0 means that the request was accepted. Any other value means that it was refused.",
    },
    (guest, requests) => guest.reply(requests, ({ command }) => command === 0x02 ? 1 : 0),
  ),
  endured(
    {
      id: "5.2/1",
      description: "SUBMITs that are answered with the result 200, which has no name",
      requirement:
        "Results that are not in the table are the application's, and mean refused to a client that does not know them.",
    },
    (guest, requests) => guest.reply(requests, ({ command }) => command === 0x02 ? 200 : 0),
  ),
  endured(
    {
      id: "8.1/1",
      description: "Answers that come half a second late, perhaps behind the client's FIN",
      requirement:
        "Either side ends its sending with a FIN (half-close) between two frames, and goes on receiving.",
    },
    async (guest, requests) => {
      await new Promise((resolve) => setTimeout(resolve, 500));
      await guest.reply(requests);
    },
  ),
  fatal(
    {
      id: "2.2/1",
      description: "A length of 3 in place of an answer",
      requirement: "A `totalLength` below 4 is a framing error.",
    },
    () => uint32(3),
  ),
  fatal(
    {
      id: "2.3/1",
      description: "The length 0xffffffff in place of an answer, and no body",
      requirement:
        "A `totalLength` above it is a framing error, and MUST be noticed when its four bytes have arrived; a receiver " +
        "MUST NOT wait for the body.",
    },
    () => uint32(0xffff_ffff),
  ),
  fatal(
    {
      id: "4.2/1",
      description: "An answer with a byte too many",
      requirement: "The body of an answer is exactly 10 bytes, its frame 14.",
    },
    ({ id }, { options }) => request(answerCommands[options.dialect].submit, id, new Uint8Array(2)),
  ),
  fatal(
    {
      id: "4.2/2",
      description: "An answer without its result",
      requirement: "The body of an answer is exactly 10 bytes, its frame 14.",
    },
    ({ id }, { options }) => request(answerCommands[options.dialect].submit, id),
  ),
  fatal(
    {
      id: "6.2/1",
      description: "An answer with the other dialect's command",
      requirement:
        "A client that receives the other dialect's command for its request SHOULD say so by name, and treats it as a " +
        "protocol error.",
    },
    ({ id }, { options }) =>
      answer(answerCommands[options.dialect === "spec" ? "legacy" : "spec"].submit, id),
  ),
  fatal(
    {
      id: "8.6/1",
      description: "A SUBMIT from the server",
      requirement:
        "An unknown command, and a command that goes in the other direction only, is a protocol error.",
    },
    ({ id }) => request(0x02, id, "to you"),
  ),
  fatal(
    {
      id: "8.6/2",
      description: "An answer with the command 0xff, that there is not",
      requirement:
        "An unknown command, and a command that goes in the other direction only, is a protocol error.",
    },
    ({ id }) => frame(request(0xff, id, new Uint8Array(1)).subarray(4)),
  ),
  {
    ...must,
    id: "2.5/1",
    description: "An answer cut in its id, and a FIN",
    requirement: "The end anywhere inside a frame is a truncation, also right after `totalLength`.",
    accepted: gives,
    async run(_, guest) {
      const submit = await guest.firstSubmit();
      await guest.wire.send(guest.answer(submit).subarray(0, 9));
      guest.wire.fin();
      await guest.expectEnd();
    },
  },
  {
    ...must,
    id: "8.3/1",
    description: "A FIN in place of the first SUBMIT's answer",
    requirement: "After the server's FIN, requests that are pending get no answer.",
    accepted: gives,
    async run(_, guest) {
      await guest.firstSubmit();
      guest.wire.fin();
      await guest.expectEnd();
    },
  },
  {
    ...must,
    id: "8.7/1",
    description: "A reset in place of the first SUBMIT's answer",
    requirement: "A request that was sent whole and has no answer may have been handled or not.",
    accepted: ["the client ends"],
    closing: ["by the kit"],
    async run(trial, guest) {
      await guest.firstSubmit();
      guest.wire.reset();
      await trial.expectExit();
    },
  },
  {
    ...must,
    id: "5.1/2",
    description: "A server that stops: SUBMITs are answered 4, then comes its FIN",
    requirement: "the server is stopping; the request was never handled: safe to send again",
    accepted: gives,
    async run(_, guest) {
      const submit = await guest.firstSubmit();
      await guest.reply([submit], () => 4);
      guest.wire.fin();
      await guest.expectEnd();
    },
  },
]);
