"use strict";
// Score against throughput, and the Pareto front of the two.

SECTIONS.front = {
  follows: true,
  draw({ picked, view, chart }) {
    const made = frontChart(rows(), front(), view, picked);
    chart("front", "Score against throughput", `Score on ${view.label}; ${view.throughput}`, made);
  },
};

function frontChart(rows, front, view, picked) {
  const drawn = rows.filter((row) => row.score != null && row.sentences_per_second != null), onFront = new Set(front);
  const points = (of, extra) => ({
    type: "scatter", mode: "markers", x: of.map((row) => row.sentences_per_second), y: of.map((row) => row.score),
    customdata: of.map((row) => hover(row, view)), hovertemplate: "%{customdata}<extra></extra>", ...extra,
  });
  const end = (row, place, sign) => (row.interval ? sign * (row.interval[place] - row.score) : 0);
  const line = points(front, {
    mode: "lines+text", name: "Pareto front", hoverinfo: "skip", hovertemplate: null, cliponaxis: false,
    line: { color: colour("ink"), width: 1.5 },
    text: front.map((row) => `\u2002${nameOf(row)}`), textposition: "top right",
    textfont: { size: 12, color: colour("ink") },
    error_y: {
      type: "data", symmetric: false, thickness: 1.2, width: 3, color: colour("soft"),
      array: front.map((row) => end(row, 1, 1)), arrayminus: front.map((row) => end(row, 0, -1)),
    },
  });
  const setups = unique(rows.map((row) => row.setup)).map((setup, place) => {
    const own = drawn.filter((row) => row.setup === setup);
    const size = own.map((row) => (onFront.has(row) ? 11 : 8));
    const opacity = own.map((row) => (onFront.has(row) ? 1 : 0.45));
    return points(own, { name: setup, marker: { ...kindMarker(place), size, opacity } });
  });
  const ring = { symbol: "circle-open", size: 19, color: PICK, line: { width: 3.5 } };
  const pick = drawn.includes(picked) ? [points([picked], { name: "the pick", marker: ring })] : [];
  const columns = TABLE.filter(({ key }) => ["score", "retention", "sentences_per_second"].includes(key));
  return {
    data: [line, ...setups, ...pick],
    layout: base({
      height: 470, margin: { l: 8, r: 44, t: 10, b: 8 }, yaxis: { title: "score" },
      xaxis: { title: `sentences/s, ${view.throughput}`, ...logTicks(drawn.map((row) => row.sentences_per_second)) },
    }),
    label: `Score against throughput of ${drawn.length} cells; ${front.length} are on the Pareto front`,
    table: table("The Pareto front, fastest first",
      headings(["cell", "setup", ...columns.map(({ title }) => title)], 2),
      front.map((row) => ({
        picked: row === picked, cells: [nameOf(row), row.setup, ...columns.map((column) => textOf(column, row))],
      }))),
  };
}
