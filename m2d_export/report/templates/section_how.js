"use strict";
// How it was measured: machine, versions, commands, failures.

SECTIONS.how = {
  draw({ body }) {
    const of = group(), items = (list) => list.map((text) => element("li", {}, text));
    const facts = of.facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
    const heading = element("h3", {}, `Failed or interrupted: ${of.failures.length}`);
    const failed = of.failures.length ? [heading, element("ul", {}, ...items(of.failures))] : [];
    body.replaceChildren(
      element("dl", {}, ...facts), element("h3", {}, "Commands"),
      element("pre", { tabindex: 0, "aria-label": "Commands" }, of.commands.join("\n")),
      ...failed, of.omitted ? element("p", { class: "small" }, of.omitted) : "",
    );
  },
};
