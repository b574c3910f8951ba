// How does the cost of a request grow with connections, payload and window? Writes bench/out/growth.json.
//
//   deno run -A bench/growth.ts [--seconds 1]

import { parseArgs } from "@std/cli/parse-args";
import { type Driven, type Load, machine, say, Server } from "./drive.ts";

/** One load on one server. */
export interface Point extends Driven {
  readonly at: number;
}

/** What is varied, on which servers. */
export interface Growth {
  readonly machine: Record<string, string>;
  readonly series: Record<
    string,
    { readonly unit: string; readonly fixed: string; readonly points: Record<string, Point[]> }
  >;
}

const loads: Record<string, { unit: string; fixed: string; values: number[]; load: (at: number) => Load }> = {
  connections: {
    unit: "connections",
    fixed: "window 1, payload of 64 bytes",
    values: [1, 4, 16, 64, 256, 1000, 4000, 10_000],
    load: (at) => [at, 1, 64],
  },
  payload: {
    unit: "bytes of payload",
    fixed: "4 connections, window 4",
    values: [16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_563],
    load: (at) => [4, 4, at],
  },
  window: {
    unit: "requests in flight on a connection",
    fixed: "4 connections, payload of 16 bytes",
    values: [1, 4, 16, 64, 256, 1024],
    load: (at) => [4, at, 16],
  },
};

async function main(): Promise<void> {
  const seconds = Number(parseArgs(Deno.args, { string: ["seconds"] }).seconds ?? 1);
  const growth: Growth = { machine: machine(), series: {} };
  for (const [name, { unit, fixed, values, load }] of Object.entries(loads)) {
    const points: Record<string, Point[]> = { ours: [], raw: [] };
    for (const at of values) {
      for (const [server, list] of Object.entries(points)) {
        // A fresh process for each: what one load left behind is none of the next one's.
        await using running = await Server.start(server);
        const driven = await running.drive(load(at), seconds, 1);
        list.push({ at, ...driven });
        say(
          `${name} ${at} ${server}: ${Math.round(driven.requestsPerSecond)}/s, ${
            driven.cpuMicros.toFixed(3)
          } µs`,
        );
      }
    }
    growth.series[name] = { unit, fixed, points };
  }
  Deno.mkdirSync(new URL("out/", import.meta.url), { recursive: true });
  Deno.writeTextFileSync(new URL("out/growth.json", import.meta.url), `${JSON.stringify(growth, null, 2)}\n`);
}

if (import.meta.main) main();
