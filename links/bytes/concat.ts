/**
 * `concat` of `jsr:@std/bytes`, from the npm mirror of it.
 *
 * @module
 */

// @ts-types="./mod.d.ts"
export { concat } from "npm:deno-std@1.4.0/bytes/concat.js";
