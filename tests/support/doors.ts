// The three ways to serve, with a stop that gives up: a test whose server does not stop must fail, not hang.

import * as framewire from "../../mod.ts";
import { within } from "./wait.ts";

type Doors = Pick<typeof framewire, "serve" | "serveFrames" | "serveConnections">;

function guarded(server: framewire.Server): framewire.Server {
  server[Symbol.asyncDispose] = async () => {
    await within(server.shutdown(), "the server has stopped", 15_000);
  };
  return server;
}

/** As the package's. */
export const serve: Doors["serve"] = (options, handler) => guarded(framewire.serve(options, handler));
/** As the package's. */
export const serveFrames: Doors["serveFrames"] = (options, handler) => {
  return guarded(framewire.serveFrames(options, handler));
};
/** As the package's. */
export const serveConnections: Doors["serveConnections"] = (options, handler) => {
  return guarded(framewire.serveConnections(options, handler));
};
