// The report as one HTML page: a matrix of all cases and targets, and each failure with its wire log.

import { escaped, page } from "../html.ts";
import { countsOf, failureLines, type RunReport, seconds, summaryLine, wireLines } from "./report.ts";
import { type CaseResult, isBad, shownClosing } from "./result.ts";

/** The whole page. */
export function htmlReport(report: RunReport): string {
  const { side, dialect, maxFrameLength, strict, startedAt, durationMs, targets } = report;
  const about = `${side} · dialect ${dialect} · frames up to ${maxFrameLength} bytes · ` +
    `${strict ? "MUST and SHOULD" : "MUST"} · ${startedAt.slice(0, 16).replace("T", " ")} UTC · ${
      seconds(durationMs)
    }`;
  const body = [
    `<p class="quiet">${escaped(about)}</p>`,
    ...targets.map(({ target, results }) => {
      const good = results.every((result) => !isBad(result));
      return `<p class="sum"><code>${escaped(target)}</code><br><b class="${good ? "good" : "bad"}">` +
        `${escaped(summaryLine(results))}</b></p>`;
    }),
    "<h2>All cases</h2>",
    matrix(report),
    ...targets.flatMap(({ target, results }, index) => {
      const bad = results.filter(isBad);
      if (bad.length === 0) return [];
      const where = targets.length > 1 ? ` of ${target}` : "";
      return [
        `<h2>What failed${escaped(where)}</h2>`,
        ...bad.map((result) => failure(result, index, maxFrameLength)),
      ];
    }),
  ].join("\n");
  return page("Conformance to the submit protocol", body, style);
}

function failure(result: CaseResult, target: number, maxFrameLength: number): string {
  const { id, level, group, description, requirement, accepted, closing, behaviour, closed, reason } = result;
  const rows: [string, string][] = [
    ["requirement", escaped(requirement)],
    ["accepted", accepted.map(escaped).join("<br>")],
    reason !== null ? ["not judged", `<span class="bad">${escaped(reason)}</span>`] : [
      "came",
      behaviour!.ok ? "what was accepted" : `<span class="bad">${escaped(behaviour!.came)}</span>`,
    ],
  ];
  if (closed !== null) {
    rows.push([
      "closing",
      closed.ok
        ? escaped(closed.came)
        : `<span class="bad">${escaped(closed.came)}</span>; accepted: ${
          escaped(closing.map(shownClosing).join(" or "))
        }`,
    ]);
  }
  const wires = result.wires.map((wire, index) =>
    `<details${index === 0 ? " open" : ""}><summary>wire ${index + 1}</summary><pre>${
      escaped(wireLines(wire, maxFrameLength, 8).slice(0, maxWireLines).join("\n"))
    }</pre></details>`
  );
  return `<section class="failure" id="${anchor(target, id)}">
<h3><span class="bad">×</span> ${escaped(id)} ${
    escaped(description)
  } <small class="quiet">${level}, ${group}</small></h3>
<dl>${rows.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("")}</dl>
${wires.slice(0, maxWires).join("\n")}
</section>`;
}

/** A row for each case and a column for each target. */
function matrix({ targets }: RunReport): string {
  const ids = new Map(
    targets.flatMap(({ results }) => results.map((result) => [result.id, result] as const)),
  );
  const several = targets.length > 1;
  const heads = several
    ? targets.map(({ target }, index) => `<th title="${escaped(target)}">${index + 1}</th>`).join("")
    : "<th></th>";
  const legend = several
    ? `<ol class="quiet">${
      targets.map(({ target }) => `<li><code>${escaped(target)}</code></li>`).join("")
    }</ol>`
    : "";
  const groups = Object.entries(Object.groupBy(ids.values(), ({ group }) => group));
  const tables = groups.map(([group, cases]) => {
    const rows = cases!.map(({ id, level, description }) => {
      const cells = targets.map(({ results }, index) => {
        const result = results.find((result) => result.id === id);
        return `<td>${result === undefined ? "" : mark(result, index)}</td>`;
      });
      return `<tr>${cells.join("")}<td>${id}</td><td>${escaped(description)}${
        level === "SHOULD" ? ' <small class="quiet">SHOULD</small>' : ""
      }</td></tr>`;
    });
    const all = targets.flatMap(({ results }) => results.filter((result) => result.group === group));
    const { passed } = countsOf(all);
    return `<details${
      all.some(isBad) ? " open" : ""
    }><summary>${group} <span class="quiet">${passed} of ${all.length} passed</span>` +
      `</summary><table><thead><tr>${heads}<th>case</th><th></th></tr></thead><tbody>${
        rows.join("")
      }</tbody></table></details>`;
  });
  return `${legend}\n${tables.join("\n")}`;
}

function mark(result: CaseResult, target: number): string {
  switch (result.status) {
    case "passed":
      return '<span class="good" title="passed">✓</span>';
    case "skipped":
      return `<span class="quiet" title="${escaped(`skipped: ${result.reason}`)}">–</span>`;
    default:
      return `<a class="bad" href="#${anchor(target, result.id)}" title="${
        escaped(failureLines({ ...result, wires: [] }, 1024)[0]!)
      }">×</a>`;
  }
}

function anchor(target: number, id: string): string {
  return `t${target + 1}-${id.replaceAll(/[./]/g, "-")}`;
}

const maxWires = 6;
const maxWireLines = 120;

const style = `
.sum code { overflow-wrap: anywhere; }
.failure { border-left: 4px solid var(--bad); padding: 0 0 .5rem .8rem; margin: 1.5rem 0; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; margin: 0 0 .5rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .3rem 0; }
a.bad { text-decoration: none; font-weight: bold; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  pre { font-size: .62rem; padding: .4rem; } .failure { padding-left: .5rem; }
  td, th { padding: .3rem .3rem; }
}
`;
