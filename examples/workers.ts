// deno-lint-ignore-file no-console
// Workers of one's own on one port: `deno run --unstable-net -N -R examples/workers.ts`.
//
// Each Worker runs this same module and a server with `reusePort`; the kernel spreads connections over them. State
// that the handler keeps is its Worker's alone.

import { serve } from "../server.ts";

const isWorker = typeof (globalThis as { WorkerGlobalScope?: unknown }).WorkerGlobalScope === "function";

if (isWorker) {
  let submitted = 0;
  const server = serve({ port: 8888, reusePort: true }, () => void submitted++);
  self.addEventListener("message", async () => {
    const { answered } = await server.shutdown();
    (self as unknown as Worker).postMessage(`answered ${answered} while stopping, ${submitted} in all`);
  });
} else {
  const workers = Array.from(
    { length: navigator.hardwareConcurrency },
    () => new Worker(import.meta.url, { type: "module" }),
  );
  console.log(`${workers.length} workers on 127.0.0.1:8888; Ctrl-C stops them`);
  Deno.addSignalListener("SIGINT", async () => {
    const reports = workers.map((worker) =>
      new Promise((resolve) =>
        worker.addEventListener("message", ({ data }) => resolve(data), { once: true })
      )
    );
    for (const worker of workers) worker.postMessage("stop");
    for (const report of await Promise.all(reports)) console.log(report);
    Deno.exit(0);
  });
}
