"use strict";
// The budgets, and the card that says what they pick.

// A slider's position becomes a value; one end means "any" and sets no budget.
const STEPS = 200;
const rounded = (value, up) => { const unit = 10 ** (Math.floor(Math.log10(value)) - 2); return Number(((up ? Math.ceil : Math.floor)(value / unit - (up ? 1e-9 : -1e-9)) * unit).toPrecision(6)); };
const between = (values, share) => { const low = Math.min(...values), high = Math.max(...values); return low * (high / low) ** share; };
const vectorsWanted = () => Math.max(1, Number($("vectors")?.value) || 1e6);
const bytesWanted = () => Number($("bytes")?.value ?? 4);

const BUDGETS = [
  { name: "minRetention", label: "Retention at least", of: "retention", option: "--min-retention", any: "low", start: 0.97, write: asShare,
    range: () => { const low = Math.floor(200 * Math.max(0, Math.min(...known("retention")))) - 1; return [low, 200]; },
    value: (position) => position / 200 },
  { name: "maxLatencyMs", label: "Latency at most", of: "latency_ms", option: "--max-latency-ms", any: "high", write: (v) => `${v} ms`,
    range: () => [0, STEPS], value: (position) => rounded(between(known("latency_ms"), position / (STEPS - 1)), true) },
  { name: "minThroughput", label: "Throughput at least", of: "sentences_per_second", option: "--min-throughput", any: "low", write: (v) => `${counted.format(v)} sentences/s`,
    range: () => [0, STEPS], value: (position) => rounded(between(known("sentences_per_second"), position / STEPS), false) },
  { name: "maxIndexGb", label: "Index at most", of: "dim", option: "--max-index-gb", any: "high", write: asGb,
    range: () => [0, STEPS], value: (position) => rounded(between(known("dim").map((dim) => indexGb(dim, { vectors: vectorsWanted(), bytesPerValue: bytesWanted() })), position / (STEPS - 1)), true) },
];

function budgets() {
  const chosen = { minRetention: null, minScore: null, maxLatencyMs: null, minThroughput: null, maxIndexGb: null, vectors: vectorsWanted(), bytesPerValue: bytesWanted() };
  for (const budget of BUDGETS) {
    const slider = $(budget.name);
    if (!slider) continue;
    const position = Number(slider.value);
    if (position !== Number(budget.any === "low" ? slider.min : slider.max)) chosen[budget.name] = budget.value(position);
  }
  return chosen;
}

function buildBudgets(changed) {
  const sliders = BUDGETS.filter((budget) => known(budget.of).length).map((budget) => {
    const [min, max] = budget.range();
    const start = budget.start ? Math.min(max, Math.max(min, Math.round(budget.start * 200))) : budget.any === "low" ? min : max;
    return element("div", { class: "budget" },
      element("label", { for: budget.name }, budget.label, element("output", { id: `${budget.name}-value`, for: budget.name })),
      element("input", { type: "range", id: budget.name, min, max, value: start, step: 1, oninput: changed }));
  });
  const index = element("div", { class: "index-of" },
    element("label", { for: "vectors" }, "vectors in the index", element("input", { type: "number", id: "vectors", min: 1, step: "any", value: 1000000, inputmode: "numeric", oninput: changed })),
    element("label", { for: "bytes" }, "stored as", element("select", { id: "bytes", onchange: changed },
      ...[["float32", 4], ["float16", 2], ["int8", 1], ["binary", 0.125]].map(([name, bytes]) => element("option", { value: bytes }, name)))));
  $("budgets").replaceChildren(...sliders, index, element("code", { id: "command", tabindex: 0 }));
}

window.m2dPick = (chosen) => {
  const row = pickFrom(rows(), { bytesPerValue: 4, ...chosen });
  return row && { layer: row.layer, dim: row.dim, precision: row.precision, runtime: row.runtime };
};

const shellWord = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

function command(chosen) {  // only for what `select` itself looks at when it is not told otherwise
  const options = BUDGETS.filter((budget) => chosen[budget.name] != null).map((budget) => `${budget.option} ${chosen[budget.name]}`);
  if (chosen.maxIndexGb != null) options.push(`--vectors ${chosen.vectors} --bytes-per-value ${chosen.bytesPerValue}`);
  if (group().sts.length > 1) options.unshift(`--sts ${shellWord(group().sts[state.sts].name)}`);
  const standard = Object.entries(group().defaults).every(([name, place]) => name === "sts" || state[name] === place);
  return standard && DATA.groups.length === 1 ? `m2d-export select BUNDLE --results results.jsonl ${options.join(" ")}`.trim() : null;
}

function pickCard(row, chosen) {
  if (!row) {
    const ways = relaxations(rows(), chosen).map(({ name, row: found }) =>
      element("li", {}, `Without “${BUDGETS.find((budget) => budget.name === name).label.toLowerCase()}”: ${cellName(found.layer, found.dim)}, ${found.setup}.`));
    return [element("p", { class: "name" }, "No cell"), element("p", { class: "setup" }, "meets all of these budgets at once."),
      ways.length ? element("ul", {}, ...ways) : element("p", { class: "small" }, "Relaxing one of them alone is not enough.")];
  }
  const view = viewed(), full = fullRow();
  const gb = (of) => asGb(indexGb(of.dim, chosen));
  const lines = [
    ["score", (of) => `${asScore(of.score)} ${asInterval(of.interval)}`, view.label && `on ${view.label}`, "score"],
    ["retention", (of) => asShare(of.retention), null, "retention"],
    ["agreement", (of) => asScore(of.agreement), `on ${view.texts}`, "agreement"],
    ["nDCG@10", (of) => asScore(of.ndcg), `on ${view.collection}`, "ndcg"],
    ["latency", (of) => asMs(of.latency_ms), view.shape, "latency_ms"],
    ["sentences/s", (of) => asRate(of.sentences_per_second), null, "sentences_per_second"],
    [`index of ${counted.format(chosen.vectors)}`, gb, null, "dim"],
  ].filter(([, , , key]) => row[key] != null);
  const columns = [{ label: "" }, { label: "the pick", number: true }, ...(full ? [{ label: `full cell, ${cellName(full.layer, full.dim)}`, note: full.setup, number: true }] : [])];
  const made = table("", columns, lines.map(([name, write]) => ({ cells: [name, write(row), ...(full ? [write(full)] : [])] })));
  made.querySelectorAll("tbody th").forEach((head, place) => { if (lines[place][2]) head.append(element("small", { style: "margin-left:0" }, lines[place][2])); });
  const gap = row.difference_interval;
  const notes = [
    gap && row !== full && (gap[0] <= 0 && gap[1] >= 0 ? `Its gap to the full cell, ${asDifference(row.difference)} ${asInterval(gap, asDifference)}, may be chance.`
      : `Its gap to the full cell: ${asDifference(row.difference)} ${asInterval(gap, asDifference)}.`),
    !row.trained_layer && "This layer was not trained as an exit.",
    !row.trained_dim && "This dim was not trained.",
    row.noisy && "Its latency is noisy: measure again on a quiet machine.",
    row.agreement == null && row.ndcg == null && "The choice rests on STS alone: measure agreement on your own texts, or retrieval.",
  ].filter(Boolean);
  return [element("p", { class: "name" }, cellName(row.layer, row.dim)), element("p", { class: "setup" }, `layer ${row.layer}, dim ${row.dim} · ${row.setup}`), made,
    notes.length ? element("p", { class: "small" }, notes.join(" ")) : null].filter(Boolean);
}
