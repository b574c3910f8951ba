/**
 * The part of `jsr:@std/streams` that this project uses, from the npm mirror of it.
 *
 * @module
 */

// @ts-types="./mod.d.ts"
export * from "npm:deno-std@1.4.0/streams/mod.js";
