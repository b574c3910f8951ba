// Cases: is everything malformed met with the same manners: what came before is answered, nothing after it, a FIN?

import { answer, frame, idOf, joined, request, serials, submit, submits, uint32, utf8 } from "./bytes.ts";
import type { ServerCase } from "./case.ts";

const must = { group: "malformed", level: "MUST" } as const;
const accepted = [
  "the requests before it are answered",
  "nothing behind it is",
  "the target ends with a FIN",
];
const before =
  "A server MUST handle and answer the requests that came before it, in the same segment too, MUST NOT handle any " +
  "after it, then sends its FIN and closes.";
const tooLow = "A `totalLength` below 4 is a framing error.";
const tooShort =
  "The body of a request is at least 9 bytes; the smallest frame of one is 13 bytes. A shorter one is a protocol error.";
const unknown =
  "An unknown command, and a command that goes in the other direction only, is a protocol error.";

/** Two requests, something malformed, and a request that must not be handled, all in one segment. */
function malformed(id: string, description: string, requirement: string, bytes: Uint8Array): ServerCase {
  return {
    ...must,
    id,
    description,
    requirement,
    accepted,
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submits(1, 2, "good"), bytes, submit(3, "behind"));
      await peer.expectSubmits([1, 2]);
      await peer.expectNothingMore();
    },
  };
}

/** A frame with a body cut off: the first bytes of a SUBMIT's body. */
function body(length: number): Uint8Array {
  return frame(joined(new Uint8Array([0x02]), utf8(idOf(9))).subarray(0, length));
}

export const malformedInput: readonly ServerCase[] = [
  malformed("2.2/1", "A length of 0", tooLow, uint32(0)),
  malformed("2.2/2", "A length of 1", tooLow, uint32(1)),
  malformed("2.2/3", "A length of 2", tooLow, uint32(2)),
  malformed("2.2/4", "A length of 3", tooLow, uint32(3)),
  malformed("3.2/1", "A frame of 4 bytes, with no body", tooShort, body(0)),
  malformed("3.2/2", "A frame of 5 bytes, with a command alone", tooShort, body(1)),
  malformed("3.2/3", "A frame of 9 bytes, with half an id", tooShort, body(5)),
  malformed("3.2/4", "A frame of 12 bytes, whose id lacks a byte", tooShort, body(8)),
  ...[0x00, 0x03, 0x10, 0x7f, 0xff].map((command, index) =>
    malformed(
      `8.6/${index + 1}`,
      `The command 0x${command.toString(16).padStart(2, "0")}, that there is not`,
      unknown,
      request(command, 9, "unknown"),
    )
  ),
  ...[0x81, 0x82, 0x80].map((command, index) =>
    malformed(
      `8.6/${index + 6}`,
      `An answer, of the command 0x${command.toString(16)}, to the server`,
      unknown,
      answer(command, 9),
    )
  ),
  {
    ...must,
    id: "8.4/1",
    description: "Something malformed as the first bytes of a connection",
    requirement: before,
    accepted: ["nothing is answered", "the target ends with a FIN"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(request(0x55, 1), submit(2));
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.4/2",
    description: "Five hundred requests and an unknown command in one segment",
    requirement: before,
    accepted,
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(submits(1, 500), request(0x55, 501), submits(502, 600));
      await peer.expectSubmits(serials(1, 500));
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.4/3",
    description: "Something malformed, and a request 50 ms later",
    requirement:
      "After a framing or protocol error (2.2, 2.3, 2.5, 3.2, 8.6), nothing that follows in that direction can be trusted.",
    accepted: ["the later request is not answered", "the target ends with a FIN"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(request(0x55, 1));
      await trial.pause(50);
      await peer.send(submit(2));
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.4/4",
    description: "Something malformed, byte by byte behind a request",
    requirement: before,
    accepted,
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      await peer.wire.sendChunked(Array.from(joined(submit(1), uint32(3)), (byte) => new Uint8Array([byte])));
      await peer.expectSubmits([1]);
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.5/1",
    description:
      "A thousand requests, something malformed and 256 KiB behind it, all before the first answer is read",
    requirement:
      "A side that closes while its peer may still be sending MUST NOT provoke a reset that destroys what the peer " +
      "has not read: it sends its FIN, reads and discards for a while, then closes.",
    accepted: ["all requests before it are answered, and the answers can be read"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.pause();
      await peer.send(submits(1, 1000), uint32(1), new Uint8Array(262_144));
      await trial.pause(50);
      await peer.wire.sendChunked([new Uint8Array(100), new Uint8Array(100)]);
      await trial.pause(50);
      peer.wire.resume();
      await peer.expectSubmits(serials(1, 1000));
      await peer.expectNothingMore();
    },
  },
  {
    ...must,
    id: "8.5/2",
    description: "A request and something malformed; the client goes on sending for 200 ms, then reads",
    requirement:
      "A side that closes while its peer may still be sending MUST NOT provoke a reset that destroys what the peer " +
      "has not read: it sends its FIN, reads and discards for a while, then closes.",
    accepted: ["the request before it is answered, and the answer can be read"],
    closing: ["fin"],
    async run(trial) {
      const peer = await trial.connect();
      peer.wire.pause();
      await peer.send(submit(1), request(0x55, 2));
      for (let turn = 0; turn < 10; turn++) {
        await trial.pause(20);
        await peer.send(submit(3));
      }
      peer.wire.resume();
      await peer.expectSubmits([1]);
      await peer.expectNothingMore();
    },
  },
  {
    group: "malformed",
    level: "SHOULD",
    id: "8.5/3",
    description: "Something malformed, after which the client neither ends nor stops sending",
    requirement: "It SHOULD do so within a bound of time, a second or two, and of bytes.",
    accepted: ["the connection is closed altogether within 6 seconds of the target's FIN"],
    closing: ["reset"],
    patience: 3,
    async run(trial) {
      const peer = await trial.connect();
      await peer.send(request(0x55, 1));
      // Bytes to a socket that is closed are met with a reset, which is how the close is seen.
      while (peer.wire.end !== "reset" && trial.leftMs > 0) {
        await peer.send(new Uint8Array(1));
        await trial.pause(100);
      }
    },
  },
];
