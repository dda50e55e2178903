"use strict";
// The rule of `m2d-export select` on the cells of the page, its reasons and its doubts; tests compare the two.

const TASKS = {
  sts: { name: "scores", quality: "score", retention: "retention", title: "score" },
  retrieval: { name: "retrieval", quality: "ndcg", retention: "ndcg_retention", title: "nDCG@10" },
  agreement: { name: "agreement", quality: "agreement", retention: "agreement_retention", title: "agreement" },
};
const STORED = { 2: "fp16", 1: "int8", 0.125: "binary" };  // bytes of a number
const UPPER = new Set(["max_latency_ms", "max_index_gb"]);
const LIMITS = ["min_retention", "min_score", "max_latency_ms", "min_throughput", "max_index_gb"];

const indexGb = (dim, chosen) => (chosen.vectors ?? 0) * dim * (chosen.bytes_per_value ?? 4) / 1e9;
const boundsQuality = (chosen) => chosen.min_retention != null || chosen.min_score != null;

// The storage whose score is judged: that of a bounded index, where the scores it keeps were measured.
function storedAs(rows, chosen) {
  const storage = chosen.task === "sts" && chosen.max_index_gb != null ? STORED[chosen.bytes_per_value ?? 4] : null;
  return storage && rows.some((row) => storage in row.kept) ? storage : null;
}

function worth(row, chosen, storage) {
  if (storage) return { quality: row.kept[storage]?.score ?? null, retention: row.kept[storage]?.retention ?? null };
  const { quality, retention } = TASKS[chosen.task];
  return { quality: row[quality], retention: row[retention] };
}

function misses(row, own, chosen) {
  const values = { min_retention: own.retention, min_score: own.quality, max_latency_ms: row.latency_ms,
    min_throughput: row.sentences_per_second, max_index_gb: indexGb(row.dim, chosen) };
  return LIMITS.filter((name) => chosen[name] != null).map((budget) => ({ budget, limit: chosen[budget], value: values[budget], row }))
    .filter(({ budget, limit, value }) => value == null || (UPPER.has(budget) ? value > limit : value < limit));
}

// The fastest that meets every budget where quality has one, else the best; of equals the smaller dim, then the
// smaller layer, then the better on the other. What the task did not test is never picked.
function choose(rows, chosen) {
  const storage = storedAs(rows, chosen), worths = new Map(rows.map((row) => [row, worth(row, chosen, storage)]));
  const goals = (row) => { const two = [worths.get(row).quality ?? -Infinity, row.sentences_per_second ?? -Infinity]; return boundsQuality(chosen) ? two.reverse() : two; };
  const order = (a, b) => { const [x, y] = [goals(a), goals(b)]; return (x[0] === y[0] ? 0 : y[0] > x[0] ? 1 : -1) || a.dim - b.dim || a.layer - b.layer || (x[1] === y[1] ? 0 : y[1] > x[1] ? 1 : -1); };
  const tested = rows.filter((row) => worths.get(row).quality != null).toSorted(order);
  const missed = new Map(tested.map((row) => [row, misses(row, worths.get(row), chosen)]));
  const [picked = null, ...others] = tested.filter((row) => !missed.get(row).length);
  return { picked, storage, worth: picked && worths.get(picked), warnings: picked ? warnings(picked, others, chosen, storage) : [],
    relaxations: picked ? [] : relaxations([...missed.values()].filter((of) => of.length === 1).map(([miss]) => miss)) };
}

// The bound at four significant digits that would let a value through.
function needed({ budget, value }) {
  if (!value) return value;
  const near = Number(value.toPrecision(4)), up = UPPER.has(budget);
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return (up ? near >= value : near <= value) ? near : Number((near + (up ? unit : -unit)).toPrecision(4));
}

// The least change of each budget that alone stands against some cell, the smallest change first.
function relaxations(alone) {
  const change = (miss) => (miss.value == null || !miss.limit ? Infinity : Math.abs(needed(miss) - miss.limit) / Math.abs(miss.limit));
  const found = new Map();
  for (const miss of alone.filter(({ value }) => value != null).toSorted((a, b) => { const [x, y] = [change(a), change(b)]; return x === y ? 0 : x - y; })) {
    if (!found.has(miss.budget)) found.set(miss.budget, { ...miss, needed: needed(miss) });
  }
  return [...found.values()];
}

const doubt = (name, values = {}) => DATA.words[name].replace(/\{([a-z]+)\}/g, (_, key) => values[key]);

function warnings(picked, others, chosen, storage) {
  const sts = chosen.task === "sts", bytes = chosen.bytes_per_value ?? 4;
  const found = sts ? [...(group().sts[state.sts]?.doubts ?? [])] : [];
  if (sts && picked.ndcg == null && picked.agreement == null) found.push(doubt("alone"));
  found.push(...picked.doubts, ...picked.time_doubts);
  if (boundsQuality(chosen) && picked.sentences_per_second == null) found.push(doubt("untimed"));
  if (chosen.max_index_gb != null && bytes < 4 && !storage) found.push(doubt("float", { what: TASKS[chosen.task].quality, bytes }));
  return sts && !storage ? [...found, ...unsettled(picked, others, chosen)] : found;
}

function unsettled(picked, others, chosen) {
  if (!picked.interval) return [];
  const cell = `${picked.layer}x${picked.dim}`, brief = (value) => String(Number(value.toPrecision(6)));
  if (!boundsQuality(chosen)) {
    const rival = others.find((row) => row.layer !== picked.layer || row.dim !== picked.dim);
    return rival && overlap(picked, rival) ? [doubt("runner-up", { cell: `${rival.layer}x${rival.dim}`, behind: (picked.score - rival.score).toFixed(2) })] : [];
  }
  const [low, high] = picked.interval;
  if (chosen.min_score != null && low < chosen.min_score) return [doubt("score", { limit: brief(chosen.min_score), cell, low: low.toFixed(1), high: high.toFixed(1) })];
  const gap = picked.difference_interval;
  const least = picked.retention && gap ? 1 + gap[0] / (picked.score / picked.retention) : Infinity;
  return chosen.min_retention != null && least < chosen.min_retention ? [doubt("retention", { limit: brief(chosen.min_retention), cell })] : [];
}

function overlap(picked, rival) {
  const pair = ["difference_interval", "interval"].find((name) => picked[name] && rival[name]);
  return pair != null && picked[pair][0] <= rival[pair][1] && rival[pair][0] <= picked[pair][1];
}
