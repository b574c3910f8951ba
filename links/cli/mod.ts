/**
 * The part of `jsr:@std/cli` that this project uses, from the npm mirror of it.
 *
 * @module
 */

export { parseArgs } from "./parse_args.ts";
