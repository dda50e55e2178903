"use strict";
// All cells as a table that its headings sort; BM25 is its last row.

SECTIONS.cells = {
  follows: true,
  draw({ picked, view, body }) {
    const onFront = new Set(front());
    const cell = (row) =>
      starred(nameOf(row), row.trained_layer && row.trained_dim) + (onFront.has(row) ? " ◆" : "");
    const columns = [
      { key: "cell", label: "cell", text: cell, by: (row) => row.layer * 1e6 + row.dim },
      { key: "setup", label: "setup", text: (row) => row.setup, by: (row) => row.setup },
      ...TABLE.filter(({ key }) => valuesOf(key).length).map((column) => ({
        key: column.key, label: column.title, note: noteOf(column, view), number: true,
        text: (row) => textOf(column, row), by: (row) => row[column.key],
      })),
    ];
    const { by, key } = columns.find((column) => column.key === state.sort.key) ?? columns[0];
    const order = rows().toSorted((a, b) => {
      const [x, y] = [by(a), by(b)];
      if (x == null || y == null) return (x == null) - (y == null);  // unknown values are last in either direction
      return (state.sort.down ? -1 : 1) * (x < y ? -1 : x > y ? 1 : 0);
    });
    const known = rows().find((row) => row.bm25 != null);
    const own = known ? { cell: "BM25", ndcg: asScore(known.bm25) } : null;
    const bm25 = own ? [{ cells: columns.map(({ key }) => own[key] ?? MISSING) }] : [];
    const made = table("", columns, [...order.map((row) => (
      { picked: row === picked, cells: columns.map(({ text }) => text(row)) })), ...bm25]);
    made.querySelectorAll("thead th").forEach((head, place) => sortable(head, columns[place], key));
    const old = body.firstElementChild, next = scrolled(made, "All cells", "all");
    body.replaceChildren(next);
    if (old) Object.assign(next, { scrollTop: old.scrollTop, scrollLeft: old.scrollLeft });
  },
};

// Turn a heading into a button that sorts by its column.
function sortable(head, { key, number }, sorted) {
  if (key === sorted) head.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
  const sort = () => {
    state.sort = { key, down: state.sort.key === key ? !state.sort.down : Boolean(number) };
    drawSection("cells");
    document.querySelector(`[data-sort="${key}"]`).focus();
  };
  const [label, ...note] = head.childNodes;
  head.replaceChildren(element("button", { type: "button", "data-sort": key, onclick: sort },
    element("span", {}, label), ...note));
}
