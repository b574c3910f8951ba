// What does a server do with a session? Plays it over a real connection, and judges what came.

import type { Dialect } from "../../codec/mod.ts";
import { Wire } from "../wire.ts";
import { dueFor, judge } from "./oracle.ts";
import { bytesOf, chunksOf, type Session } from "./session.ts";

/** Where and how sessions are played. */
export interface PlayOptions {
  readonly hostname: string;
  readonly port: number;
  readonly dialect: Dialect;
  readonly maxFrameLength: number;
  /** How long answers, and the end, may take. */
  readonly timeoutMs: number;
}

/** What came of a session. */
export interface Played {
  /** What was wrong; null where nothing was. */
  readonly failure: string | null;
  /** The answers that were due, as command and id in hex. */
  readonly due: readonly string[];
  /** What came, in hex. */
  readonly came: string;
}

/** Plays a session, and looks whether the server still serves others. */
export async function play(session: Session, options: PlayOptions): Promise<Played> {
  const { hostname, port, dialect, maxFrameLength, timeoutMs } = options;
  const due = dueFor(bytesOf(session), dialect, maxFrameLength), chunks: Uint8Array[] = [];
  const played = (failure: string | null): Played => {
    const all = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const chunk of chunks) all.set(chunk, at), at += chunk.length;
    return {
      failure: failure ?? judge(due, all, session.end === "reset"),
      due: due.answers,
      came: all.toHex(),
    };
  };
  await using wire = await Wire.connect({ hostname, port });
  await wire.sendChunked(chunksOf(session));
  if (session.end === "reset") {
    wire.reset();
    return played(await probe(options));
  }
  if (session.end === "answered") {
    const length = 14 * due.answers.length;
    try {
      chunks.push(await wire.readExactly(length, { timeoutMs }));
    } catch (error) {
      chunks.push((await wire.readToEnd({ timeoutMs: 0 })).bytes);
      return played(judge(due, chunks[0]!, false) ?? (error as Error).message);
    }
    // What breaks the protocol is ended by the server, without our FIN.
    if (due.error !== null) {
      const { bytes, end } = await wire.readToEnd({ timeoutMs });
      chunks.push(bytes);
      if (end === "open") return played(`the connection was left open behind ${due.error}`);
      if (end === "reset") return played(`the connection was reset behind ${due.error}`);
    }
  }
  wire.fin();
  const { bytes, end } = await wire.readToEnd({ timeoutMs });
  chunks.push(bytes);
  if (end === "open") return played(`the server did not end within ${timeoutMs} ms of the FIN`);
  return played(end === "reset" ? "the server reset the connection" : null);
}

/** Whether a request on a connection of its own is answered; says what happened where it is not. */
async function probe({ hostname, port, timeoutMs, dialect }: PlayOptions): Promise<string | null> {
  const request = Uint8Array.fromHex("0000000d023030303030303031");
  try {
    await using wire = await Wire.connect({ hostname, port, signal: AbortSignal.timeout(timeoutMs) });
    await wire.send(request);
    const answer = await wire.readExactly(14, { timeoutMs });
    const expected = dialect === "spec" ? 0x82 : 0x81;
    return answer[4] === expected ? null : `another connection got ${answer.toHex()}`;
  } catch (error) {
    return `another connection was not served: ${(error as Error).message}`;
  }
}
