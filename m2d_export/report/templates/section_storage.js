"use strict";
// Index size against the score of vectors that are stored in fewer bytes.

SECTIONS.storage = {
  draw({ view, choose, chart }) {
    const all = rows().filter((row) => isKnown(row.stored));
    if (!all.length) return chart("storage", "", "", null);
    const layer = choose("layer", ascending(all.map((row) => row.layer)).reverse());
    const setup = choose("setup", unique(all.map((row) => row.setup)));
    const shown = all.filter((row) => row.layer === layer && row.setup === setup);
    return chart("storage", `Index size against score, layer ${layer}`,
      `Score on ${view.label}; the dim grows along each line, as the numbers on the leftmost show`,
      storageChart(shown, view));
  },
};

function storageChart(rows, view) {
  const storages = unique(rows.flatMap((row) => Object.keys(row.stored)));
  const texts = ({ bytes_per_vector: bytes, score, retention }) => [asMb(bytes), asScore(score), asShare(retention)];
  const data = storages.map((storage, place) => {
    const of = rows.filter((row) => storage in row.stored);
    const hovers = of.map((row) => {
      const [size, score, retention] = texts(row.stored[storage]);
      return `<b>${nameOf(row)}</b> as ${storage}<br>${size} per million vectors`
        + `<br>score ${score}, retention ${retention}<br>   on ${wrapped(view.label, 48)}`;
    });
    const [x, y] = ["bytes_per_vector", "score"].map((key) => of.map((row) => row.stored[storage][key]));
    const named = place === storages.length - 1;  // the dims are written along the leftmost line
    return {
      ...lineTrace(storage, place, x, y, hovers), mode: named ? "lines+markers+text" : "lines+markers",
      text: of.map((row) => String(row.dim)), textposition: "top center", cliponaxis: false,
      textfont: { size: 11, color: colour("soft") },
    };
  });
  return {
    data,
    layout: base({
      height: 420, margin: { l: 8, r: 24, t: 10, b: 8 }, yaxis: { title: "score" },
      xaxis: { title: "MB per million vectors", ...logTicks(data.flatMap((trace) => trace.x)) },
    }),
    label: `Score against index size for ${storages.length} storages`,
    table: table("", headings(["cell", "stored as", "per million vectors", "score", "retention"], 2),
      rows.flatMap((row) => Object.entries(row.stored).map(([storage, of]) =>
        ({ cells: [nameOf(row), storage, ...texts(of)] })))),
  };
}
