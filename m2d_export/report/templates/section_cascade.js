"use strict";
// Cascades: recall against the length of the shortlist, and against the cost of a query.

SECTIONS.cascade = {
  draw({ view, choose, chart }) {
    const here = group().cascades.filter((c) => c.collection === view.collection);
    if (!here.length) {
      for (const key of ["shortlist", "cost_ms"]) chart(`cascade-${key}`, "", "", null);
      return;
    }
    const setup = choose("setup", unique(here.map((c) => c.setup)), setupLabel);
    const own = here.filter((c) => c.setup === setup), all = own.every((c) => c.few);
    const layers = all ? [null] : [null, ...unique(own.map((c) => c.cheap[0]))];
    const layer = choose("shortlist from", layers, (of) => (of == null ? "the cheapest cascades" : `layer ${of}`));
    const shown = own.filter((c) => (layer == null ? c.few : c.cheap[0] === layer));
    const note = `${view.collection}, ${counted.format(shown[0].documents)} documents; ${setupLabel(setup)}`;
    chart("cascade-shortlist", "Recall@10 against the shortlist", note,
      cascadeChart(shown, "shortlist", "shortlist length"));
    chart("cascade-cost_ms", "Recall@10 against the cost", note,
      cascadeChart(shown, "cost_ms", "ms a query, encoding and searching"));
  },
};

// A line for each cascade over `along`: "shortlist" or "cost_ms".
function cascadeChart(cascades, along, title) {
  const name = (c) => `${cellName(...c.cheap)} → ${cellName(...c.deep)}`;
  const texts = (c) => c.shortlist.map((length, i) =>
    [counted.format(length), asScore(c.recall_at_10[i]), asMs(c.cost_ms[i])]);
  const hovers = (c) => texts(c).map(([length, recall, cost]) =>
    `<b>${name(c)}</b><br>shortlist of ${length}<br>recall@10 ${recall}<br>${cost} a query`
    + `<br>${escaped(c.collection)}, ${counted.format(c.documents)} documents`);
  const lengths = ascending(cascades.flatMap((c) => c.shortlist));
  return {
    data: cascades.map((c, place) => lineTrace(name(c), place, c[along], c.recall_at_10, hovers(c))),
    layout: base({
      yaxis: { title: "recall@10" }, xaxis: { title, ...(along === "shortlist" ? ticksAt(lengths) : {}) },
    }),
    label: `Recall@10 of ${cascades.length} cascades against ${title}`,
    table: table("", headings(["cascade", "shortlist", "recall@10", "a query"], 1),
      cascades.flatMap((c) => texts(c).map((cells) => ({ cells: [name(c), ...cells] })))),
  };
}
