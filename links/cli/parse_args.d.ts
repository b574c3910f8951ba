export interface ParseOptions {
  boolean?: readonly string[];
  string?: readonly string[];
  collect?: readonly string[];
  alias?: Record<string, string>;
  unknown?: (argument: string, key?: string, value?: unknown) => unknown;
}
/** Flags by name, what follows them, and in `_` the words that are no flags. */
export function parseArgs(
  args: readonly string[],
  options?: ParseOptions,
): { _: (string | number)[]; [flag: string]: unknown };
