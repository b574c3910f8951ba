// A worker of the server program that can be made to fail: it speaks the protocol of cli/workers.ts, and does
// what a payload says.
//
// - `crash`: throws, uncaught.
// - `who`: answers 100 and its index.
//
// Its arguments may be `--no-restart FILE`: a worker whose file exists fails to start, in an orderly way.

import { serve, type Server } from "../../mod.ts";
import type { FromWorker, ToWorker } from "../../cli/workers.ts";

const scope = self as unknown as {
  postMessage(message: FromWorker): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
};
const control = new AbortController();
let server: Server | undefined;

scope.onmessage = ({ data }) => {
  switch (data.type) {
    case "start":
      return start(data);
    case "drain":
      return void server?.shutdown();
    case "cut":
      return control.abort(new Error("cut"));
    case "stats":
      return server && scope.postMessage({ type: "stats", stats: server.stats() });
  }
};

function start({ args, index, port }: ToWorker & { type: "start" }): void {
  const [flag, file] = args;
  if (flag === "--no-restart" && exists(file!)) {
    return scope.postMessage({ type: "failed", message: "it fails to start", status: 1 });
  }
  server = serve({ port, reusePort: true, poison: true, signal: control.signal }, ({ payload }) => {
    const text = new TextDecoder().decode(payload);
    if (text === "who") return 100 + index;
    if (text !== "crash") return 0;
    setTimeout(() => {
      throw new Error("told to crash");
    }, 0);
    return new Promise<void>(() => {});
  });
  const { addrs, finished } = server;
  scope.postMessage({ type: "listening", addrs });
  finished.then(() => server!.shutdown()).then((report) => scope.postMessage({ type: "drained", report }));
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
