// A secret that both programs know, from a file.

import type { Authenticate } from "../server.ts";
import { UsageError } from "./flags.ts";
import { readFlagFile } from "./program.ts";

/** Reads the token of `--token-file`: what the file holds, without white space around it. */
export function readToken(path: string): string {
  const token = readFlagFile("token-file", path).trim();
  if (token === "") throw new UsageError(`--token-file names ${path}, which holds no token`);
  return token;
}

/** Accepts a CONN whose payload is the token. Takes as long for a wrong one, whatever is wrong with it. */
export function tokenCheck(token: string): Authenticate<Uint8Array> {
  const expected = digest(new TextEncoder().encode(token));
  // Loaded for those who have a token: it takes as long to load as half of the server.
  const loaded = import("node:crypto");
  return async ({ payload }) => {
    // Digests have one length, so neither the token's length nor its front shows in the time.
    const { timingSafeEqual } = await loaded;
    const same = timingSafeEqual(new Uint8Array(await digest(payload)), new Uint8Array(await expected));
    return same ? payload : refused;
  };
}

const refused = 1;

function digest(bytes: Uint8Array): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", new Uint8Array(bytes));
}
