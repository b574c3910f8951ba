// From argv to options: what a program takes, its help, and what to say where a flag is wrong.

import { parseArgs } from "@std/cli/parse-args";

/** A flag of a program. */
export interface Flag {
  /** What its value is; a `switch` has none. */
  readonly kind: "text" | "integer" | "switch" | readonly string[];
  /** What the value is called in the help. */
  readonly value?: string;
  /** A line for the help. */
  readonly help: string;
}

/** What a program takes. */
export interface Usage {
  /** How it is called. */
  readonly name: string;
  /** What it does. */
  readonly summary: string;
  /** What may follow the flags, for the help; absent where nothing may. */
  readonly words?: string;
  readonly flags: Readonly<Record<string, Flag>>;
  /** What each example does, and its command line. */
  readonly examples: readonly (readonly [does: string, command: string])[];
}

/** What was given: values by flag, and the words. */
export interface Given {
  readonly text: (flag: string) => string | undefined;
  readonly integer: (flag: string) => number | undefined;
  readonly on: (flag: string) => boolean;
  readonly words: readonly string[];
}

/** A command line is wrong. The message says what to do. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/**
 * Reads a command line.
 *
 * @throws {UsageError} If a flag is not known, lacks its value, or has a wrong one.
 */
export function parseFlags(args: readonly string[], usage: Usage): Given {
  const flags: Record<string, Flag> = { ...usage.flags, help: helpFlag };
  const named = (kind: boolean) =>
    Object.keys(flags).filter((name) => (flags[name]!.kind === "switch") === kind);
  const { _: words, ...values } = parseArgs(args, {
    boolean: named(true),
    string: ["_", ...named(false)],
    collect: named(false),
    alias: { h: "help" },
    unknown: (argument, key) => {
      if (key === undefined) return true;
      throw new UsageError(`${argument} is not known`);
    },
  });
  const texts = new Map<string, string>();
  for (const name of named(false)) {
    const [value, another] = values[name] as string[];
    if (value === undefined) continue;
    if (another !== undefined) throw new UsageError(`--${name} is given twice`);
    check(name, flags[name]!, value);
    texts.set(name, value);
  }
  if (words.length > 0 && usage.words === undefined) throw new UsageError(`${words[0]} is not expected`);
  return {
    text: (name) => texts.get(name),
    integer: (name) => texts.has(name) ? Number(texts.get(name)) : undefined,
    on: (name) => values[name] === true,
    words: words.map(String),
  };
}

/** An option's name as a flag: `maxFrameLength` as `max-frame-length`. */
export function flagOf(option: string): string {
  return option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** The help of a program. */
export function helpOf({ name, summary, words, flags, examples }: Usage): string {
  const all = Object.entries({ ...flags, help: helpFlag }).map(([flag, { kind, value, help }]) => {
    const shown = typeof kind === "object"
      ? kind.join("|")
      : kind === "switch"
      ? ""
      : value ?? kind.toUpperCase();
    return [`  --${flag} ${shown}`.trimEnd(), help] as const;
  });
  const width = Math.max(...all.map(([flag]) => flag.length)) + 2;
  return [
    summary,
    "",
    `Usage: ${name} [FLAGS]${words === undefined ? "" : ` ${words}`}`,
    "",
    ...all.map(([flag, help]) => flag.padEnd(width) + help),
    "",
    "Examples:",
    ...examples.flatMap(([does, command]) => [`  # ${does}`, `  ${command}`]),
    "",
  ].join("\n");
}

const helpFlag: Flag = { kind: "switch", help: "show this" };

function check(name: string, { kind }: Flag, value: string): void {
  if (value === "") throw new UsageError(`--${name} needs a value`);
  if (kind === "integer" && !/^\d{1,15}$/.test(value)) {
    throw new UsageError(`--${name} needs a whole number, and got ${value}`);
  }
  if (typeof kind === "object" && !kind.includes(value)) {
    throw new UsageError(`--${name} needs ${kind.join(" or ")}, and got ${value}`);
  }
}
