"use strict";
// What the charts share. Each file section_NAME.js draws the section NAME of m2d_export/report/sections.py:
// it sets SECTIONS.NAME to {follows, draw}. `follows`: draw again whenever the pick changes. `draw` gets what
// drawSection in page.js makes: the picked row, the view, the section's body, and the functions choose and chart.

const SECTIONS = {};
const starred = (number, trained) => `${number}${trained ? "" : "*"}`;
const setupLabel = (place) => group().setups[place].label;

// Plotly's layout: `extra` with the page's fonts and colours.
function base({ xaxis, yaxis, ...extra }) {
  const ink = colour("ink"), soft = colour("soft"), line = colour("line");
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink };
  const axis = ({ title, ...others }) => ({
    gridcolor: line, zeroline: false, linecolor: line, tickcolor: line, automargin: true, fixedrange: true,
    tickfont: { color: soft }, ...others,
    title: { text: title, font: { size: 12.5, color: soft }, standoff: 8 },
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, hovermode: "closest",
    autosize: true, font, margin: { l: 8, r: 12, t: 10, b: 8 }, height: 380, showlegend: true,
    legend: {
      orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { color: ink },
      itemclick: false, itemdoubleclick: false,
    },
    hoverlabel: { bgcolor: colour("card"), bordercolor: soft, font, align: "left" },
    xaxis: axis(xaxis), yaxis: axis(yaxis), ...extra,
  };
}

// A logarithmic axis with plain numbers: 1, 2 and 5 of each decade, or other steps where these are too few or many.
function logTicks(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const decades = Array.from({ length: 14 }, (_, i) => 10 ** (i - 6));
  const within = (steps) => decades.flatMap((decade) => steps.map((step) => Number((step * decade).toPrecision(6))))
    .filter((v) => v >= low / 1.3 && v <= high * 1.3);
  const few = within([1, 2, 5]);
  const tickvals = few.length < 4 ? within([1, 1.5, 2, 3, 4, 5, 6, 8]) : few.length > 7 ? within([1, 3]) : few;
  return { type: "log", tickvals, ticktext: tickvals.map((v) => counted.format(v)) };
}
const ticksAt = (values) => ({ type: "log", tickvals: values, ticktext: values.map((v) => counted.format(v)) });

// A trace of lines and markers; `hover` has a text for each point.
const lineTrace = (name, place, x, y, hover) => ({
  type: "scatter", mode: "lines+markers", name, x, y, line: kindLine(place), marker: kindMarker(place),
  customdata: hover, hovertemplate: "%{customdata}<extra></extra>",
});

// Every known value of a row: one paragraph for each part of the view.
function hover(row, view) {
  const shown = DATA.columns.filter((column) => column.shown !== "data" && isKnown(row[column.key]));
  const paragraphs = unique(shown.map(({ note }) => note)).map((note) => {
    const own = shown.filter((column) => column.note === note);
    const values = own.map((column) => `${column.title} ${textOf(column, row)}`).join("; ");
    return wrapped(values, 60) + (note ? `<br>   ${wrapped(filled(note, view), 48)}` : "");
  });
  return [
    `<b>${nameOf(row)}</b>  ${escaped(row.setup)}`,
    ...paragraphs,
    !row.trained_layer && "a layer that was not trained",
    !row.trained_dim && "a dim that was not trained",
    `${escaped(row.provider)}${row.threads == null ? "" : `, ${row.threads} threads`}`,
  ].filter(Boolean).join("<br>");
}
