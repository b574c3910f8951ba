/**
 * `DelimiterStream` of `jsr:@std/streams`, from the npm mirror of it.
 *
 * @module
 */

// @ts-types="./mod.d.ts"
export { DelimiterStream } from "npm:deno-std@1.4.0/streams/delimiter_stream.js";
