// The sound server as a target that the conformance cases start and stop themselves.

import type { LaunchedTarget } from "../../testkit/conformance/case.ts";
import { type SoundServerOptions, startSoundServer } from "../../testkit/mutants.ts";

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
