// What is a fuzzed session? Frames with fields that may be wrong, cut into chunks, and an end: all of it data.

import { between, oneOf, type Random, randomFrom } from "../random.ts";

/** A frame, given by its fields. What is absent is as the protocol has it. */
export interface FuzzFrame {
  /** The command: 1 CONN, 2 SUBMIT. */
  readonly command: number;
  /** The id in hex, eight bytes unless it is wrong. */
  readonly id: string;
  /** Bytes of the payload. */
  readonly payload: number;
  /** What the length field says, where that is not the truth. */
  readonly length?: number;
}

/** A session. */
export interface Session {
  /** The frames, in the order of sending. */
  readonly frames: readonly FuzzFrame[];
  /** Where the bytes are cut into chunks, in ascending order. */
  readonly cuts: readonly number[];
  /**
   * How this side ends: with a FIN once all answers have come, or with a FIN or a reset right behind the bytes.
   */
  readonly end: "answered" | "fin" | "reset";
  /** How many bytes of the frames are sent; all, where it is absent. */
  readonly bytes?: number;
}

/** What sessions are made for. */
export interface SessionLimits {
  readonly maxFrameLength: number;
}

/** Session number `run` of a seed: the same each time, whatever ran before it. */
export function sessionOf(seed: number, run: number, limits: SessionLimits): Session {
  const random = randomFrom((seed ^ Math.imul(run + 1, 0x9e3779b1)) >>> 0);
  const frames = validFrames(random, limits);
  for (let left = oneOf(random, [0, 0, 1, 1, 2]); left > 0; left--) mutate(frames, random, limits);
  const total = lengthOf(frames), end = oneOf(random, ["answered", "answered", "fin", "reset"] as const);
  const cut = random() < 0.25 && total > 0 ? between(random, 1, total) : undefined;
  const session = { frames, cuts: cutsOf(random, frames, cut ?? total), end };
  return cut === undefined ? session : { ...session, bytes: cut };
}

/** The bytes that a session sends. */
export function bytesOf({ frames, bytes }: Session): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(lengthOf(frames));
  let at = 0;
  for (const { command, id, payload, length } of frames) {
    const own = 5 + id.length / 2 + payload;
    new DataView(all.buffer).setUint32(at, length ?? own);
    all[at + 4] = command;
    all.set(Uint8Array.fromHex(id), at + 5);
    for (let i = own - payload; i < own; i++) all[at + i] = i;
    at += own;
  }
  return bytes === undefined ? all : all.slice(0, bytes);
}

/** The bytes in chunks. */
export function chunksOf(session: Session): Uint8Array[] {
  const bytes = bytesOf(session), cuts = session.cuts.filter((cut) => cut > 0 && cut < bytes.length);
  return [0, ...cuts].map((from, i) => bytes.subarray(from, cuts[i] ?? bytes.length));
}

/** A session in words, a frame a line. */
export function wordsOf(session: Session): string[] {
  const sent = bytesOf(session).length;
  return [
    ...session.frames.map(({ command, id, payload, length }) =>
      `command 0x${command.toString(16).padStart(2, "0")}, id ${id}, payload of ${payload}` +
      (length === undefined ? "" : `, its length said to be ${length} and not ${5 + id.length / 2 + payload}`)
    ),
    `${sent} bytes in ${chunksOf(session).length} chunks, then ${
      session.end === "answered" ? "a FIN once all is answered" : session.end === "fin" ? "a FIN" : "a reset"
    }`,
  ];
}

function lengthOf(frames: readonly FuzzFrame[]): number {
  return frames.reduce((sum, { id, payload }) => sum + 5 + id.length / 2 + payload, 0);
}

function validFrames(random: Random, { maxFrameLength }: SessionLimits): FuzzFrame[] {
  const count = random() < 0.02 ? between(random, 1000, 2500) : between(random, 1, 8);
  const longest = maxFrameLength - 13, first = between(random, 1, 99_999_000);
  const frames: FuzzFrame[] = Array.from({ length: count }, (_, i) => ({
    command: 2,
    id: hexOfDigits(first + i),
    payload: count > 100 ? 0 : oneOf(random, [
      0,
      0,
      1,
      5,
      100,
      between(random, 0, Math.min(longest, 5000)),
      Math.min(longest, 70_000),
    ]),
  }));
  if (random() < 0.3) {
    frames.unshift({ command: 1, id: hexOfDigits(first - 1), payload: oneOf(random, [0, 4, 100]) });
  }
  if (random() < 0.1) frames.push({ command: 1, id: hexOfDigits(first + count), payload: 0 });
  return frames;
}

function mutate(frames: FuzzFrame[], random: Random, { maxFrameLength }: SessionLimits): void {
  const at = between(random, 0, frames.length - 1), frame = frames[at]!;
  const own = 5 + frame.id.length / 2 + frame.payload;
  switch (between(random, 0, 6)) {
    case 0: {
      const wrong = [
        0,
        1,
        3,
        4,
        5,
        12,
        own - 1,
        own + 1,
        own + 4,
        own - 4,
        maxFrameLength + 1,
        2 ** 31,
        2 ** 32 - 1,
      ];
      frames[at] = { ...frame, length: Math.max(0, oneOf(random, wrong)) };
      break;
    }
    case 1:
      frames[at] = { ...frame, command: oneOf(random, [0, 3, 0x7f, 0x80, 0x81, 0x82, 0xff]) };
      break;
    case 2: {
      const id = Uint8Array.from({ length: 8 }, () => oneOf(random, [0, 0x20, 0x30, 0x39, 0x80, 0xc3, 0xff]));
      frames[at] = { ...frame, id: id.toHex() };
      break;
    }
    case 3:
      frames.splice(at, 0, frame); // an id a second time
      break;
    case 4: {
      const other = between(random, 0, frames.length - 1);
      [frames[at], frames[other]] = [frames[other]!, frame];
      break;
    }
    case 5:
      frames[at] = { command: frame.command, id: frame.id.slice(0, 2 * between(random, 0, 7)), payload: 0 };
      break;
    case 6:
      frames[at] = { ...frame, payload: maxFrameLength - 13 }; // as long as may be
  }
}

function cutsOf(random: Random, frames: readonly FuzzFrame[], total: number): number[] {
  const kind = between(random, 0, 4);
  if (kind === 0 || total < 2) return [];
  if (kind === 1 && total <= 120) return Array.from({ length: total - 1 }, (_, i) => i + 1);
  const edges: number[] = [];
  let at = 0;
  for (const { id, payload } of frames.slice(0, 20)) {
    // In and around the length field, the id, and the frame's end.
    edges.push(at + 1, at + 3, at + 4, at + 5, at + 9, (at += 5 + id.length / 2 + payload) - 1, at);
  }
  const count = between(random, 1, 6);
  const cuts = Array.from(
    { length: count },
    () => kind === 2 ? oneOf(random, edges) : between(random, 1, total - 1),
  );
  return [...new Set(cuts)].filter((cut) => cut > 0 && cut < total).sort((a, b) => a - b);
}

function hexOfDigits(serial: number): string {
  return new TextEncoder().encode(String(serial).padStart(8, "0")).toHex();
}
