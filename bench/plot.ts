// Draws bench/out/growth.json as SVG into docs/growth/, and prints it as tables.
//
//   deno run -A bench/plot.ts

import { say, table } from "./drive.ts";
import type { Growth, Point } from "./growth.ts";

const width = 640, height = 340, left = 70, right = 20, top = 34, bottom = 46;
/** Grey, blue and orange that can be read on white and on black. */
const grey = "#808890", colours: Record<string, string> = { ours: "#2f81f7", raw: "#d9730d" };

function main(): void {
  const growth = JSON.parse(Deno.readTextFileSync(new URL("out/growth.json", import.meta.url))) as Growth;
  const folder = new URL("../docs/growth/", import.meta.url);
  Deno.mkdirSync(folder, { recursive: true });
  for (const [name, { unit, fixed, points }] of Object.entries(growth.series)) {
    Deno.writeTextFileSync(new URL(`${name}.svg`, folder), chart(unit, fixed, points));
    const { ours, raw } = points as { ours: Point[]; raw: Point[] };
    say(`\n${unit}; ${fixed}\n`);
    say(table(
      [
        unit,
        "ours, /s",
        "raw, /s",
        "ours : raw",
        "ours, µs of CPU",
        "raw, µs of CPU",
        "ours, MiB",
        "raw, MiB",
      ],
      ours.map((point, i) => [
        point.at.toLocaleString("en"),
        Math.round(point.requestsPerSecond).toLocaleString("en"),
        Math.round(raw[i]!.requestsPerSecond).toLocaleString("en"),
        (point.requestsPerSecond / raw[i]!.requestsPerSecond).toFixed(2),
        point.cpuMicros.toPrecision(3),
        raw[i]!.cpuMicros.toPrecision(3),
        point.residentMiB.toFixed(0),
        raw[i]!.residentMiB.toFixed(0),
      ]),
    ));
  }
}

/** Microseconds a request, on logarithmic axes. */
function chart(unit: string, fixed: string, points: Record<string, Point[]>): string {
  const all = Object.values(points).flat();
  const [x0, x1] = [Math.min(...all.map(({ at }) => at)), Math.max(...all.map(({ at }) => at))].map(
    Math.log10,
  ) as [number, number];
  const y0 = Math.floor(Math.log10(Math.min(...all.map(({ cpuMicros }) => cpuMicros))));
  const y1 = Math.ceil(Math.log10(Math.max(...all.map(({ cpuMicros }) => cpuMicros))));
  const x = (at: number) => left + (Math.log10(at) - x0) / (x1 - x0) * (width - left - right);
  const y = (micros: number) =>
    height - bottom - (Math.log10(micros) - y0) / (y1 - y0) * (height - top - bottom);
  const text = (px: number, py: number, anchor: string, words: string, colour = grey) =>
    `<text x="${px.toFixed(1)}" y="${
      py.toFixed(1)
    }" text-anchor="${anchor}" fill="${colour}">${words}</text>`;
  const parts: string[] = [];
  for (let power = y0; power <= y1; power++) {
    const py = y(10 ** power);
    parts.push(
      `<path d="M${left} ${py.toFixed(1)}H${width - right}" stroke="${grey}" stroke-opacity=".35"/>`,
    );
    parts.push(text(left - 8, py + 4, "end", `${Number((10 ** power).toPrecision(1))} µs`));
  }
  for (const { at } of Object.values(points)[0]!) {
    parts.push(text(x(at), height - bottom + 18, "middle", short(at)));
  }
  parts.push(text((left + width - right) / 2, height - 8, "middle", `${unit}; ${fixed}`));
  Object.entries(points).forEach(([name, list], i) => {
    const colour = colours[name]!;
    const path = list.map(({ at, cpuMicros }) => `${x(at).toFixed(1)},${y(cpuMicros).toFixed(1)}`).join(" ");
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const pair of path.split(" ")) {
      parts.push(`<circle cx="${pair.split(",")[0]}" cy="${pair.split(",")[1]}" r="3" fill="${colour}"/>`);
    }
    parts.push(text(left + 90 * i, 18, "start", `● ${name}`, colour));
  });
  parts.push(text(width - right, 18, "end", "the server's CPU time a request"));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" ` +
    `font-size="12">\n${parts.join("\n")}\n</svg>\n`;
}

function short(at: number): string {
  if (at >= 1_000_000) return "1Mi";
  return at >= 1024 && at % 1024 === 0
    ? `${at / 1024}Ki`
    : at >= 1000 && at % 1000 === 0
    ? `${at / 1000}k`
    : String(at);
}

if (import.meta.main) main();
