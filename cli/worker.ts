// One of the server program's Workers: a server of its own on the port that all of them share.

import { serve, type Server } from "../server.ts";
import { parseFlags } from "./flags.ts";
import { Output, told } from "./program.ts";
import { usage } from "./server.ts";
import { startServer } from "./serving.ts";
import type { FromWorker, ToWorker } from "./workers.ts";

// What a Worker has of the web's DedicatedWorkerGlobalScope, and TypeScript's window types lack.
const scope = self as unknown as {
  postMessage(message: FromWorker): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
};
const control = new AbortController();
let server: Server | undefined;
let written: (() => void) | undefined;

scope.onmessage = ({ data }) => {
  switch (data.type) {
    case "start":
      return start(data);
    case "drain":
      return void server?.shutdown();
    case "cut":
      return control.abort(new Error("stopped by a second signal"));
    case "stats":
      return server && scope.postMessage({ type: "stats", stats: server.stats() });
    case "written":
      return written?.();
  }
};

function start({ args, index, count, port, firstNumber }: ToWorker & { type: "start" }): void {
  const decoder = new TextDecoder();
  // Each piece is answered when there is room for the next: what is printed is bounded here as it is in one process.
  const output = new Output({
    write: (bytes) => {
      scope.postMessage({ type: "write", text: decoder.decode(bytes) });
      return new Promise((resolve) => written = () => resolve(bytes.length));
    },
  });
  try {
    const started = server = startServer(parseFlags(args, usage), serve, {
      write: (text) => void output.write(text),
      full: () => output.full,
      log: (line) => scope.postMessage({ type: "log", line }),
      signal: control.signal,
      numberOf: (connection) => (firstNumber + connection - 1) * count + index + 1,
      shared: { port },
    });
    scope.postMessage({ type: "listening", addrs: started.addrs });
    started.finished.then(() => started.shutdown()).then(async (report) => {
      await output.done();
      scope.postMessage({ type: "drained", report });
    });
  } catch (error) {
    const [message, status] = told(error);
    scope.postMessage({ type: "failed", message, status });
  }
}
