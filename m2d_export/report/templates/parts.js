"use strict";
// How numbers, labels, tables and controls look. Numbers come from m2d_export/bench/figures.py; here they are only written.

const MISSING = "–";
const GAP = "\u00a0";  // a number and its unit stay on one line
const counted = new Intl.NumberFormat("en-US");
const written = (value, how) => (value == null ? MISSING : how(value));
const minus = (text) => text.replace("-", "−");
const asScore = (value) => written(value, (v) => minus(v.toFixed(1)));
const asShare = (value) => written(value, (v) => `${(100 * v).toFixed(1)}${GAP}%`);
const asMs = (value) => written(value, (v) => `${v.toFixed(v < 10 ? 2 : v < 100 ? 1 : 0)}${GAP}ms`);
const asRate = (value) => written(value, (v) => counted.format(Math.round(v)));
const asMb = (value) => written(value, (v) => `${v >= 10 || Number.isInteger(v) ? counted.format(Math.round(v)) : v.toFixed(1)}${GAP}MB`);
const asGb = (value) => written(value, (v) => `${v >= 100 ? counted.format(Math.round(v)) : v.toPrecision(3)}${GAP}GB`);
const asInterval = (ends, how = asScore) => (ends ? `[${how(ends[0])},${GAP}${how(ends[1])}]` : "");
const asDifference = (value) => written(value, (v) => `${v > 0 ? "+" : ""}${asScore(v)}`);
const cellName = (layer, dim) => `${layer} × ${dim}`;
const unique = (values) => [...new Set(values)];
const escaped = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
// Labels may be a sentence long: as many lines as a hover box takes.
const wrapped = (text, width) => escaped(text).replace(new RegExp(`(.{1,${width}})(?:\\s|$)`, "g"), "$1<br>").replace(/<br>$/, "");

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

const valueOf = (cell) => (cell !== null && typeof cell === "object" ? cell.text : cell);

// columns: {label, note, number}; rows: {cells: [text], picked}; the first column names its row.
function table(caption, columns, rows) {
  const head = columns.map(({ label, note, number }) =>
    element("th", { scope: "col", class: number ? "number" : null }, label, note ? element("small", {}, note) : null));
  const body = rows.map(({ cells, picked }) => element("tr", { class: picked ? "picked-row" : null },
    ...cells.map((cell, place) => element(place ? "td" : "th",
      { scope: place ? null : "row", class: columns[place].number ? "number" : null }, valueOf(cell) ?? MISSING))));
  return element("table", {}, caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

function scrolled(node, label, className = "scroll") {
  return element("div", { class: className, tabindex: 0, role: "region", "aria-label": label }, node);
}

// A labelled <select>; where there is nothing to choose from it is not shown.
function choice(label, options, chosen, change) {
  if (options.length < 2) return null;
  const list = element("select", { onchange: () => change(Number(list.value)) },
    ...options.map((text, place) => element("option", { value: place, selected: place === chosen }, text)));
  return element("label", {}, label, list);
}

// Colour-blind-safe: Okabe and Ito's eight for kinds of things, viridis for what has an order. Shapes and dashes say it again.
const KINDS = {
  light: ["#0072B2", "#009E73", "#B35F00", "#CC79A7", "#3A9BD9", "#8A7A00", "#555555"],
  dark: ["#56B4E9", "#1FC99A", "#E69F00", "#E39AC4", "#9CD3F5", "#F0E442", "#BBBBBB"],
};
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b"];

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const kindColour = (place) => { const list = KINDS[isDark() ? "dark" : "light"]; return list[place % list.length]; };
function orderColour(place, count) {  // the end that would vanish on the page's paper is left out
  const stops = isDark() ? VIRIDIS.slice(2) : VIRIDIS.slice(0, 8);
  return stops[Math.round((count > 1 ? place / (count - 1) : 0) * (stops.length - 1))];
}
function colour(name) {  // a custom property as a colour that Plotly understands
  const probe = document.getElementById("theme");
  const before = probe.style.color;
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.style.color = before;
  return found;
}
