"use strict";
// Drawing: a section is drawn again when what it shows changes.

// The width of a chart changes with its neighbours and with the screen.
const widths = new ResizeObserver((changed) => {
  for (const { target } of changed) {
    if (target.classList.contains("js-plotly-plot") && target.clientWidth) Plotly.Plots.resize(target);
  }
});

// Draw {data, layout, label, table} as a figure of `place`, or hide the figure where `made` is null.
function showChart(place, key, title, note, made) {
  let node = document.querySelector(`[data-figure="${key}"]`);
  if (!node && !made) return;
  if (!node) {
    node = element("figure", { "data-figure": key },
      element("figcaption", {}, element("h3"), element("p")), element("div", { class: "chart", role: "img" }),
      element("details", {}, element("summary", {}, "As a table"), element("div")));
    place.append(node);
    widths.observe(node.querySelector(".chart"));
  }
  node.hidden = !made;
  if (!made) return;
  node.querySelector("h3").textContent = title;
  node.querySelector("figcaption p").textContent = note;
  const box = node.querySelector(".chart");
  box.setAttribute("aria-label", `${made.label}. The same numbers are in the table below.`);
  node.querySelector("details > div").replaceChildren(scrolled(made.table, `${title}, as a table`, "scroll tall"));
  box.style.height = `${made.layout.height}px`;
  Plotly.react(box, made.data, made.layout, { displayModeBar: false, scrollZoom: false });
}

function drawSection(key) {
  const section = $(key), [controls, body] = section.querySelectorAll(".controls, .body");
  if (section.hidden) return;
  const chosen = (state.chosen[key] ??= {}), lists = [];
  const budgeted = budgets(), decision = choose(rows(), budgeted);
  SECTIONS[key].draw({
    decision, picked: decision.picked, chosen: budgeted, view: viewed(), body,
    // A list to choose from above the section: returns the chosen one of `values`.
    choose(label, values, write = String) {
      const place = Math.min(chosen[label] ?? 0, values.length - 1);
      lists.push(choice(label, values.map(write), place, (at) => { chosen[label] = at; drawSection(key); }));
      return values[place];
    },
    chart: (name, title, note, made) => showChart(body, name, title, note, made),
  });
  controls.replaceChildren(...lists.filter(Boolean));
}

function drawPick() {
  for (const key of Object.keys(SECTIONS)) if (SECTIONS[key].follows) drawSection(key);
}

function drawAll() {
  const of = group();
  const change = (name) => (place) => { state[name] = place; drawAll(); };
  $("lead").textContent = of.lead;
  $("mixed").hidden = !DATA.mixed;
  $("mixed").textContent = DATA.mixed ?? "";
  $("view").replaceChildren(...[
    choice("results of", DATA.groups.map((g) => g.name), state.group, openGroup),
    choice("score on", of.sts.map((s) => s?.label), state.sts, change("sts")),
    choice("times of", of.times.map((pair) => pair?.text), state.times, change("times")),
    choice("agreement on", of.texts, state.texts, change("texts")),
    choice("queries in the index of", of.indexes.map(({ text }) => text), state.index, (place) => {
      state.index = place;  // another index has other cells
      buildBudgets();
      drawAll();
    }),
    choice("retrieval on", of.collections, state.collection, (place) => {
      delete state.chosen.cascade;  // another collection may have other cascades
      change("collection")(place);
    }),
  ].filter(Boolean));
  const sections = Object.keys(SECTIONS).map((key) => $(key));
  for (const section of sections) section.hidden = !of.sections.includes(section.id);
  $("nav").replaceChildren(...[...document.querySelectorAll("main > section[id]:not([hidden])")]
    .map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  for (const key of Object.keys(SECTIONS)) drawSection(key);
}

function openGroup(place) {
  chooseGroup(place);
  buildBudgets();
  drawAll();
}

function themeButton() {
  const button = $("theme");
  const name = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); drawAll(); });
  name();
}

// For scripts and tests: the pick under budgets named as in `select --json`, and another view.
window.m2dPick = (chosen) => {
  const asked = { task: state.task, index_cell: state.indexCell, ...chosen };
  const { picked, warnings, relaxations } = choose(rows(), asked);
  const change = ({ budget, limit, needed, row }) =>
    `${budget} from ${formatNumber(limit)} to ${formatNumber(needed)} would allow ${row.layer}x${row.dim}`;
  const { layer, dim, precision, runtime } = picked ?? {};
  return { picked: picked && { layer, dim, precision, runtime }, warnings, relaxations: relaxations.map(change) };
};
window.m2dSee = (view) => {
  Object.assign(state, view);
  if (view.task) buildBudgets();
  drawAll();
};

themeButton();
openGroup(0);
