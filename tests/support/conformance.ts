// Servers as targets that the conformance cases start and stop themselves.

import type { ServeOptions } from "../../server.ts";
import type { LaunchedTarget } from "../../testkit/conformance/case.ts";
import { type SoundServerOptions, startSoundServer } from "../../testkit/mutants.ts";
import { serve } from "./doors.ts";

/** Starts a sound server for each case that asks for one. */
export function launchSound(options: SoundServerOptions): () => Promise<LaunchedTarget> {
  return () => {
    const server = startSoundServer(options), exited = Promise.withResolvers<number>();
    return Promise.resolve({
      hostname: "127.0.0.1",
      port: server.port,
      terminate: () => void server.drain().then(() => exited.resolve(0)),
      exited: exited.promise,
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    });
  };
}

/** Starts one of our servers for each case that asks for one. */
export function launchOurs(options: Omit<ServeOptions, "port">): () => Promise<LaunchedTarget> {
  return () => {
    const server = serve({ ...options, port: 0 }, () => {});
    return Promise.resolve({
      hostname: "127.0.0.1",
      port: (server.addr as Deno.NetAddr).port,
      terminate: () => void server.shutdown(),
      exited: server.finished.then(() => 0),
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    });
  };
}
