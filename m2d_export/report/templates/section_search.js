"use strict";
// Retrieval: nDCG@10 of each layer, by itself and of its queries in an index of the deepest exit, beside BM25.

SECTIONS.search = {
  draw({ view, choose, chart }) {
    const all = rows().filter((row) => row.ndcg != null || row.index_ndcg != null);
    if (!all.length) return chart("search", "", "", null);
    const setup = choose("setup", unique(all.map((row) => row.setup)));
    const dim = choose("dim", ascending(all.map((row) => row.dim)).reverse());
    const shown = all.filter((row) => row.setup === setup && row.dim === dim).toSorted((a, b) => a.layer - b.layer);
    return chart("search", `nDCG@10 at ${dim} dims`, `${view.collection}; ${view.prompts}; ${setup}`,
      searchChart(shown, view));
  },
};

function searchChart(rows, view) {
  const keys = ["ndcg", "ndcg_retention", "index_ndcg", "index_share"];
  const columns = DATA.columns.filter(({ key }) => keys.includes(key) && rows.some((row) => row[key] != null));
  const layer = (row) => starred(row.layer, row.trained_layer);
  const names = { ndcg: "index of its own layer", index_ndcg: `index of ${view.index}` };
  const lines = Object.entries(names).map(([key, name], place) => {
    const own = rows.filter((row) => row[key] != null);
    return lineTrace(name, place, own.map(layer), own.map((row) => row[key]), own.map((row) => hover(row, view)));
  }).filter(({ x }) => x.length);
  const bm25 = rows[0].bm25, words = view.bm25.replace("; ", "");
  if (bm25 != null) {
    const flat = lineTrace(words, 2, rows.map(layer), rows.map(() => bm25), rows.map(() => words));
    lines.push({ ...flat, mode: "lines", line: { color: colour("soft"), width: 2, dash: "dot" } });
  }
  const beside = { ndcg: asScore(bm25) };
  for (const [key, share] of [["ndcg", "ndcg_retention"], ["index_ndcg", "index_share"]]) {
    beside[share] = asShare(bm25Share(rows, bm25, key, share));
  }
  return {
    data: lines,
    layout: base({
      height: 420, yaxis: { title: "nDCG@10", rangemode: "tozero" },
      xaxis: { title: "layer that encodes the queries", type: "category" },
    }),
    label: `nDCG@10 of ${rows.length} layers`,
    table: table("", headings(["layer", ...columns.map(({ title }) => title)], 1), [
      ...rows.toReversed().map((row) => ({ cells: [layer(row), ...columns.map((column) => textOf(column, row))] })),
      ...(bm25 == null ? [] : [{ cells: ["BM25", ...columns.map(({ key }) => beside[key] ?? MISSING)] }]),
    ]),
  };
}

// What BM25 finds as a share, from a row that knows its own share.
function bm25Share(rows, bm25, key, share) {
  const known = rows.find((row) => row[key] && row[share]);
  return known && bm25 != null ? bm25 / (known[key] / known[share]) : null;
}
