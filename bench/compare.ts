// How fast is the server beside others, in one run? Needs nothing but Deno.
//
//   deno run -A bench/compare.ts [--rounds 5] [--seconds 1] [--only ours,raw] [--loads "64/1/64 16/64/64"]
//                                [--save] [--compare]

import { parseArgs } from "@std/cli/parse-args";
import { type Load, machine, median, say, Server, servers, table } from "./drive.ts";

/** Ratios to the hand-written loop, round by round. */
interface Report {
  readonly machine: Record<string, string>;
  readonly loads: Record<string, Record<string, { readonly perSecond: number[]; readonly ratios: number[] }>>;
}

const baseline = new URL("baseline.json", import.meta.url),
  out = new URL("out/compare.json", import.meta.url);

async function main(): Promise<void> {
  const flags = parseArgs(Deno.args, {
    string: ["rounds", "seconds", "only", "loads"],
    boolean: ["save", "compare"],
  });
  const rounds = Number(flags.rounds ?? 5), seconds = Number(flags.seconds ?? 1);
  const names = String(flags.only ?? Object.keys(servers)).split(",");
  const loads = String(flags.loads ?? "64/1/64 16/64/64 4/256/16 4/16/16384").split(" ");
  const report: Report = { machine: machine(), loads: {} };
  await using running = new AsyncDisposableStack();
  const started: [string, Server][] = [];
  for (const name of names) started.push([name, running.use(await Server.start(name))]);
  for (const load of loads) {
    const results: Report["loads"][string] = report.loads[load] = {};
    for (let round = 0; round < rounds; round++) {
      // In turn within a round: whatever else the machine does hurts all alike.
      const perSecond: Record<string, number> = {};
      for (const [name, server] of started) {
        const driven = await server.drive(load.split("/").map(Number) as unknown as Load, seconds);
        perSecond[name] = driven.requestsPerSecond;
      }
      for (const name of names) {
        const result = results[name] ??= { perSecond: [], ratios: [] };
        result.perSecond.push(perSecond[name]!);
        result.ratios.push(perSecond[name]! / (perSecond.raw ?? NaN));
      }
    }
  }
  say(
    table(
      ["connections/window/bytes", ...names.flatMap((name) => [`${name}, /s`, ": raw"])],
      loads.map((load) => [
        load,
        ...names.flatMap((name) => {
          const { perSecond, ratios } = report.loads[load]![name]!;
          const range = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
          return [
            Math.round(median(perSecond)).toLocaleString("en"),
            `${median(ratios).toFixed(2)} (${range})`,
          ];
        }),
      ]),
    ),
  );
  Deno.mkdirSync(new URL(".", out), { recursive: true });
  const json = `${JSON.stringify(report, null, 2)}\n`;
  Deno.writeTextFileSync(out, json);
  if (flags.save) Deno.writeTextFileSync(baseline, json);
  if (flags.compare) Deno.exitCode = compare(report) ? 0 : 1;
}

/**
 * Whether ours holds its ratios to the hand-written loop, which machines share more than they share speed. It does not
 * where its median is below the baseline's by more than a twentieth, and by more than both runs' half ranges together.
 */
function compare(report: Report): boolean {
  const before = JSON.parse(Deno.readTextFileSync(baseline)) as Report;
  let holds = true;
  for (const [load, { ours }] of Object.entries(report.loads)) {
    const old = before.loads[load]?.ours;
    if (ours === undefined || old === undefined) continue;
    const half = (ratios: number[]) => (Math.max(...ratios) - Math.min(...ratios)) / 2;
    const was = median(old.ratios), is = median(ours.ratios);
    const noise = Math.max(0.05 * was, half(old.ratios) + half(ours.ratios)), slower = was - is > noise;
    if (slower) holds = false;
    say(
      `${load}: ours is at ${is.toFixed(2)} of raw, and was at ${was.toFixed(2)}; noise ${
        noise.toFixed(2)
      }: ${slower ? "SLOWER" : "holds"}`,
    );
  }
  return holds;
}

if (import.meta.main) main();
