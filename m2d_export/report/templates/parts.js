"use strict";
// How numbers, labels, tables and controls look. All numbers come from m2d_export/bench/metrics.py.

const DATA = JSON.parse(document.getElementById("data").textContent);
const MISSING = "–";
const GAP = "\u00a0";  // keeps a number and its unit on one line
const counted = new Intl.NumberFormat("en-US");
const known = (how) => (value) => (value == null ? MISSING : how(value));
const asScore = known((v) => v.toFixed(1).replace("-", "−"));
const asShare = known((v) => `${(100 * v).toFixed(1)}${GAP}%`);
const asMs = known((v) => `${v.toFixed(v < 10 ? 2 : v < 100 ? 1 : 0)}${GAP}ms`);
const asCount = known((v) => counted.format(Math.round(v)));
const asMb = known((v) => `${v >= 10 || Number.isInteger(v) ? asCount(v) : v.toFixed(1)}${GAP}MB`);
const asGb = known((v) => `${v >= 100 ? asCount(v) : v.toPrecision(3)}${GAP}GB`);
const asDifference = known((v) => `${v > 0 ? "+" : ""}${asScore(v)}`);
const asNamed = known((of) => Object.entries(of)
  .filter(([, v]) => v != null).map(([name, v]) => `${name}${GAP}${asScore(v.score ?? v)}`).join(", "));
// The ways to write a column: the names are those of WRITERS in m2d_export/report/formatting.py.
const WRITERS = {
  score: asScore, difference: asDifference, share: asShare, ms: asMs, count: asCount, mb: asMb, named: asNamed,
  text: known(String),
};
const asInterval = (ends, how = asScore) => (ends ? `[${how(ends[0])},${GAP}${how(ends[1])}]` : "");

// The text of a column in a row, as in m2d_export/report/columns.py.
function textOf(column, row) {
  const how = WRITERS[column.write];
  const parts = [how(row[column.key]), asInterval(row[column.interval], how), row[column.mark] ? column.mark : ""];
  return parts.filter(Boolean).join(" ");
}
const isKnown = (value) => value != null && (typeof value !== "object" || Object.keys(value).length > 0);
const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const noteOf = ({ note }, view) => filled(note, view);

const cellName = (layer, dim) => `${layer} × ${dim}`;
const nameOf = (row) => cellName(row.layer, row.dim);
const unique = (values) => [...new Set(values)];
const ascendingBy = (values, by) => values.toSorted((a, b) => by(a) - by(b));
const ascending = (values) => unique(values).sort((a, b) => a - b);
const escaped = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
// A long text in lines of a hover box.
const wrapped = (text, width) => escaped(text).replace(new RegExp(`(.{1,${width}})(?: |$)`, "g"), "$1<br>   ").trimEnd()
  .replace(/<br>$/, "");

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// columns: {label, note, number}; rows: {cells: [text], picked}; the first column names its row.
function table(caption, columns, rows) {
  const head = columns.map(({ label, note, number }) =>
    element("th", { scope: "col", class: number ? "number" : null }, label, note ? element("small", {}, note) : null));
  const body = rows.map(({ cells, picked }) => element("tr", { class: picked ? "picked-row" : null },
    ...cells.map((cell, place) => element(place ? "td" : "th",
      { scope: place ? null : "row", class: columns[place].number ? "number" : null }, cell ?? MISSING))));
  return element("table", {}, caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
const headings = (labels, numbersFrom) => labels.map((label, place) => ({ label, number: place >= numbersFrom }));

function scrolled(node, label, className = "scroll") {
  return element("div", { class: className, tabindex: 0, role: "region", "aria-label": label }, node);
}

// A labelled <select>; not shown where there is nothing to choose from.
function choice(label, options, chosen, change) {
  if (options.length < 2) return null;
  const list = element("select", { onchange: () => change(Number(list.value)) },
    ...options.map((text, place) => element("option", { value: place, selected: place === chosen }, text)));
  return element("label", {}, label, list);
}

// Colours that colour-blind readers can tell apart: Okabe and Ito's for kinds, viridis for an order.
// Symbols and dashes repeat what the colour says.
const KINDS = {
  light: ["#0072B2", "#009E73", "#B35F00", "#CC79A7", "#3A9BD9", "#8A7A00", "#555555"],
  dark: ["#56B4E9", "#1FC99A", "#E69F00", "#E39AC4", "#9CD3F5", "#F0E442", "#BBBBBB"],
};
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const VIRIDIS = [
  "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b",
];
const PICK = "#E8590C";  // differs from cividis on light and dark paper

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const cyclic = (list, place) => list[place % list.length];
const kindColour = (place) => cyclic(KINDS[isDark() ? "dark" : "light"], place);
const kindMarker = (place) => ({ size: 8, color: kindColour(place), symbol: cyclic(SYMBOLS, place) });
const kindLine = (place) => ({ color: kindColour(place), width: 2, dash: cyclic(DASHES, place) });
function orderColour(place, count) {  // without the colours that are close to the paper's
  const stops = isDark() ? VIRIDIS.slice(2) : VIRIDIS.slice(0, 8);
  return stops[Math.round((count > 1 ? place / (count - 1) : 0) * (stops.length - 1))];
}
function colour(name) {  // a CSS custom property as a colour that Plotly understands
  const probe = document.getElementById("theme");
  const before = probe.style.color;
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.style.color = before;
  return found;
}
