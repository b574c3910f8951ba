// The fault proxy as a program.

import { type Given, type Usage, UsageError } from "../../cli/flags.ts";
import { Output, ProgramError, readFlagFile, runProgram } from "../../cli/program.ts";
import { addressOf, serveProxies, shown } from "./api.ts";
import { Trace } from "./trace.ts";

const usage: Usage = {
  name: "deno run -A testkit/proxy.ts",
  summary: "Proxies TCP connections and hurts them on purpose, as toxiproxy's HTTP API says.",
  flags: {
    api: { kind: "text", value: "HOST:PORT", help: "where the HTTP API listens (127.0.0.1:8474)" },
    config: { kind: "text", value: "FILE", help: "proxies to begin with, as JSON for POST /populate" },
    seed: { kind: "integer", value: "N", help: "what draws begin with: the same bytes, the same faults" },
    trace: { kind: "text", value: "FILE", help: "write what happens, a line of JSON for each event" },
  },
  examples: [
    ["Wait for a toxiproxy client", "deno run -A testkit/proxy.ts"],
    ["Begin with proxies of a file", "deno run -A testkit/proxy.ts --config testkit/proxy/example.json"],
    ["Repeat a run, and see each fault", "deno run -A testkit/proxy.ts --seed 7 --trace /dev/stderr"],
  ],
};

/** Runs the program, to its end. */
export function runProxy(args: readonly string[]): Promise<never> {
  return runProgram(args, usage, run);
}

async function run(given: Given): Promise<number> {
  const stopped = Promise.withResolvers<void>();
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, stopped.resolve);
  const path = given.text("trace"), seed = given.integer("seed"), config = given.text("config");
  const api = given.text("api") ?? "127.0.0.1:8474", list = config === undefined ? [] : listIn(config);
  using trace = path === undefined ? null : traceTo(path);
  await using served = serving(api, {
    ...(seed === undefined ? {} : { seed }),
    ...(trace === null ? {} : { onEvent: trace.write }),
  });
  const output = new Output(Deno.stdout);
  try {
    for (const proxy of await served.populate(list)) {
      await output.write(`${proxy.name}: ${shown(proxy.addr)} to ${shown(proxy.upstream)}\n`);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ProgramError(`cannot begin with ${config}: ${reason}`, 2);
  }
  await output.write(`listening on ${shown(served.addr)}, seed ${served.seed}\n`);
  await stopped.promise;
  return 0;
}

function serving(api: string, options: Parameters<typeof serveProxies>[0]): ReturnType<typeof serveProxies> {
  let address;
  try {
    address = addressOf(api);
  } catch {
    throw new UsageError(`--api needs HOST:PORT, and got ${api}`);
  }
  try {
    return serveProxies({ ...address, ...options });
  } catch (error) {
    const reason = error instanceof Deno.errors.AddrInUse ? "the port is in use" : String(error);
    throw new ProgramError(`cannot listen on ${api}: ${reason}; choose another with --api`, 1);
  }
}

function listIn(path: string): unknown {
  const text = readFlagFile("config", path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(
      `--config names ${path}, which is no JSON (${error instanceof Error ? error.message : error})`,
    );
  }
}

function traceTo(path: string): Trace {
  try {
    return new Trace(path);
  } catch (error) {
    throw new UsageError(
      `--trace names ${path}, which cannot be written (${error instanceof Error ? error.name : error})`,
    );
  }
}
