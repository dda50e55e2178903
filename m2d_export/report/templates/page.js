"use strict";
// Drawing: every figure anew when what it shows has changed.

// A figure's width changes with its neighbours and with the screen.
const widths = new ResizeObserver((changed) => {
  for (const { target } of changed) if (target.classList.contains("js-plotly-plot") && target.clientWidth) Plotly.Plots.resize(target);
});

function figure(key, place, title, note, chart) {
  let node = document.querySelector(`[data-figure="${key}"]`);
  if (!node && !chart) return;
  if (!node) {
    node = element("figure", { "data-figure": key }, element("figcaption", {}, element("h3"), element("p")),
      element("div", { class: "chart", role: "img" }), element("details", {}, element("summary", {}, "As a table"), element("div")));
    place.append(node);
    widths.observe(node.querySelector(".chart"));
  }
  node.hidden = !chart;
  if (!chart) return;
  node.querySelector("h3").textContent = title;
  node.querySelector("figcaption p").textContent = note;
  const box = node.querySelector(".chart");
  box.setAttribute("aria-label", `${chart.label}. The same figures are in the table below.`);
  node.querySelector("details > div").replaceChildren(scrolled(chart.table, `${title}, as a table`, "scroll tall"));
  box.style.height = `${chart.layout.height}px`;
  Plotly.react(box, chart.data, chart.layout, { displayModeBar: false, scrollZoom: false });
}

const box = (id) => $(id).querySelector(".figures");
const setControls = (id, ...list) => $(id).querySelector(".controls").replaceChildren(...list.filter(Boolean));
const change = (name, draw) => (place) => { state[name] = place; draw(); };

function drawGrid(picked) {
  if ($("grid").hidden) return;
  const labels = unique(rows().map((row) => row.setup));
  const options = [`the pick's${picked ? ` (${picked.setup})` : ""}`, ...labels];  // follows the pick until told otherwise
  setControls("grid", labels.length > 1 ? choice("variant", options, state.setup, change("setup", drawPick)) : null);
  const label = state.setup ? labels[state.setup - 1] : picked?.setup ?? labels[0];
  const shown = rows().filter((row) => row.setup === label), view = viewed();
  for (const measure of MEASURES) {
    const chart = shown.some((row) => row[measure.key] != null) ? heatMap(measure, shown, view, picked) : null;
    figure(`heat-${measure.key}`, box("grid"), measure.title, `${measure.unit(view)} · ${label}`, chart);
  }
}

function drawFront(picked) {
  if ($("front").hidden) return;
  const view = viewed();
  figure("front", box("front"), "Score against throughput", `Score on ${view.label}; ${view.throughput}`, frontChart(rows(), front(), view, picked));
}

function drawLatency() {
  if ($("latency").hidden) return;
  const all = group().latencies;
  const setups = unique(all.map((t) => t.setup)), scopes = unique(all.map((t) => t.shape.scope));
  const timed = all.filter((t) => t.setup === setups[state.latencySetup] && t.shape.scope === scopes[state.scope]);
  const sizes = unique(timed.map((t) => t.shape.batch_size)).sort((a, b) => a - b), tokens = unique(timed.map((t) => t.shape.tokens)).sort((a, b) => a - b);
  const size = sizes[Math.min(state.batch, sizes.length - 1)], length = tokens[Math.min(state.tokens, tokens.length - 1)];
  const scopeName = { graph: "the graph alone", text: "from text to vector" };
  setControls("latency", choice("variant", setups.map((s) => group().setups[s].label), state.latencySetup, change("latencySetup", drawLatency)),
    choice("what is timed", scopes.map((s) => scopeName[s] ?? s), state.scope, change("scope", drawLatency)),
    choice("tokens", tokens.map(String), tokens.indexOf(length), change("tokens", drawLatency)), choice("batch size", sizes.map(String), sizes.indexOf(size), change("batch", drawLatency)));
  const what = `${group().setups[setups[state.latencySetup]].label}, ${scopeName[scopes[state.scope]] ?? scopes[state.scope]}`;
  const overSize = timed.filter((t) => t.shape.tokens === length), overTokens = timed.filter((t) => t.shape.batch_size === size);
  figure("latency-batch", box("latency"), `Over the batch size, at ${length} tokens`, what, sizes.length > 1 || tokens.length === 1 ? latencyChart(overSize, "batch_size", "batch size") : null);
  figure("latency-tokens", box("latency"), `Over the tokens, at batch size ${size}`, what, tokens.length > 1 ? latencyChart(overTokens, "tokens", "tokens") : null);
}

function drawCascade() {
  if ($("cascade").hidden) return;
  const here = group().cascades.filter((c) => c.collection === group().collections[state.collection]);
  const setups = unique(here.map((c) => c.setup)), setup = setups[Math.min(state.cascadeSetup, setups.length - 1)];
  const own = here.filter((c) => c.setup === setup);
  const layers = unique(own.map((c) => c.cheap[0])), all = own.filter((c) => c.few).length === own.length;
  const from = all ? ["all"] : ["any layer: those that are cheapest for some recall", ...layers.map((layer) => `layer ${layer}`)];
  setControls("cascade", choice("shortlist from", from, state.cascadeFrom, change("cascadeFrom", drawCascade)),
    choice("variant", setups.map((s) => group().setups[s].label), state.cascadeSetup, change("cascadeSetup", drawCascade)));
  const layer = layers[state.cascadeFrom - 1];
  const shown = own.filter((c) => (layer == null ? c.few : c.cheap[0] === layer));
  const where = shown.length ? `${shown[0].collection}, ${counted.format(shown[0].documents)} documents; ${group().setups[setup].label}` : "";
  for (const [key, title, axis] of [["shortlist", "the shortlist", "shortlist length"], ["cost_ms", "the cost", "ms a query, encoding and searching"]]) {
    figure(`cascade-${key}`, box("cascade"), `Recall@10 against ${title}`, where, shown.length ? cascadeChart(shown, key, axis) : null);
  }
}

function drawStorage() {
  if ($("storage").hidden) return;
  const all = group().stored[state.sts], setups = unique(all.map((item) => item.setup));
  const layers = unique(all.map((item) => item.cell[0])).sort((a, b) => b - a);  // the deepest first
  setControls("storage", choice("layer", layers.map(String), state.layer, change("layer", drawStorage)),
    choice("variant", setups.map((s) => group().setups[s].label), state.storageSetup, change("storageSetup", drawStorage)));
  const shown = all.filter((item) => item.cell[0] === layers[state.layer] && item.setup === setups[state.storageSetup]);
  figure("storage", box("storage"), `Index size against score, layer ${layers[state.layer]}`, `Score on ${viewed().label}; the dim grows along each line, as numbered on the leftmost`, shown.length ? storageChart(shown, viewed()) : null);
}

function drawTable(picked) {
  const view = viewed(), onFront = new Set(front());
  const columns = [
    { key: "cell", label: "cell", write: (row) => `${cellName(row.layer, row.dim)}${row.trained_layer && row.trained_dim ? "" : "*"}${onFront.has(row) ? " ◆" : ""}`, by: (row) => row.layer * 1e6 + row.dim },
    { key: "setup", label: "variant", write: (row) => row.setup, by: (row) => row.setup },
    { key: "score", label: "score", note: view.label && `on ${view.label}`, number: true, write: (row) => `${asScore(row.score)} ${asInterval(row.interval)}` },
    { key: "retention", label: "retention", number: true, write: (row) => asShare(row.retention) },
    { key: "agreement", label: "agreement", note: `on ${view.texts}`, number: true, write: (row) => asScore(row.agreement) },
    { key: "overlap_at_10", label: "overlap@10", note: `on ${view.texts}`, number: true, write: (row) => asScore(row.overlap_at_10) },
    { key: "ndcg", label: "nDCG@10", note: `on ${view.collection}`, number: true, write: (row) => asScore(row.ndcg) },
    { key: "recall_at_100", label: "recall@100", note: `on ${view.collection}`, number: true, write: (row) => asScore(row.recall_at_100) },
    { key: "latency_ms", label: "latency", note: `p50, ${view.latency}`, number: true, write: (row) => `${asMs(row.latency_ms)}${row.noisy ? " noisy" : ""}` },
    { key: "sentences_per_second", label: "sentences/s", note: view.throughput, number: true, write: (row) => asRate(row.sentences_per_second) },
    { key: "joules_per_sentence", label: "J a sentence", number: true, write: (row) => written(row.joules_per_sentence, (v) => v.toPrecision(3)) },
    { key: "bytes_per_vector", label: "bytes a vector", note: "float32", number: true, write: (row) => counted.format(row.bytes_per_vector) },
    { key: "peak_mb", label: "peak memory", number: true, write: (row) => asMb(row.peak_mb) },
  ].filter(({ key }) => ["cell", "setup"].includes(key) || known(key).length);
  const by = columns.find(({ key }) => key === state.sort.key) ?? columns[0];
  const value = by.by ?? ((row) => row[by.key]);
  const sign = state.sort.down ? -1 : 1;
  const order = rows().toSorted((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x == null || y == null) return (x == null) - (y == null);  // what was not measured stands last, either way
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
  const made = table("", columns, order.map((row) => ({ picked: row === picked, cells: columns.map(({ write }) => write(row)) })));
  made.querySelectorAll("thead th").forEach((head, place) => {
    const { key } = columns[place];
    if (key === by.key) head.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
    const [label, ...note] = head.childNodes;
    head.replaceChildren(element("button", { type: "button", "data-sort": key, onclick: () => {
      state.sort = { key, down: state.sort.key === key ? !state.sort.down : place > 1 };
      drawPick();
      document.querySelector(`[data-sort="${key}"]`).focus();
    } }, element("span", {}, label), ...note));
  });
  const old = $("all").firstElementChild;
  const next = scrolled(made, "All cells", "all");
  $("all").replaceChildren(next);
  if (old) { next.scrollTop = old.scrollTop; next.scrollLeft = old.scrollLeft; }
}

function drawPick() {
  const chosen = budgets();
  for (const { name, write } of BUDGETS) {
    const output = $(`${name}-value`);
    if (!output) continue;
    output.textContent = chosen[name] == null ? "any" : write(chosen[name]);
    output.className = chosen[name] == null ? "any" : "";
    $(name).setAttribute("aria-valuetext", output.textContent);
  }
  $("command").textContent = command(chosen);
  const made = choose(rows(), chosen), { picked } = made;
  if (!$("pick").hidden) $("picked").replaceChildren(...pickCard(made, chosen));
  drawGrid(picked);
  drawFront(picked);
  if (!$("cells").hidden) drawTable(picked);
}

function drawMeasured() {
  const of = group();
  const list = element("dl", {}, ...of.measured.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  const parts = [list, element("h3", {}, "Commands"), element("pre", { tabindex: 0, "aria-label": "Commands" }, of.commands.join("\n"))];
  if (of.unmeasured.length) {
    parts.push(element("h3", {}, `Failed or interrupted: ${of.unmeasured.length}`), element("ul", {}, ...of.unmeasured.map((text) => element("li", {}, text))));
  }
  if (of.omitted) parts.push(element("p", { class: "small" }, of.omitted));
  $("measured").replaceChildren(...parts);
}

function drawAll() {
  const of = group();
  $("lead").textContent = of.lead;
  $("mixed").hidden = !DATA.mixed;
  $("mixed").textContent = DATA.mixed ?? "";
  $("view").replaceChildren(...[
    choice("results of", DATA.groups.map((g) => g.name), state.group, (place) => { chooseGroup(place); buildBudgets(drawPick); drawAll(); }),
    choice("score on", of.sts.map((s) => s?.label), state.sts, change("sts", drawAll)), choice("times of", of.times.map((pair) => pair?.text), state.times, change("times", drawAll)),
    choice("agreement on", of.texts, state.texts, change("texts", drawAll)), choice("retrieval on", of.collections, state.collection, (place) => { Object.assign(state, { collection: place, cascadeSetup: 0, cascadeFrom: 0 }); drawAll(); }),
  ].filter(Boolean));
  const sections = [...document.querySelectorAll("main > section[id]")];
  for (const section of sections) section.hidden = !(section.id === "how" || of.sections.includes(section.id));
  $("nav").replaceChildren(...sections.filter((section) => !section.hidden)
    .map((section) => element("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  drawPick();
  drawLatency();
  drawCascade();
  drawStorage();
  drawMeasured();
}

function themeButton() {
  const button = $("theme");
  const say = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); button.removeAttribute("aria-pressed"); };
  button.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; say(); drawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { say(); drawAll(); });
  say();
}

chooseGroup(0);
$("budgets").addEventListener("submit", (event) => event.preventDefault());
buildBudgets(drawPick);
themeButton();
drawAll();
