// What does a report look like? One HTML file with nothing to load, readable on a phone, in light and in dark.

/** Text as HTML. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A whole page. `title` is text; `body` is HTML, and `style` CSS of its own behind the common one. */
export function page(title: string, body: string, style = ""): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>${commonStyle}${style}</style>
</head>
<body>
<main>
<h1>${escaped(title)}</h1>
${body}
</main>
</body>
</html>
`;
}

// Colours are named by what they say; a report uses these names alone.
const commonStyle = `
:root { color-scheme: light dark;
  --ground: #fff; --panel: #f4f5f7; --text: #1b1f24; --quiet: #5a6472; --line: #d4d9e0;
  --good: #1a7f37; --bad: #c4281c; --warn: #8a5a00; --one: #0b62c4; --two: #b3480f; --three: #6b3fa0; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171b; --panel: #1e2329; --text: #e3e7ec; --quiet: #9aa5b3; --line: #363d46;
  --good: #4cc26d; --bad: #ff7b6f; --warn: #e0ad4a; --one: #62a8ff; --two: #ff9a5c; --three: #b995f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
code, pre { font: .85rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre, .wide { overflow-x: auto; background: var(--panel); border-radius: .4rem; padding: .6rem; }
.wide { background: none; padding: 0; }
svg { max-width: 100%; height: auto; }
.quiet { color: var(--quiet); } .good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
`;
