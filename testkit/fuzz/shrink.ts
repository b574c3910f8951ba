// What is the least that still fails? Takes a session apart while it goes on to fail.

import type { FuzzFrame, Session } from "./session.ts";

/** At most so many tries: each may last as long as a time limit. */
const maxTries = 150;

/** The smallest session found that fails as well. */
export async function shrunk(
  session: Session,
  fails: (session: Session) => Promise<boolean>,
): Promise<Session> {
  let tries = 0;
  for (let smaller: Session | null = session; smaller !== null;) {
    session = smaller;
    smaller = null;
    for (const candidate of simpler(session)) {
      if (++tries > maxTries) return session;
      if (await fails(candidate)) {
        smaller = candidate;
        break;
      }
    }
  }
  return session;
}

/** Sessions that are simpler by one step, the largest steps first. */
function* simpler(session: Session): Generator<Session> {
  const { frames, cuts, bytes, end } = session, { length } = frames;
  for (let size = length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at + size <= length && length > size; at += size) {
      yield without({ ...session, frames: frames.toSpliced(at, size) });
    }
  }
  if (bytes !== undefined) yield without(session);
  if (cuts.length > 0) yield { ...session, cuts: [] };
  if (cuts.length > 1) {
    for (let i = 0; i < cuts.length; i++) yield { ...session, cuts: cuts.toSpliced(i, 1) };
  }
  if (end !== "fin") yield { ...session, end: "fin" };
  for (let i = 0; i < length && i < 50; i++) {
    for (const frame of simplerFrames(frames[i]!)) yield { ...session, frames: frames.with(i, frame) };
  }
}

/** What was cut off is counted in the frames that were there: with others it is another cut, so there is none. */
function without({ frames, cuts, end }: Session): Session {
  return { frames, cuts, end };
}

function* simplerFrames({ command, id, payload, length }: FuzzFrame): Generator<FuzzFrame> {
  const said = length === undefined ? {} : { length };
  if (length !== undefined) yield { command, id, payload };
  if (payload > 0) yield { command, id, payload: 0, ...said };
  if (payload > 1) yield { command, id, payload: payload >> 1, ...said };
  if (command !== 2) yield { command: 2, id, payload, ...said };
  if (id !== plainId) yield { command, id: plainId, payload, ...said };
}

const plainId = "3030303030303031";
