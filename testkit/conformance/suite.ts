// Which cases are there for servers, and which of them were asked for?

import { backpressure } from "./backpressure.ts";
import type { CaseText, ServerCase } from "./case.ts";
import { concurrency } from "./concurrency.ts";
import { drain } from "./drain.ts";
import { framing } from "./framing.ts";
import { halfClose } from "./half_close.ts";
import { limits } from "./limits.ts";
import { malformedInput } from "./malformed.ts";
import { packets } from "./packets.ts";
import { pipelining } from "./pipelining.ts";
import { resets } from "./reset.ts";
import { slow } from "./slow.ts";

/** All cases for servers, by section and number. */
export const serverCases: readonly ServerCase[] = sorted([
  ...framing,
  ...limits,
  ...malformedInput,
  ...packets,
  ...pipelining,
  ...halfClose,
  ...resets,
  ...backpressure,
  ...slow,
  ...concurrency,
  ...drain,
]);

/** What is run of a list of cases. */
export interface Selection {
  /** Ids or groups, with `*` for any text, split by commas: `3.*`, `half-close`, `8.5/1,limits`. */
  readonly select?: string | undefined;
  /** Whether the SHOULDs are run too. */
  readonly strict?: boolean | undefined;
}

/** The cases that are asked for. @throws {RangeError} If there are none. */
export function selected<T extends CaseText>(
  cases: readonly T[],
  { select, strict = false }: Selection,
): T[] {
  const patterns = (select ?? "*").split(",").map((text) => {
    const pattern = text.trim().split("*").map((part) => RegExp.escape(part)).join(".*");
    return new RegExp(`^${pattern}$`);
  });
  // A section selects its cases: 3.4 is 3.4/1 and on.
  const fits = ({ id, group }: CaseText) => {
    const names = [id, id.split("/")[0]!, group];
    return patterns.some((pattern) => names.some((name) => pattern.test(name)));
  };
  const found = cases.filter((one) => fits(one) && (strict || one.level === "MUST"));
  if (found.length > 0) return found;
  const why = cases.some(fits)
    ? "which are all SHOULD: add --strict"
    : "of which there are none; --list shows all";
  throw new RangeError(`select names cases ${select}, ${why}`);
}

function sorted<T extends CaseText>(cases: readonly T[]): T[] {
  const numbers = ({ id }: CaseText) => id.split(/[./]/).map(Number);
  return cases.toSorted((one, another) => {
    const [a, b] = [numbers(one), numbers(another)];
    return a[0]! - b[0]! || a[1]! - b[1]! || a[2]! - b[2]!;
  });
}

export { sorted };
