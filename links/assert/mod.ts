/**
 * The part of `jsr:@std/assert` that this project uses, from the npm mirror of it.
 *
 * @module
 */

// @ts-types="./mod.d.ts"
export * from "npm:deno-std@1.4.0/assert/mod.js";
