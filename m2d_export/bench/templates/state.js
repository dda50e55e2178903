"use strict";
// What the page looks at: the records' figures, which of them are chosen, and the rows that follow.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const state = { group: 0, setup: 0, latencySetup: 0, scope: 0, tokens: 0, batch: 0, layer: 0, storageSetup: 0, sort: { key: "score", down: true } };
const group = () => DATA.groups[state.group];

function chooseGroup(place) {
  const { defaults } = DATA.groups[place];
  Object.assign(state, { group: place, ...defaults, setup: 0, latencySetup: 0, scope: 0, tokens: 0, batch: 0, layer: 0, storageSetup: 0 });
}

// The names of what is looked at, for titles and notes.
function viewed() {
  const of = group();
  return { label: of.sts[state.sts]?.label ?? "", shape: of.shapes[state.shape]?.text ?? "", texts: of.texts[state.texts] ?? "", collection: of.collections[state.collection] ?? "" };
}

let joined = { key: null, rows: [] };
function rows() {  // the candidates through the chosen view; the same objects until another one is chosen
  const { sts, shape, texts, collection } = state;
  const key = [state.group, sts, shape, texts, collection].join();
  if (joined.key !== key) {
    const of = group();
    joined = { key, rows: of.cells.map((cell, i) => ({ ...cell, setup: of.setups[cell.setup].label, precision: of.setups[cell.setup].precision, runtime: of.setups[cell.setup].runtime,
      ...of.scores[sts][i], ...of.timings[shape][i], ...of.agreements[texts][i], ...of.retrievals[collection][i] })) };
  }
  return joined.rows;
}
const front = () => group().fronts[state.sts][state.shape].map((place) => rows()[place]);
const fullRow = () => rows()[group().full] ?? null;
const known = (key) => rows().map((row) => row[key]).filter((value) => value != null);
