"use strict";
// What the page shows: which results are chosen, and the rows that follow from it.

const $ = (id) => document.getElementById(id);
const TABLE = DATA.columns.filter(({ shown }) => shown === "table");
const TIMES = DATA.columns.filter(({ key }) => DATA.times.includes(key));  // of a timing, as of a cell
const state = { group: 0, task: "sts", sort: { key: "score", down: true }, chosen: {} };
const group = () => DATA.groups[state.group];
const tasks = () => Object.keys(DATA.tasks).filter((name) => valuesOf(DATA.tasks[name].quality).length);
const titleOf = (key) => DATA.columns.find((column) => column.key === key).title;

function chooseGroup(place) {
  Object.assign(state, { group: place, ...DATA.groups[place].defaults, chosen: {} });
  state.task = tasks()[0] ?? "sts";
}

// The names of the chosen measurements, for titles and notes.
function viewed() {
  const of = group(), times = of.times[state.times];
  return {
    label: of.sts[state.sts]?.label ?? "", texts: of.texts[state.texts] ?? "",
    collection: of.collections[state.collection] ?? "", bm25: of.bm25[state.collection],
    ...of.indexes[state.index].beside[state.collection], index: of.indexes[state.index].text,
    latency: times?.latency ?? "", throughput: times?.throughput ?? "",
  };
}

let joined = { key: null, rows: [] };
function rows() {  // the candidates through the chosen view; the same objects until the view changes
  const { sts, times, texts, collection, index } = state;
  const key = [state.group, sts, times, texts, collection, index].join();
  if (joined.key !== key) {
    const of = group();
    joined = { key, rows: of.cells.map((cell, i) => ({
      ...of.setups[cell.setup], ...cell, setup: of.setups[cell.setup].label,
      ...of.values.sts[sts][i], ...of.values.times[times][i],
      ...of.values.texts[texts][i], ...of.values.collection[collection][i],
      ...of.values.index[index][collection][texts][i],
    })) };
  }
  return joined.rows;
}
const front = () => group().fronts[state.sts][state.times].map((place) => rows()[place]);
const fullRow = () => rows().find((row) => row.full && row[DATA.tasks[state.task].quality] != null) ?? null;
const indexCells = () => ascendingBy(unique(valuesOf("index_cell")), (cell) => Number(cell.split("x")[1])).reverse();
const valuesOf = (key) => rows().map((row) => row[key]).filter(isKnown);
