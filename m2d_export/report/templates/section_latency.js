"use strict";
// Latency of each layer, over the batch size and over the tokens.

SECTIONS.latency = {
  draw({ choose, chart }) {
    const all = group().latencies, words = { graph: "model only", text: "text to vector" };
    const setup = choose("setup", unique(all.map((t) => t.setup)), setupLabel);
    const scope = choose("what is timed", unique(all.map((t) => t.shape.scope)), (name) => words[name] ?? name);
    const timed = all.filter((t) => t.setup === setup && t.shape.scope === scope);
    const lengths = ascending(timed.map((t) => t.shape.tokens));
    const sizes = ascending(timed.map((t) => t.shape.batch_size));
    const tokens = choose("tokens", lengths), size = choose("batch size", sizes);
    const note = `${setupLabel(setup)}, ${words[scope] ?? scope}`;
    const overSizes = timed.filter((t) => t.shape.tokens === tokens);
    chart("latency-batch", `Over the batch size, at ${tokens} tokens`, note,
      sizes.length > 1 || lengths.length === 1 ? latencyChart(overSizes, "batch_size", "batch size") : null);
    const overTokens = timed.filter((t) => t.shape.batch_size === size);
    chart("latency-tokens", `Over the tokens, at batch size ${size}`, note,
      lengths.length > 1 ? latencyChart(overTokens, "tokens", "tokens") : null);
  },
};

// A line for each layer over `along`, a field of a shape.
function latencyChart(timings, along, title) {
  const layers = unique(timings.map((timing) => timing.layer));
  const hovers = (t) => `<b>layer ${t.layer}</b>  ${t.shape.batch_size} × ${t.shape.tokens} tokens<br>`
    + TIMES.map((column) => `${column.title} ${textOf(column, t)}`).join("<br>");
  const data = layers.map((layer, place) => {
    const of = timings.filter((timing) => timing.layer === layer).sort((a, b) => a.shape[along] - b.shape[along]);
    const symbol = cyclic(SYMBOLS, place), shade = orderColour(place, layers.length);
    return {
      ...lineTrace(`layer ${layer}`, place, of.map((t) => t.shape[along]), of.map((t) => t.latency_ms), of.map(hovers)),
      line: { color: shade, width: 2 },
      marker: { size: 8, color: shade, symbol: of.map((t) => (t.noisy ? `${symbol}-open` : symbol)) },
      error_y: {
        type: "data", symmetric: false, color: shade, thickness: 1, width: 3,
        array: of.map((t) => t.p95_ms - t.latency_ms), arrayminus: of.map(() => 0),
      },
    };
  });
  return {
    data,
    layout: base({
      xaxis: { title, ...ticksAt(ascending(timings.map((t) => t.shape[along]))) },
      yaxis: { title: "ms a batch", ...logTicks(timings.map((t) => t.latency_ms)) },
    }),
    label: `Latency of ${layers.length} layers over ${title}`,
    table: table("", headings(["layer", title, ...TIMES.map((column) => column.title)], 0),
      timings.map((t) => ({ cells: [String(t.layer), String(t.shape[along]), ...TIMES.map((column) => textOf(column, t))] }))),
  };
}
