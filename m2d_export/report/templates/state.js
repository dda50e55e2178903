"use strict";
// What the page looks at: the records' figures, which of them are chosen, and the rows that follow.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const state = { group: 0, setup: 0, latencySetup: 0, scope: 0, tokens: 0, batch: 0, layer: 0, storageSetup: 0, cascadeSetup: 0, cascadeFrom: 0, task: "sts", sort: { key: "score", down: true } };
const group = () => DATA.groups[state.group];

function chooseGroup(place) {
  const { defaults } = DATA.groups[place];
  Object.assign(state, { group: place, ...defaults, setup: 0, latencySetup: 0, scope: 0, tokens: 0, batch: 0, layer: 0, storageSetup: 0, cascadeSetup: 0, cascadeFrom: 0 });
  state.task = Object.keys(TASKS).find((name) => known(TASKS[name].quality).length) ?? "sts";
}

// The names of what is looked at, for titles and notes.
function viewed() {
  const of = group();
  return { label: of.sts[state.sts]?.label ?? "", times: of.times[state.times]?.text ?? "", latency: of.times[state.times]?.latency ?? "", throughput: of.times[state.times]?.throughput ?? "", texts: of.texts[state.texts] ?? "", collection: of.collections[state.collection] ?? "" };
}

let joined = { key: null, rows: [] };
function rows() {  // the candidates through the chosen view; the same objects until another one is chosen
  const { sts, times, texts, collection } = state;
  const key = [state.group, sts, times, texts, collection].join();
  if (joined.key !== key) {
    const of = group();
    joined = { key, rows: of.cells.map((cell, i) => ({ ...of.setups[cell.setup], ...cell, setup: of.setups[cell.setup].label,
      ...of.scores[sts][i], ...of.timings[times][i], ...of.agreements[texts][i], ...of.retrievals[collection][i] })) };
  }
  return joined.rows;
}
const front = () => group().fronts[state.sts][state.times].map((place) => rows()[place]);
const fullRow = () => rows().find((row) => row.full && row[TASKS[state.task].quality] != null) ?? null;
const known = (key) => rows().map((row) => row[key]).filter((value) => value != null);
