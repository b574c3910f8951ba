// What does a server owe for some bytes? Worked out from docs/protocol.md alone, without the codec that it may share.

import type { Dialect } from "../../codec/mod.ts";

/** What is due for the bytes of a session. */
export interface Due {
  /** The answers, as command and id in hex, in the order of the requests. */
  readonly answers: readonly string[];
  /** The command of an answer to CONN. */
  readonly connAck: number;
  /** Why nothing is due behind them, where the bytes break the protocol. */
  readonly error: string | null;
}

/** Works out what is due (docs/protocol.md, sections 2, 3 and 8). */
export function dueFor(bytes: Uint8Array, dialect: Dialect, maxFrameLength: number): Due {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), answers: string[] = [];
  const connAck = dialect === "spec" ? 0x81 : 0x80;
  for (let at = 0; bytes.length - at >= 4;) {
    const length = view.getUint32(at);
    if (length < 4) return { answers, connAck, error: `a length of ${length} at byte ${at}` };
    if (length > maxFrameLength) {
      return { answers, connAck, error: `a length of ${length} at byte ${at}, above the limit` };
    }
    // What is wrong with a frame within the limits may be said when all of it is there.
    if (bytes.length - at < length) break;
    if (length < 13) return { answers, connAck, error: `a length of ${length} at byte ${at}` };
    const command = bytes[at + 4]!;
    if (command !== 1 && command !== 2) {
      return { answers, connAck, error: `command ${command} at byte ${at}` };
    }
    answers.push((connAck + command - 1).toString(16) + bytes.subarray(at + 5, at + 13).toHex());
    at += length;
  }
  return { answers, connAck, error: null };
}

/** What is wrong with the answers that came; null where nothing is. `partial` says that some may be missing. */
export function judge(due: Due, came: Uint8Array, partial: boolean): string | null {
  const view = new DataView(came.buffer, came.byteOffset, came.length), open = new Map<string, number>();
  for (const answer of due.answers) open.set(answer, (open.get(answer) ?? 0) + 1);
  let left = due.answers.length, sessions = 0;
  for (let at = 0; at < came.length; at += 14) {
    if (came.length - at < 14) {
      if (partial) return null;
      return `${came.length - at} bytes at the end are no whole answer`;
    }
    const length = view.getUint32(at);
    if (length !== 14) return `an answer at byte ${at} says that its length is ${length}`;
    const answer = came.subarray(at + 4, at + 13).toHex(), count = open.get(answer) ?? 0;
    if (count === 0) return `the answer ${answer} at byte ${at} is not due, or came already`;
    open.set(answer, count - 1);
    left--;
    // What a handler says of a SUBMIT is its own affair.
    if (came[at + 4] === due.connAck && came[at + 13] === 0) sessions++;
  }
  if (!partial && left > 0) {
    const [first] = [...open].find(([, count]) => count > 0)!;
    return `${left} of ${due.answers.length} answers did not come, ${first} the first of them`;
  }
  return sessions > 1 ? `${sessions} CONNs were accepted` : null;
}
