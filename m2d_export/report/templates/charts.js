"use strict";
// One function a chart: the page's state in, Plotly's traces and layout and the same figures as a table out.

const MEASURES = [
  { key: "score", title: "Score", unit: (view) => `Spearman × 100 on ${view.label}`, write: asScore },
  { key: "retention", title: "Retention", unit: (view) => `score / full score, on ${view.label}`, write: asShare },
  { key: "agreement", title: "Agreement", unit: (view) => `with the full cell's similarities, × 100, on ${view.texts}; no labels needed`, write: asScore },
  { key: "ndcg", title: "Retrieval", unit: (view) => `nDCG@10 × 100 on ${view.collection}`, write: asScore },
];

const starred = (number, trained) => `${number}${trained ? "" : "*"}`;
const PICK = "#E8590C";  // stands out from cividis on either paper

function base(extra) {
  const ink = colour("ink"), soft = colour("soft"), line = colour("line");
  const axis = { gridcolor: line, zeroline: false, linecolor: line, tickcolor: line, automargin: true, fixedrange: true, tickfont: { color: soft } };
  const family = getComputedStyle(document.body).fontFamily;
  const { xaxis, yaxis, ...rest } = extra;
  const titled = ({ title, ...others }) => ({ ...axis, ...others, title: { text: title, font: { size: 12.5, color: soft }, standoff: 8 } });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest", autosize: true,
    font: { family, size: 12.5, color: ink }, margin: { l: 8, r: 12, t: 10, b: 8 }, height: 340, showlegend: false,
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { color: ink }, itemclick: false, itemdoubleclick: false },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("soft"), font: { family, size: 12.5, color: ink }, align: "left" },
    xaxis: titled(xaxis), yaxis: titled(yaxis), ...rest,
  };
}

// Plain numbers on a logarithmic axis: 1, 2 and 5 of each decade, more or fewer where that leaves too few or many.
function logTicks(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const decades = Array.from({ length: 14 }, (_, i) => 10 ** (i - 6));
  const within = (steps) => decades.flatMap((decade) => steps.map((step) => Number((step * decade).toPrecision(6)))).filter((v) => v >= low / 1.3 && v <= high * 1.3);
  const few = within([1, 2, 5]);
  const tickvals = few.length < 4 ? within([1, 1.5, 2, 3, 4, 5, 6, 8]) : few.length > 7 ? within([1, 3]) : few;
  return { type: "log", tickvals, ticktext: tickvals.map((v) => counted.format(v)) };
}

function hover(row, view) {  // all that is known of a cell
  const metrics = (of) => wrapped(Object.entries(of).filter(([, v]) => v != null).map(([name, v]) => `${name} ${asScore(v)}`).join(", "), 30).replaceAll("<br>", "<br>   ");
  return [
    `<b>${cellName(row.layer, row.dim)}</b>  ${escaped(row.setup)}`,
    row.score != null && `score ${asScore(row.score)} ${asInterval(row.interval)}<br>   on ${row.pairs == null ? "" : `${counted.format(row.pairs)} pairs of `}${wrapped(view.label, 36).replaceAll("<br>", "<br>   ")}`,
    row.difference != null && `to the full cell ${asDifference(row.difference)} ${asInterval(row.difference_interval, asDifference)}`,
    row.retention != null && `retention ${asShare(row.retention)}`,
    Object.keys(row.spearman).length > 0 && `Spearman: ${metrics(row.spearman)}`,
    Object.keys(row.pearson).length > 0 && `Pearson: ${metrics(row.pearson)}`,
    ...Object.entries(row.kept).length ? [`kept as ${Object.entries(row.kept).map(([name, of]) => `${name} ${asScore(of.score)}`).join(", ")}`] : [],
    row.agreement != null && `agreement ${asScore(row.agreement)}, overlap@10 ${asScore(row.overlap_at_10)}`,
    row.ndcg != null && `nDCG@10 ${asScore(row.ndcg)}, recall@100 ${asScore(row.recall_at_100)}`,
    row.latency_ms != null && `p50 ${asMs(row.latency_ms)}, p95 ${asMs(row.p95_ms)}, p99 ${asMs(row.p99_ms)}, ${row.calls} calls<br>   ${view.latency}`,
    row.sentences_per_second != null && `${asRate(row.sentences_per_second)} sentences/s${row.noisy ? " (noisy)" : ""}<br>   ${view.throughput}`,
    row.joules_per_sentence != null && `${row.joules_per_sentence.toPrecision(3)} J a sentence`,
    `${counted.format(row.bytes_per_vector)} bytes a vector (float32)`,
    row.peak_mb != null && `peak memory ${asMb(row.peak_mb)}`,
    !row.trained_layer && "a layer that was not trained",
    !row.trained_dim && "a dim that was not trained",
    `${escaped(row.provider)}${row.threads == null ? "" : `, ${row.threads} threads`}${row.time ? `, ${escaped(row.time.replace("T", " ").replace("Z", " UTC"))}` : ""}`,
  ].filter(Boolean).join("<br>");
}

function heatMap(measure, rows, view, picked) {
  const layers = unique(rows.map((row) => row.layer)).sort((a, b) => a - b);
  const dims = unique(rows.map((row) => row.dim)).sort((a, b) => a - b);
  const at = (layer, dim) => rows.find((row) => row.layer === layer && row.dim === dim);
  const grid = (of) => layers.map((layer) => dims.map((dim) => { const row = at(layer, dim); return row ? of(row) : null; }));
  const names = dims.map((dim) => starred(dim, rows.find((row) => row.dim === dim).trained_dim));
  const layerName = (layer) => starred(layer, rows.find((row) => row.layer === layer).trained_layer);
  const shown = rows.filter((row) => row[measure.key] != null);
  const values = shown.map((row) => row[measure.key]), low = Math.min(...values), high = Math.max(...values);
  const dark = (row) => row[measure.key] - low < 0.45 * (high - low);
  const here = picked && rows.includes(picked);
  const y = layers.indexOf(picked?.layer), x = dims.indexOf(picked?.dim);
  return {
    data: [{
      type: "heatmap", x: names, y: layers.map(layerName), z: grid((row) => row[measure.key]), colorscale: "Cividis", xgap: 2, ygap: 2,
      hovertext: grid((row) => hover(row, view)), hovertemplate: "%{hovertext}<extra></extra>", showscale: false, hoverongaps: false,
    }, {
      type: "scatter", mode: "text", x: shown.map((row) => starred(row.dim, row.trained_dim)), y: shown.map((row) => layerName(row.layer)), hoverinfo: "skip",
      text: shown.map((row) => measure.write(row[measure.key]).replace(`${GAP}%`, "")), textfont: { color: shown.map((row) => (dark(row) ? "#fff" : "#111")) },
    }],
    layout: base({
      height: 90 + 42 * layers.length, xaxis: { title: "dim", type: "category", showgrid: false }, yaxis: { title: "layer", type: "category", showgrid: false },
      shapes: here ? [{ type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line: { color: PICK, width: 4 } }] : [],
    }),
    label: `Heat-map of ${measure.title.toLowerCase()} over ${layers.length} layers and ${dims.length} dims`,
    table: table(`${measure.title}: ${measure.unit(view)}`, [{ label: "layer" }, ...names.map((name) => ({ label: name, number: true }))],
      layers.toReversed().map((layer) => ({ cells: [layerName(layer), ...dims.map((dim) => { const row = at(layer, dim); return row ? measure.write(row[measure.key]) : MISSING; })] }))),
  };
}

function frontChart(rows, front, view, picked) {
  const setups = unique(rows.map((row) => row.setup));
  const drawn = rows.filter((row) => row.score != null && row.sentences_per_second != null);
  const whiskers = (of) => ({
    type: "data", symmetric: false, thickness: 1.2, width: 3, color: colour("soft"),
    array: of.map((row) => (row.interval ? row.interval[1] - row.score : 0)), arrayminus: of.map((row) => (row.interval ? row.score - row.interval[0] : 0)),
  });
  const points = (of, extra) => ({
    type: "scatter", mode: "markers", x: of.map((row) => row.sentences_per_second), y: of.map((row) => row.score),
    text: of.map((row) => hover(row, view)), hovertemplate: "%{text}<extra></extra>", ...extra,
  });
  const onFront = new Set(front);
  const data = setups.map((setup, place) => {
    const own = drawn.filter((row) => row.setup === setup);
    return points(own, { name: setup, marker: { color: kindColour(place), symbol: SYMBOLS[place % SYMBOLS.length],
      size: own.map((row) => (onFront.has(row) ? 11 : 8)), opacity: own.map((row) => (onFront.has(row) ? 1 : 0.45)) } });
  });
  data.unshift(points(front, { mode: "lines+text", name: "Pareto front", hoverinfo: "skip", hovertemplate: null, line: { color: colour("ink"), width: 1.5 },
    text: front.map((row) => `\u2002${cellName(row.layer, row.dim)}`), textposition: "top right", textfont: { size: 12, color: colour("ink") }, cliponaxis: false,
    error_y: whiskers(front) }));
  if (picked && drawn.includes(picked)) {
    data.push(points([picked], { name: "the pick", marker: { symbol: "circle-open", size: 19, color: PICK, line: { width: 3.5 } } }));
  }
  const columns = ["cell", "variant", "score", "95 % interval", "sentences/s"].map((label, place) => ({ label, number: place > 1, note: label === "score" ? `on ${view.label}` : null }));
  return {
    data,
    layout: base({ height: 470, showlegend: true, xaxis: { title: `sentences/s, ${view.throughput}`, ...logTicks(drawn.map((row) => row.sentences_per_second)) }, yaxis: { title: "score" }, margin: { l: 8, r: 44, t: 10, b: 8 } }),
    label: `Score against throughput of ${drawn.length} cells; ${front.length} are on the Pareto front`,
    table: table("The Pareto front, fastest first", columns, front.map((row) => ({ picked: row === picked,
      cells: [cellName(row.layer, row.dim), row.setup, asScore(row.score), asInterval(row.interval), asRate(row.sentences_per_second)] }))),
  };
}

// Lines of latency per layer over ``along``: "batch_size" or "tokens".
function latencyChart(timings, along, title) {
  const layers = unique(timings.map((timing) => timing.layer));
  const ticks = unique(timings.map((timing) => timing.shape[along])).sort((a, b) => a - b);
  const data = layers.map((layer, place) => {
    const of = timings.filter((timing) => timing.layer === layer).sort((a, b) => a.shape[along] - b.shape[along]);
    const symbol = SYMBOLS[place % SYMBOLS.length], shade = orderColour(place, layers.length);
    return {
      type: "scatter", mode: "lines+markers", name: `layer ${layer}`, x: of.map((t) => t.shape[along]), y: of.map((t) => t.p50_ms), line: { color: shade, width: 2 },
      marker: { size: 8, color: shade, symbol: of.map((t) => (t.noisy ? `${symbol}-open` : symbol)) },
      error_y: { type: "data", symmetric: false, array: of.map((t) => t.p95_ms - t.p50_ms), arrayminus: of.map(() => 0), color: shade, thickness: 1, width: 3 },
      text: of.map((t) => `<b>layer ${layer}</b>  ${t.shape.batch_size} × ${t.shape.tokens} tokens<br>p50 ${asMs(t.p50_ms)}, p95 ${asMs(t.p95_ms)}, p99 ${asMs(t.p99_ms)}`
        + `<br>${asRate(t.sentences_per_second)} sentences/s, ${t.calls} calls<br>spread ${asShare(t.spread)}${t.noisy ? " (noisy)" : ""}`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const labels = ["layer", title, "p50", "p95", "p99", "sentences/s", "spread"];
  return {
    data,
    layout: base({ height: 380, showlegend: true, xaxis: { title, type: "log", tickvals: ticks, ticktext: ticks.map(String) }, yaxis: { title: "ms a batch", ...logTicks(timings.map((t) => t.p50_ms)) } }),
    label: `Latency of ${layers.length} layers over ${title}`,
    table: table("", labels.map((label) => ({ label, number: true })), timings.map((t) => ({
      cells: [String(t.layer), String(t.shape[along]), asMs(t.p50_ms), asMs(t.p95_ms), asMs(t.p99_ms), asRate(t.sentences_per_second), `${asShare(t.spread)}${t.noisy ? " noisy" : ""}`] }))),
  };
}

// Recall@10 of each cascade over ``along``: "shortlist" or "cost_ms".
function cascadeChart(cascades, along, title) {
  const name = (c) => `${cellName(...c.cheap)} → ${cellName(...c.deep)}`;
  const columns = ["cascade", "collection", "shortlist", "recall@10", "ms a query"];
  const steps = unique(cascades.flatMap((c) => c.shortlist)).sort((a, b) => a - b);
  return {
    data: cascades.map((c, place) => ({
      type: "scatter", mode: "lines+markers", name: name(c), x: c[along], y: c.recall_at_10, line: { color: kindColour(place), width: 2, dash: DASHES[place % DASHES.length] },
      marker: { size: 8, color: kindColour(place), symbol: SYMBOLS[place % SYMBOLS.length] },
      text: c.shortlist.map((length, i) => `<b>${name(c)}</b><br>shortlist of ${counted.format(length)}<br>recall@10 ${asScore(c.recall_at_10[i])}<br>${asMs(c.cost_ms[i])} a query`
        + `<br>${escaped(c.collection)}, ${counted.format(c.documents)} documents`), hovertemplate: "%{text}<extra></extra>",
    })),
    layout: base({ height: 380, showlegend: true, yaxis: { title: "recall@10" },
      xaxis: along === "shortlist" ? { title, type: "log", tickvals: steps, ticktext: steps.map(String) } : { title } }),
    label: `Recall@10 of ${cascades.length} cascades against ${title}`,
    table: table("", columns.map((label, place) => ({ label, number: place > 1 })), cascades.flatMap((c) => c.shortlist.map((length, i) => ({
      cells: [name(c), c.collection, counted.format(length), asScore(c.recall_at_10[i]), asMs(c.cost_ms[i])] })))),
  };
}

function storageChart(stored, view) {
  const storages = unique(stored.map((item) => item.storage));
  const columns = ["cell", "stored as", "MB per million vectors", "score", "retention"].map((label, place) => ({ label, number: place > 1, note: label === "score" ? `on ${view.label}` : null }));
  return {
    data: storages.map((storage, place) => {
      const of = stored.filter((item) => item.storage === storage);
      return {
        type: "scatter", mode: place === storages.length - 1 ? "lines+markers+text" : "lines+markers", name: storage, x: of.map((item) => item.bytes_per_vector), y: of.map((item) => item.score),
        line: { color: kindColour(place), width: 2, dash: DASHES[place % DASHES.length] }, marker: { size: 8, color: kindColour(place), symbol: SYMBOLS[place % SYMBOLS.length] },
        text: of.map((item) => String(item.cell[1])), textposition: "top center", textfont: { size: 11, color: colour("soft") }, cliponaxis: false,
        customdata: of.map((item) => `<b>${cellName(...item.cell)}</b> as ${storage}<br>${asMb(item.bytes_per_vector)} per million vectors<br>score ${asScore(item.score)}, retention ${asShare(item.retention)}<br>on ${wrapped(view.label, 48)}`),
        hovertemplate: "%{customdata}<extra></extra>",
      };
    }),
    layout: base({ height: 420, showlegend: true, xaxis: { title: "MB per million vectors", ...logTicks(stored.map((item) => item.bytes_per_vector)) }, yaxis: { title: "score" }, margin: { l: 8, r: 24, t: 10, b: 8 } }),
    label: `Score kept against index size for ${storages.length} storages`,
    table: table("", columns, stored.map((item) => ({
      cells: [cellName(...item.cell), item.storage, asMb(item.bytes_per_vector), asScore(item.score), asShare(item.retention)] }))),
  };
}
