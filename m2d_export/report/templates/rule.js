"use strict";
// The rule of `m2d-export select` on the rows of the page. Tests compare it with m2d_export/select/.

const indexGb = (dim, chosen) => (chosen.vectors ?? 0) * dim * (chosen.bytes_per_value ?? DATA.bytes.fp32) / 1e9;
const boundsQuality = (chosen) => chosen.min_retention != null || chosen.min_score != null;
const limits = () => Object.keys(DATA.limits);
const isUpper = (name) => DATA.limits[name].upper;

// The storage of the bounded index, if its scores were measured.
function storedAs(rows, chosen) {
  if (chosen.task !== "sts" || chosen.max_index_gb == null) return null;
  const storage = DATA.stored[chosen.bytes_per_value ?? DATA.bytes.fp32];
  return storage && rows.some((row) => storage in row.stored) ? storage : null;
}

function worth(row, chosen, storage) {
  if (storage) {
    const { score = null, retention = null } = row.stored[storage] ?? {};
    return { quality: score, retention };
  }
  const { quality, retention } = DATA.tasks[chosen.task];
  return { quality: row[quality], retention: row[retention] };
}

function misses(row, own, chosen) {
  const values = {
    min_retention: own.retention, min_score: own.quality, max_latency_ms: row.latency_ms,
    min_throughput: row.sentences_per_second, max_index_gb: indexGb(row.dim, chosen),
  };
  return limits().filter((name) => chosen[name] != null)
    .map((budget) => ({ budget, limit: chosen[budget], value: values[budget], row }))
    .filter(({ budget, limit, value }) => value == null || (isUpper(budget) ? value > limit : value < limit));
}

// The fastest row that meets every budget if quality has a limit, else the best one. Ties go to the smaller dim,
// then to the smaller layer, then to the better of the other goal. A row without a measured quality is never picked.
// If the task is about an index, only rows whose queries searched in an index of chosen.index_cell take part.
function choose(all, chosen) {
  const rows = DATA.tasks[chosen.task].in_index ? all.filter((row) => row.index_cell === chosen.index_cell) : all;
  const storage = storedAs(rows, chosen);
  const worths = new Map(rows.map((row) => [row, worth(row, chosen, storage)]));
  const goals = (row) => {
    const both = [worths.get(row).quality ?? -Infinity, row.sentences_per_second ?? -Infinity];
    return boundsQuality(chosen) ? both.reverse() : both;
  };
  const larger = (x, y) => (x === y ? 0 : y > x ? 1 : -1);
  const order = (a, b) => {
    const [x, y] = [goals(a), goals(b)];
    return larger(x[0], y[0]) || a.dim - b.dim || a.layer - b.layer || larger(x[1], y[1]);
  };
  const tested = rows.filter((row) => worths.get(row).quality != null).toSorted(order);
  const missed = new Map(tested.map((row) => [row, misses(row, worths.get(row), chosen)]));
  const [picked = null, ...others] = tested.filter((row) => !missed.get(row).length);
  const only = [...missed.values()].filter((of) => of.length === 1).map(([miss]) => miss);
  return {
    picked, storage, worth: picked && worths.get(picked),
    warnings: picked ? warnings(picked, others, chosen, storage) : [],
    relaxations: picked ? [] : relaxations(only),
  };
}

// The nearest limit at four significant digits that the value meets; a score that looks like a fraction is no limit.
function needed({ budget, value }) {
  if (!value) return value;
  if (budget === "min_score" && value > 0 && value <= 1) return 0;
  const near = Number(value.toPrecision(4)), up = isUpper(budget);
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 3);
  return (up ? near >= value : near <= value) ? near : Number((near + (up ? unit : -unit)).toPrecision(4));
}

// The least change of each budget that is the only one a row misses, the smallest change first.
function relaxations(only) {
  const change = (miss) => (miss.limit ? Math.abs(needed(miss) - miss.limit) / Math.abs(miss.limit) : Infinity);
  const found = new Map();
  const order = (a, b) => { const [x, y] = [change(a), change(b)]; return x === y ? 0 : x - y; };
  for (const miss of only.filter(({ value }) => value != null).toSorted(order)) {
    if (!found.has(miss.budget)) found.set(miss.budget, { ...miss, needed: needed(miss) });
  }
  return [...found.values()];
}

const warning = (name, values = {}) => filled(DATA.words[name], values);

function warnings(picked, others, chosen, storage) {
  const sts = chosen.task === "sts", bytes = chosen.bytes_per_value ?? DATA.bytes.fp32;
  const found = sts ? [...(group().sts[state.sts]?.warnings ?? [])] : [];
  if (sts && picked.ndcg == null && picked.agreement == null) found.push(warning("sts-only"));
  found.push(...bm25Warnings(picked, chosen));
  found.push(...picked.warnings, ...picked.time_warnings);
  if (boundsQuality(chosen) && picked.sentences_per_second == null) found.push(warning("untimed"));
  if (chosen.max_index_gb != null && bytes < DATA.bytes.fp32 && !storage) {
    found.push(warning("float", { what: DATA.tasks[chosen.task].what, bytes }));
  }
  return sts && !storage ? [...found, ...intervalWarnings(picked, others, chosen)] : found;
}

function bm25Warnings(picked, chosen) {
  const own = DATA.tasks[chosen.task].in_index ? picked.index_ndcg : picked.ndcg;
  if (own == null || picked.bm25 == null || own >= picked.bm25) return [];
  return [warning("bm25", { bm25: picked.bm25.toFixed(1), own: own.toFixed(1) })];
}

function intervalWarnings(picked, others, chosen) {
  if (!picked.interval) return [];
  const cell = `${picked.layer}x${picked.dim}`, brief = (value) => String(Number(value.toPrecision(6)));
  if (!boundsQuality(chosen)) {
    const rival = others.find((row) => row.layer !== picked.layer || row.dim !== picked.dim);
    if (!rival || !mayBeEqual(picked, rival)) return [];
    const behind = (picked.score - rival.score).toFixed(2);
    return [warning("runner-up", { cell: `${rival.layer}x${rival.dim}`, behind })];
  }
  const [low, high] = picked.interval;
  if (chosen.min_score != null && low < chosen.min_score) {
    return [warning("score", { limit: brief(chosen.min_score), cell, low: low.toFixed(1), high: high.toFixed(1) })];
  }
  const gap = picked.difference_interval;
  const least = picked.retention && gap ? 1 + gap[0] / (picked.score / picked.retention) : Infinity;
  const unsettled = chosen.min_retention != null && least < chosen.min_retention;
  return unsettled ? [warning("retention", { limit: brief(chosen.min_retention), cell })] : [];
}

function mayBeEqual(picked, rival) {
  const pair = ["difference_interval", "interval"].find((name) => picked[name] && rival[name]);
  return pair != null && picked[pair][0] <= rival[pair][1] && rival[pair][0] <= picked[pair][1];
}
