// Which toxics are there, and which of their attributes are allowed? Toxiproxy's, with its names and units, and ours.

import { FrameFormat, type FrameFormatOptions } from "../../codec/format.ts";

/** A direction: from the client to the upstream server, or back. */
export type Stream = "upstream" | "downstream";

/** Which frames a toxic takes: the nth of a stream, counted from 1, every nth, or a share of them from 0 to 1. */
export type FrameChoice =
  | { nth: number; every?: never; share?: never }
  | { nth?: never; every: number; share?: never }
  | { nth?: never; every?: never; share: number };

/** Which frames, and what the frames look like: by default four bytes of big-endian length that count what follows. */
export type FrameAttributes = FrameChoice & { format?: FrameFormatOptions };

/** The attributes of each type of toxic. Times are milliseconds unless they say otherwise. */
export interface ToxicAttributes {
  /** Delays bytes, and FIN, by `latency` ± `jitter`; the order stays. */
  latency: { latency: number; jitter?: number };
  /** Lets at most `rate` kilobytes a second through; 0 lets nothing through. */
  bandwidth: { rate: number };
  /** Delays FIN. */
  slow_close: { delay: number };
  /** Drops all bytes and closes the connection after `timeout`; 0 never does. Removing it closes the connection. */
  timeout: { timeout: number };
  /** Resets both sides `timeout` after the first byte, or FIN, of the stream. */
  reset_peer: { timeout: number };
  /** Cuts the stream into pieces of `average_size` ± `size_variation` bytes, `delay` microseconds apart. */
  slicer: { average_size: number; size_variation?: number; delay?: number };
  /** Closes the connection once `bytes` have passed. */
  limit_data: { bytes: number };
  /** Drops chunks as they were read: a share of them, and `correlation` more behind one that was dropped. */
  packet_loss: { loss_rate: number; correlation?: number };
  /** Does nothing. */
  noop: Record<never, never>;
  /** Changes bytes: a share of them, or the one at an offset in the stream. */
  corrupt: { share: number; offset?: never } | { share?: never; offset: number };
  /** Closes the connection `time` after it was opened. */
  limit_time: { time: number };
  /** Swallows FIN and reset: the other side believes that the connection is still there. */
  half_open: Record<never, never>;
  /** Drops frames. */
  frame_drop: FrameAttributes;
  /** Sends frames twice. */
  frame_duplicate: FrameAttributes;
  /** Swaps frames with those behind them. */
  frame_reorder: FrameAttributes;
  /** Keeps the first `keep` bytes of frames, by default a random part; their length fields stay. */
  frame_truncate: FrameAttributes & { keep?: number };
  /** Changes `count` bytes of frames (1), their length fields excepted. */
  frame_corrupt: FrameAttributes & { count?: number };
  /** Sets the length field of frames to a value, or adds to it, modulo what the field can hold. */
  frame_length: FrameAttributes & ({ value: number; add?: never } | { value?: never; add: number });
}

/** The name of a type of toxic. */
export type ToxicType = keyof ToxicAttributes;

/**
 * A fault, in the JSON of toxiproxy. `stream` is `downstream` unless it says otherwise, `name` is made of type and
 * stream, and `toxicity` is the share of connections that it strikes, from 0 to 1.
 */
export type Toxic = {
  [T in ToxicType]:
    & { type: T; name?: string; stream?: Stream; toxicity?: number }
    & (Record<never, never> extends ToxicAttributes[T] ? { attributes?: ToxicAttributes[T] }
      : { attributes: ToxicAttributes[T] });
}[ToxicType];

/** A toxic with nothing left out. */
export interface ToxicState<T extends ToxicType = ToxicType> {
  /** Unique within a proxy. */
  readonly name: string;
  /** What it does. */
  readonly type: T;
  /** The direction that it is in. */
  readonly stream: Stream;
  /** The share of connections that it strikes. */
  readonly toxicity: number;
  /** Its attributes, defaults filled in. */
  readonly attributes: ToxicAttributes[T];
}

/** What of a toxic can change while it is there. */
export interface ToxicChange {
  /** Attributes to replace; the others stay. */
  attributes?: Record<string, unknown>;
  /** The share of connections that it strikes. */
  toxicity?: number;
}

/**
 * Fills in what a toxic leaves out.
 *
 * @throws {RangeError} If something is wrong with it; names the field, the limit and the value.
 */
export function completeToxic(toxic: object): ToxicState {
  const { type, stream = "downstream", toxicity = 1, attributes, name, ...rest } = toxic as Record<
    string,
    unknown
  >;
  if (!isToxicType(type)) {
    throw new RangeError(
      `Cannot add a toxic: type must be one of ${toxicTypes.join(", ")}, and is ${json(type)}`,
    );
  }
  if (stream !== "upstream" && stream !== "downstream") {
    throw new RangeError(`Cannot add a toxic: stream must be upstream or downstream, and is ${json(stream)}`);
  }
  if (name !== undefined && typeof name !== "string") {
    throw new RangeError(`Cannot add a toxic: name must be text, and is ${json(name)}`);
  }
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw new RangeError(`Cannot add a toxic: ${unknown} is not a field of toxics`);
  return {
    name: name || `${type}_${stream}`,
    type,
    stream,
    toxicity: number("toxicity", toxicity, share),
    attributes: attributesOf(type, attributes ?? {}),
  };
}

/**
 * A toxic after a change.
 *
 * @throws {RangeError} If something is wrong with it.
 */
export function changedToxic(
  toxic: ToxicState,
  { attributes = {}, toxicity = toxic.toxicity }: ToxicChange,
): ToxicState {
  const old: Record<string, unknown> = { ...toxic.attributes };
  // Who asks for the nth frame no longer asks for a share of them.
  for (const group of alternatives[toxic.type] ?? []) {
    if (group.some((name) => name in attributes)) { for (const name of group) delete old[name]; }
  }
  return {
    ...toxic,
    toxicity: number("toxicity", toxicity, share),
    attributes: attributesOf(toxic.type, { ...old, ...attributes }),
  };
}

/** Whether there are toxics of that type. */
export function isToxicType(type: unknown): type is ToxicType {
  return typeof type === "string" && Object.hasOwn(rules, type);
}

interface Rule {
  readonly from: number;
  readonly to?: number;
  readonly fraction?: true;
  /** What it is where it is left out; without one it is left out. */
  readonly preset?: number;
}

const time: Rule = { from: 0, preset: 0, fraction: true }, share: Rule = { from: 0, to: 1, fraction: true };
const frames: Record<string, Rule | "format"> = {
  format: "format",
  nth: { from: 1 },
  every: { from: 1 },
  share,
};

// As in toxiproxy, numbers that are left out are 0, where that says something.
const rules: { readonly [T in ToxicType]: Readonly<Record<string, Rule | "format">> } = {
  latency: { latency: time, jitter: time },
  bandwidth: { rate: { from: 0, preset: 0, fraction: true } },
  slow_close: { delay: time },
  timeout: { timeout: time },
  reset_peer: { timeout: time },
  slicer: { average_size: { from: 1 }, size_variation: { from: 0, preset: 0 }, delay: time },
  limit_data: { bytes: { from: 0, preset: 0 } },
  packet_loss: { loss_rate: { ...share, preset: 0.1 }, correlation: { ...share, preset: 0 } },
  noop: {},
  corrupt: { share, offset: { from: 0 } },
  limit_time: { time },
  half_open: {},
  frame_drop: frames,
  frame_duplicate: frames,
  frame_reorder: frames,
  frame_truncate: { ...frames, keep: { from: 0 } },
  frame_corrupt: { ...frames, count: { from: 1, preset: 1 } },
  frame_length: { ...frames, value: { from: 0 }, add: { from: -Number.MAX_SAFE_INTEGER } },
};

/** The types of toxics. */
export const toxicTypes: readonly ToxicType[] = Object.keys(rules) as ToxicType[];

const frameChoice = ["nth", "every", "share"];
/** Of each group, exactly one is given. */
const alternatives: { readonly [T in ToxicType]?: readonly (readonly string[])[] } = {
  slicer: [["average_size"]],
  corrupt: [["share", "offset"]],
  frame_drop: [frameChoice],
  frame_duplicate: [frameChoice],
  frame_reorder: [frameChoice],
  frame_truncate: [frameChoice],
  frame_corrupt: [frameChoice],
  frame_length: [frameChoice, ["value", "add"]],
};

function attributesOf<T extends ToxicType>(type: T, given: unknown): ToxicAttributes[T] {
  if (typeof given !== "object" || given === null) {
    throw new RangeError(`Cannot set a toxic: attributes must be an object, and is ${json(given)}`);
  }
  const known = rules[type], complete: Record<string, unknown> = {};
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(known, name)) continue;
    const names = Object.keys(known).join(", ") || "none";
    throw new RangeError(`Cannot set a toxic: ${type} has no attribute ${name}; it has ${names}`);
  }
  for (const [name, rule] of Object.entries(known)) {
    const value = (given as Record<string, unknown>)[name];
    if (rule === "format") complete[name] = formatOf(value);
    else if (value !== undefined) complete[name] = number(name, value, rule);
    else if (rule.preset !== undefined) complete[name] = rule.preset;
  }
  for (const group of alternatives[type] ?? []) {
    const count = group.filter((name) => name in complete).length;
    if (count !== 1) {
      throw new RangeError(`Cannot set a toxic: ${type} needs one of ${group.join(", ")}, and has ${count}`);
    }
  }
  if (type === "frame_length" && "value" in complete) {
    const format = new FrameFormat(complete.format as FrameFormatOptions);
    number("value", complete.value, { from: 0, to: maxFieldValue(format) });
  }
  return complete as ToxicAttributes[T];
}

/** The most that a format's length field can hold. */
export function maxFieldValue({ lengthFieldLength }: FrameFormat): number {
  return lengthFieldLength === 8 ? Number.MAX_SAFE_INTEGER : 2 ** (8 * lengthFieldLength) - 1;
}

function formatOf(value: unknown = {}): FrameFormatOptions {
  if (typeof value !== "object" || value === null) {
    throw new RangeError(`Cannot set a toxic: format must be an object, and is ${json(value)}`);
  }
  const format = new FrameFormat(value);
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(format, name)) {
      throw new RangeError(`Cannot set a toxic: ${name} is not a field of frame formats`);
    }
  }
  const { lengthFieldOffset, lengthFieldLength, byteOrder, lengthAdjustment, maxFrameLength } = format;
  // Toxics see frames whole: nothing is stripped.
  return { lengthFieldOffset, lengthFieldLength, byteOrder, lengthAdjustment, maxFrameLength };
}

function number(name: string, value: unknown, { from, to, fraction }: Rule): number {
  if (
    typeof value === "number" && value >= from && value <= (to ?? Number.MAX_SAFE_INTEGER) &&
    (fraction || Number.isSafeInteger(value))
  ) return value;
  const kind = fraction ? "a number" : "a whole number";
  const range = to === undefined ? `of at least ${from}` : `from ${from} to ${to}`;
  throw new RangeError(`Cannot set a toxic: ${name} must be ${kind} ${range}, and is ${json(value)}`);
}

function json(value: unknown): string {
  return typeof value === "number" ? String(value) : JSON.stringify(value) ?? "missing";
}
