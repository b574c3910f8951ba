// `serve` with a stop that gives up: a test whose server does not stop must fail, not hang.

import * as framewire from "../../mod.ts";
import { within } from "./wait.ts";

/** As the package's. */
export const serve: typeof framewire.serve = (options, handler) => {
  const server = framewire.serve(options, handler);
  server[Symbol.asyncDispose] = async () => {
    await within(server.shutdown(), "the server has stopped", 15_000);
  };
  return server;
};
