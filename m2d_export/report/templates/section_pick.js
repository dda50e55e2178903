"use strict";
// The budgets, and the card that shows what they pick.

const STEPS = 200;  // positions of a slider; its end that admits everything sets no budget
const vectorsWanted = () => Math.max(1, Number($("vectors")?.value) || 1e6);
const bytesWanted = () => Number($("bytes")?.value ?? DATA.bytes.fp32);
const indexWanted = () => ({ vectors: vectorsWanted(), bytes_per_value: bytesWanted() });
const judged = () => DATA.tasks[state.task];
const formatNumber = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 4 });

// Three significant digits, rounded to the side that keeps the value within the budget.
function rounded(value, up) {
  const unit = 10 ** (Math.floor(Math.log10(value)) - 2);
  const steps = value / unit - (up ? 1e-9 : -1e-9);
  return Number(((up ? Math.ceil : Math.floor)(steps) * unit).toPrecision(6));
}
function between(values, share) {
  const low = Math.min(...values), high = Math.max(...values);
  return low * (high / low) ** share;
}
const spread = (values) => ({
  range: () => [0, STEPS],
  value: (position, up) => rounded(between(values(), position / (STEPS - (up ? 1 : 0))), up),
});

// How each budget of m2d_export/select/budgets.py is set by a slider.
const SLIDERS = {
  min_retention: {
    label: () => (judged().in_index ? "Share of what the index’s own queries find, at least"
      : `Share of the full cell’s ${titleOf(judged().quality)} at least`),
    of: () => judged().retention,
    start: 0.97, write: asShare, value: (position) => position / 200,
    range: () => [Math.floor(200 * Math.max(0, Math.min(...valuesOf(judged().retention)))) - 1, 200],
  },
  min_score: {
    label: () => `Least ${titleOf(judged().quality)}`, of: () => judged().quality, write: asScore,
    value: (position) => position / 10,
    range: () => {
      const all = valuesOf(judged().quality);
      return [Math.floor(10 * Math.min(...all)) - 1, Math.ceil(10 * Math.max(...all))];
    },
  },
  max_latency_ms: {
    label: () => "Latency at most", of: () => "latency_ms", write: (v) => `${v} ms`,
    ...spread(() => valuesOf("latency_ms")),
  },
  min_throughput: {
    label: () => "Throughput at least", of: () => "sentences_per_second", write: (v) => `${asCount(v)} sentences/s`,
    ...spread(() => valuesOf("sentences_per_second")),
  },
  max_index_gb: {
    label: () => "Index at most", of: () => "dim", write: asGb,
    ...spread(() => valuesOf("dim").map((dim) => indexGb(dim, indexWanted()))),
  },
};

function budgets() {
  const chosen = { task: state.task, ...(judged().in_index ? { index_cell: state.indexCell } : {}) };
  for (const name of limits()) {
    const slider = $(name);
    if (!slider) continue;
    const position = Number(slider.value), off = Number(isUpper(name) ? slider.max : slider.min);
    if (position !== off) chosen[name] = SLIDERS[name].value(position, isUpper(name));
  }
  return chosen.max_index_gb == null ? chosen : { ...chosen, ...indexWanted() };
}

function buildBudgets() {
  const task = choice("judged by", tasks(), tasks().indexOf(state.task), (place) => {
    state.task = tasks()[place];
    buildBudgets();
    drawPick();
  });
  const cells = indexCells();
  state.indexCell = cells.includes(state.indexCell) ? state.indexCell : cells[0];
  const cell = judged().in_index ? choice("index of", cells, cells.indexOf(state.indexCell), (place) => {
    state.indexCell = cells[place];
    drawPick();
  }) : null;
  const sliders = limits().filter((name) => valuesOf(SLIDERS[name].of()).length).map((name) => {
    const { label, range, start } = SLIDERS[name], [min, max] = range();
    const off = isUpper(name) ? max : min;
    const value = start ? Math.min(max, Math.max(min, Math.round(start * STEPS))) : off;
    return element("div", { class: "budget" },
      element("label", { for: name }, label(), element("output", { id: `${name}-value`, for: name })),
      element("input", { type: "range", id: name, min, max, value, step: 1, oninput: drawPick }));
  });
  const vectors = { type: "number", id: "vectors", min: 1, step: "any", value: 1e6, inputmode: "numeric" };
  const storages = Object.entries(DATA.bytes).map(([name, value]) => element("option", { value }, name));
  const index = element("div", { class: "index-of" },
    element("label", { for: "vectors" }, "vectors in the index", element("input", { ...vectors, oninput: drawPick })),
    element("label", { for: "bytes" }, "stored as",
      element("select", { id: "bytes", onchange: drawPick }, ...storages)));
  const submit = (event) => event.preventDefault();
  $("pick").querySelector(".picker").replaceChildren(
    element("form", { id: "budgets", class: "budgets", "aria-label": "Budgets", onsubmit: submit },
      task ? element("div", { class: "index-of", id: "task" }, task, cell) : null, ...sliders, index,
      element("code", { id: "command", tabindex: 0 })),
    element("div", { id: "picked", class: "picked", "aria-live": "polite" }));
}

const shellWord = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

// The options that make `m2d-export select` choose the same.
function command(chosen) {
  const of = group(), options = [];
  const differs = (name) => state[name] !== of.defaults[name];
  if (!of.selectable) return "Another machine measured this bundle later: m2d-export select uses that one.";
  if (judged().in_index) options.push(`--index-cell ${chosen.index_cell}`);
  const task = state.task.replace("index-", "");
  if (task !== (judged().in_index ? "retrieval" : "sts")) options.push(`--task ${task}`);
  if (judged().in_index && differs("index")) options.push(`--index ${shellWord(of.indexes[state.index].name)}`);
  if (of.sts.length > 1) options.push(`--sts ${shellWord(of.sts[state.sts].name)}`);
  if (differs("texts")) options.push(`--texts ${shellWord(of.texts[state.texts])}`);
  if (differs("collection")) options.push(`--retrieval ${shellWord(of.collections[state.collection])}`);
  if (differs("times")) options.push(of.times[state.times].options);
  for (const name of [...limits(), "vectors", "bytes_per_value"]) {
    if (chosen[name] != null) options.push(`--${name.replaceAll("_", "-")} ${chosen[name]}`);
  }
  return `m2d-export select BUNDLE --results results.jsonl ${options.join(" ")}`.trim();
}

function relaxed({ budget, limit, needed, row }) {
  const change = `from ${formatNumber(limit)} to ${formatNumber(needed)}`;
  return `${SLIDERS[budget].label()}: ${change} would allow ${nameOf(row)}, ${row.setup}.`;
}

function pickCard({ picked: row, storage, worth: own, warnings, relaxations }, view) {
  const list = (texts, more) => element("ul", more, ...texts.map((text) => element("li", {}, text)));
  if (!row) {
    return [element("p", { class: "name" }, "No cell"),
      element("p", { class: "setup" }, "meets all of these budgets at once."),
      relaxations.length ? list(relaxations.map(relaxed))
        : element("p", { class: "small" }, "More than one budget must be relaxed.")];
  }
  const full = fullRow(), both = full ? [row, full] : [row], size = indexWanted();
  const lines = TABLE.filter(({ key }) => isKnown(row[key]))
    .map((column) => [column.title, noteOf(column, view), (of) => textOf(column, of)]);
  lines.push([`index of ${counted.format(size.vectors)}`, "", (of) => asGb(indexGb(of.dim, size))]);
  if (storage) {
    const note = `judged, ${asShare(own.retention)} of the full cell’s`;
    lines.unshift([`score as ${storage}`, note, (of) => asScore(of.stored[storage]?.score)]);
  }
  const columns = [{ label: "" }, { label: "the pick", number: true },
    { label: `full cell, ${full && nameOf(full)}`, note: full?.setup, number: true }].slice(0, both.length + 1);
  const made = table("", columns, lines.map(([title, , write]) => ({ cells: [title, ...both.map(write)] })));
  made.querySelectorAll("tbody th").forEach((head, place) => {
    if (lines[place][1]) head.append(element("small", { style: "margin-left:0" }, lines[place][1]));
  });
  const gap = row.difference_interval;
  const mayBeChance = gap && gap[0] <= 0 && gap[1] >= 0 ? ", may be chance" : "";
  const difference = `${asDifference(row.difference)} ${asInterval(gap, asDifference)}${mayBeChance}`;
  return [
    element("p", { class: "name" }, nameOf(row)),
    element("p", { class: "setup" }, `layer ${row.layer}, dim ${row.dim} · ${row.setup}`), made,
    gap && row !== full ? element("p", { class: "small" }, `Its difference to the full cell: ${difference}.`) : null,
    warnings.length ? list(warnings, { class: "small", id: "warnings" }) : null,
  ].filter(Boolean);
}

SECTIONS.pick = {
  follows: true,
  draw({ decision, chosen, view }) {
    for (const name of limits()) {
      const output = $(`${name}-value`);
      if (!output) continue;
      output.textContent = chosen[name] == null ? "any" : SLIDERS[name].write(chosen[name]);
      output.className = chosen[name] == null ? "any" : "";
      $(name).setAttribute("aria-valuetext", output.textContent);
    }
    $("command").textContent = command(chosen);
    $("picked").replaceChildren(...pickCard(decision, view));
  },
};
