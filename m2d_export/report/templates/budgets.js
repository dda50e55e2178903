"use strict";
// The budgets, and the card that says what they pick.

// A slider's position becomes a value; one end means "any" and sets no budget.
const STEPS = 200;
const rounded = (value, up) => { const unit = 10 ** (Math.floor(Math.log10(value)) - 2); return Number(((up ? Math.ceil : Math.floor)(value / unit - (up ? 1e-9 : -1e-9)) * unit).toPrecision(6)); };
const between = (values, share) => { const low = Math.min(...values), high = Math.max(...values); return low * (high / low) ** share; };
const figured = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
const vectorsWanted = () => Math.max(1, Number($("vectors")?.value) || 1e6);
const bytesWanted = () => Number($("bytes")?.value ?? 4);
const task = () => TASKS[state.task];

const BUDGETS = [
  { name: "min_retention", label: () => `Share of the full cell’s ${task().title} at least`, of: () => task().retention, any: "low", start: 0.97, write: asShare,
    range: () => [Math.floor(200 * Math.max(0, Math.min(...known(task().retention)))) - 1, 200], value: (position) => position / 200 },
  { name: "min_score", label: () => `${task().title[0].toUpperCase()}${task().title.slice(1)} at least`, of: () => task().quality, any: "low", write: asScore,
    range: () => { const all = known(task().quality); return [Math.floor(10 * Math.min(...all)) - 1, Math.ceil(10 * Math.max(...all))]; }, value: (position) => position / 10 },
  { name: "max_latency_ms", label: () => "Latency at most", of: () => "latency_ms", any: "high", write: (v) => `${v} ms`,
    range: () => [0, STEPS], value: (position) => rounded(between(known("latency_ms"), position / (STEPS - 1)), true) },
  { name: "min_throughput", label: () => "Throughput at least", of: () => "sentences_per_second", any: "low", write: (v) => `${counted.format(v)} sentences/s`,
    range: () => [0, STEPS], value: (position) => rounded(between(known("sentences_per_second"), position / STEPS), false) },
  { name: "max_index_gb", label: () => "Index at most", of: () => "dim", any: "high", write: asGb,
    range: () => [0, STEPS], value: (position) => rounded(between(known("dim").map((dim) => indexGb(dim, { vectors: vectorsWanted(), bytes_per_value: bytesWanted() })), position / (STEPS - 1)), true) },
];

function budgets() {
  const chosen = { task: state.task };
  for (const budget of BUDGETS) {
    const slider = $(budget.name);
    if (!slider) continue;
    const position = Number(slider.value);
    if (position !== Number(budget.any === "low" ? slider.min : slider.max)) chosen[budget.name] = budget.value(position);
  }
  if (chosen.max_index_gb != null) Object.assign(chosen, { vectors: vectorsWanted(), bytes_per_value: bytesWanted() });
  return chosen;
}

function buildBudgets(changed) {
  const tasks = Object.keys(TASKS).filter((name) => known(TASKS[name].quality).length);
  const judged = choice("judged by", tasks.map((name) => TASKS[name].name), tasks.indexOf(state.task),
    (place) => { state.task = tasks[place]; buildBudgets(changed); changed(); });
  const sliders = BUDGETS.filter((budget) => known(budget.of()).length).map((budget) => {
    const [min, max] = budget.range();
    const start = budget.start ? Math.min(max, Math.max(min, Math.round(budget.start * 200))) : budget.any === "low" ? min : max;
    return element("div", { class: "budget" },
      element("label", { for: budget.name }, budget.label(), element("output", { id: `${budget.name}-value`, for: budget.name })),
      element("input", { type: "range", id: budget.name, min, max, value: start, step: 1, oninput: changed }));
  });
  const index = element("div", { class: "index-of" },
    element("label", { for: "vectors" }, "vectors in the index", element("input", { type: "number", id: "vectors", min: 1, step: "any", value: 1000000, inputmode: "numeric", oninput: changed })),
    element("label", { for: "bytes" }, "stored as", element("select", { id: "bytes", onchange: changed },
      ...[["float32", 4], ["float16", 2], ["int8", 1], ["binary", 0.125]].map(([name, bytes]) => element("option", { value: bytes }, name)))));
  $("budgets").replaceChildren(...(judged ? [element("div", { class: "index-of", id: "task" }, judged)] : []), ...sliders, index, element("code", { id: "command", tabindex: 0 }));
}

// For scripts and tests: what is picked under budgets named as in the results of `select --json`, and another view.
window.m2dPick = (chosen) => {
  const { picked, warnings, relaxations } = choose(rows(), { task: state.task, ...chosen });
  return { picked: picked && { layer: picked.layer, dim: picked.dim, precision: picked.precision, runtime: picked.runtime }, warnings,
    relaxations: relaxations.map(({ budget, limit, needed, row }) => `${budget} from ${figured(limit)} to ${figured(needed)} would admit ${row.layer}x${row.dim}`) };
};
window.m2dSee = (view) => { Object.assign(state, view); if (view.task) buildBudgets(drawPick); drawAll(); };

const shellWord = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

// What to tell `select` for the same choice.
function command(chosen) {
  const of = group(), options = [];
  const differs = (name) => state[name] !== of.defaults[name];
  if (state.task !== "sts") options.push(`--task ${state.task}`);
  if (of.sts.length > 1) options.push(`--sts ${shellWord(of.sts[state.sts].name)}`);
  if (differs("texts")) options.push(`--texts ${shellWord(of.texts[state.texts])}`);
  if (differs("collection")) options.push(`--retrieval ${shellWord(of.collections[state.collection])}`);
  if (differs("times")) options.push(of.times[state.times].options);
  options.push(...LIMITS.filter((name) => chosen[name] != null).map((name) => `--${name.replaceAll("_", "-")} ${chosen[name]}`));
  if (chosen.max_index_gb != null) options.push(`--vectors ${chosen.vectors} --bytes-per-value ${chosen.bytes_per_value}`);
  return of.selectable ? `m2d-export select BUNDLE --results results.jsonl ${options.join(" ")}`.trim()
    : "Another machine measured this bundle later: m2d-export select goes by that one.";
}

function pickCard({ picked: row, storage, worth: own, warnings, relaxations }, chosen) {
  if (!row) {
    const ways = relaxations.map(({ budget, limit, needed, row: found }) => element("li", {},
      `${BUDGETS.find(({ name }) => name === budget).label()}: from ${figured(limit)} to ${figured(needed)} would admit ${cellName(found.layer, found.dim)}, ${found.setup}.`));
    return [element("p", { class: "name" }, "No cell"), element("p", { class: "setup" }, "meets all of these budgets at once."),
      ways.length ? element("ul", {}, ...ways) : element("p", { class: "small" }, "It takes more than one budget to relax.")];
  }
  const view = viewed(), full = fullRow(), size = { vectors: vectorsWanted(), bytes_per_value: bytesWanted() };
  const gb = (of) => asGb(indexGb(of.dim, size));
  const lines = [
    storage && [`score as ${storage}`, (of) => asScore(of.kept[storage]?.score), `judged, ${asShare(own.retention)} of the full cell’s`, "score"],
    ["score", (of) => `${asScore(of.score)} ${asInterval(of.interval)}`, view.label && `on ${view.label}`, "score"],
    ["retention", (of) => asShare(of.retention), null, "retention"],
    ["agreement", (of) => asScore(of.agreement), `on ${view.texts}`, "agreement"],
    ["nDCG@10", (of) => asScore(of.ndcg), `on ${view.collection}`, "ndcg"],
    ["nDCG retained", (of) => asShare(of.ndcg_retention), null, "ndcg_retention"],
    ["latency", (of) => asMs(of.latency_ms), view.latency, "latency_ms"],
    ["sentences/s", (of) => asRate(of.sentences_per_second), view.throughput, "sentences_per_second"],
    [`index of ${counted.format(size.vectors)}`, gb, null, "dim"],
  ].filter((line) => line && row[line[3]] != null);
  const columns = [{ label: "" }, { label: "the pick", number: true }, ...(full ? [{ label: `full cell, ${cellName(full.layer, full.dim)}`, note: full.setup, number: true }] : [])];
  const made = table("", columns, lines.map(([name, write]) => ({ cells: [name, write(row), ...(full ? [write(full)] : [])] })));
  made.querySelectorAll("tbody th").forEach((head, place) => { if (lines[place][2]) head.append(element("small", { style: "margin-left:0" }, lines[place][2])); });
  const gap = row.difference_interval;
  const chance = gap && row !== full && `Its gap to the full cell, ${asDifference(row.difference)} ${asInterval(gap, asDifference)}${gap[0] <= 0 && gap[1] >= 0 ? ", may be chance" : ""}.`;
  return [element("p", { class: "name" }, cellName(row.layer, row.dim)), element("p", { class: "setup" }, `layer ${row.layer}, dim ${row.dim} · ${row.setup}`), made,
    chance ? element("p", { class: "small" }, chance) : null,
    warnings.length ? element("ul", { class: "small", id: "warnings" }, ...warnings.map((text) => element("li", {}, text))) : null].filter(Boolean);
}
