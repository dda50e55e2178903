"use strict";
// The grid: a heat-map over layers and dims for each column that has one.

SECTIONS.grid = {
  follows: true,
  draw({ picked, view, choose, chart }) {
    const labels = unique(rows().map((row) => row.setup));
    const setup = labels.length > 1
      ? choose("setup", [null, ...labels], (label) => label ?? `the pick's${picked ? ` (${picked.setup})` : ""}`)
      : null;
    const label = setup ?? picked?.setup ?? labels[0];
    const shown = rows().filter((row) => row.setup === label);
    for (const column of DATA.columns.filter(({ heat }) => heat)) {
      const [title, ...rest] = filled(column.heat, view).split(": "), unit = rest.join(": ");
      const isThere = shown.some((row) => row[column.key] != null);
      chart(`heat-${column.key}`, title, `${unit} · ${label}`,
        isThere ? heatMap(column, title, unit, shown, view, picked) : null);
    }
  },
};

function heatMap({ key, write }, title, unit, rows, view, picked) {
  const layers = ascending(rows.map((row) => row.layer)), dims = ascending(rows.map((row) => row.dim));
  const at = (layer, dim) => rows.find((row) => row.layer === layer && row.dim === dim);
  const grid = (of) => layers.map((layer) => dims.map((dim) => at(layer, dim)).map((row) => (row ? of(row) : null)));
  const dimName = (dim) => starred(dim, rows.find((row) => row.dim === dim).trained_dim);
  const layerName = (layer) => starred(layer, rows.find((row) => row.layer === layer).trained_layer);
  const text = (row) => (row ? WRITERS[write](row[key]) : MISSING);
  const shown = rows.filter((row) => row[key] != null), values = shown.map((row) => row[key]);
  const low = Math.min(...values), high = Math.max(...values);
  const inkOn = (row) => (row[key] - low < 0.45 * (high - low) ? "#fff" : "#111");
  const y = layers.indexOf(picked?.layer), x = dims.indexOf(picked?.dim);
  const frame = { type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line: { color: PICK, width: 4 } };
  return {
    data: [{
      type: "heatmap", x: dims.map(dimName), y: layers.map(layerName), z: grid((row) => row[key]),
      colorscale: "Cividis", xgap: 2, ygap: 2, showscale: false, hoverongaps: false,
      hovertext: grid((row) => hover(row, view)), hovertemplate: "%{hovertext}<extra></extra>",
    }, {
      type: "scatter", mode: "text", hoverinfo: "skip",
      x: shown.map((row) => dimName(row.dim)), y: shown.map((row) => layerName(row.layer)),
      text: shown.map((row) => text(row).replace(`${GAP}%`, "")), textfont: { color: shown.map(inkOn) },
    }],
    layout: base({
      height: 90 + 42 * layers.length, showlegend: false, shapes: rows.includes(picked) ? [frame] : [],
      xaxis: { title: "dim", type: "category", showgrid: false },
      yaxis: { title: "layer", type: "category", showgrid: false },
    }),
    label: `Heat-map of ${title.toLowerCase()} over ${layers.length} layers and ${dims.length} dims`,
    table: table(`${title}: ${unit}`, headings(["layer", ...dims.map(dimName)], 1), layers.toReversed().map((layer) => (
      { cells: [layerName(layer), ...dims.map((dim) => text(at(layer, dim)))] }))),
  };
}
