"use strict";
// The rule of `m2d-export select`, on the cells of the page: the fastest that meets every budget where quality has
// one, else the one that scores highest; of equals the smaller dim, then the smaller layer, then the better on the
// other. What has no score is never picked.

function meets(row, budgets) {
  const atLeast = (floor, value) => floor == null || (value != null && value >= floor);
  const atMost = (ceiling, value) => ceiling == null || (value != null && value <= ceiling);
  return atLeast(budgets.minRetention, row.retention)
    && atLeast(budgets.minScore, row.score)
    && atMost(budgets.maxLatencyMs, row.latency_ms)
    && atLeast(budgets.minThroughput, row.sentences_per_second)
    && (budgets.maxIndexGb == null || indexGb(row.dim, budgets) <= budgets.maxIndexGb);
}

function indexGb(dim, budgets) {
  return budgets.vectors * dim * budgets.bytesPerValue / 1e9;
}

function pickFrom(rows, budgets) {
  const goal = budgets.minRetention != null || budgets.minScore != null ? "sentences_per_second" : "score";
  const other = goal === "score" ? "sentences_per_second" : "score";
  const worth = (row, of = goal) => row[of] ?? -Infinity;
  const better = (a, b) => {
    if (worth(a) !== worth(b)) return worth(a) > worth(b);
    if (a.dim !== b.dim) return a.dim < b.dim;
    if (a.layer !== b.layer) return a.layer < b.layer;
    return worth(a, other) > worth(b, other);
  };
  return rows.filter((row) => row.score != null && meets(row, budgets)).reduce((best, row) => (best && !better(row, best) ? best : row), null);
}

// The budgets that stand in the way: for each one set, what would be picked without it.
function relaxations(rows, budgets) {
  const names = ["minRetention", "minScore", "maxLatencyMs", "minThroughput", "maxIndexGb"];
  return names.filter((name) => budgets[name] != null)
    .map((name) => ({ name, row: pickFrom(rows, { ...budgets, [name]: null }) }))
    .filter(({ row }) => row);
}
