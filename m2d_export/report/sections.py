"""The sections of a report: one list, from which the page and its Markdown are made.

To add a chart, add a row here and a file ``templates/section_KEY.js`` that draws it on the page. If it shall have a
picture, add a function in ``pictures``. Data that the page does not have yet comes from ``data``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from m2d_export.report.pareto import front
from m2d_export.report.results import Results
from m2d_export.report.search import is_searched


@dataclass(frozen=True)
class Section:
    """A part of a report; it is shown if ``filled`` finds its values in the results.

    ``needs`` says what bench must measure for it. ``layout`` is the CSS class of its body. ``pictures`` are the names
    of its pictures.
    """

    key: str
    title: str
    about: str
    needs: str
    filled: Callable[[Results], bool]
    layout: str = "figures"
    pictures: tuple[str, ...] = ()


QUALITY = "scores, agreement or retrieval"
SECTIONS = (
    Section(
        key="pick",
        title="The pick",
        about="Set your budgets. The cell that meets them is marked in every chart below. If quality has a limit, the "
        "fastest cell is picked, and else the best one. Of two equal cells, the smaller one is picked.",
        needs=QUALITY,
        filled=lambda of: any((c.score, c.ndcg, c.agreement) != (None, None, None) for c in of.cells),
        layout="picker",
    ),
    Section(
        key="grid",
        title="The grid",
        about="A cell is a layer and a dim: 3 × 128 stops after layer 3 and keeps 128 numbers of the vector. Retention "
        "is the cell's score divided by the full cell's. An asterisk marks a layer or dim that was not trained.",
        needs=QUALITY,
        filled=lambda of: bool(of.cells),
        pictures=("score", "retention"),
    ),
    Section(
        key="search",
        title="Retrieval",
        about="nDCG@10 of the queries of each layer, in two indexes: one that the layer made, and one that the deepest "
        "exit made. For the second index, the share is this nDCG@10 divided by the nDCG@10 of the deepest exit's own "
        "queries. BM25 searches by words.",
        needs="bench --retrieval FOLDER",
        filled=lambda of: any(is_searched(cell) for cell in of.cells),
        layout="figures wide",
        pictures=("search",),
    ),
    Section(
        key="front",
        title="Score against throughput",
        about="The line is the Pareto front: no other cell is as good on both and better on one. Whiskers are 95 % "
        "bootstrap intervals. Where they overlap, the difference of two cells may be chance.",
        needs="both scores and latencies",
        filled=lambda of: bool(front(of.cells)),
        layout="figures wide",
        pictures=("front",),
    ),
    Section(
        key="latency",
        title="Latency",
        about="Milliseconds per batch: the median, with whiskers to the 95th percentile. Open markers are noisy: the "
        "times of the middle half of the calls differ by more than 20 % of the median.",
        needs="latencies",
        filled=lambda of: bool(of.timings),
        pictures=("latency",),
    ),
    Section(
        key="cascade",
        title="Cascade",
        about="A cheap cell finds a shortlist, and a deep cell ranks it again. Recall@10 is the share of the deep "
        "cell's ten nearest documents that are in the shortlist.",
        needs="bench --retrieval FOLDER",
        filled=lambda of: bool(of.cascades),
        pictures=("cascade",),
    ),
    Section(
        key="storage",
        title="Index size",
        about="The size of a million vectors, by the type that an index stores, and the score that such vectors have.",
        needs="scores of stored vectors",
        filled=lambda of: any(cell.stored for cell in of.cells),
        layout="figures wide",
        pictures=("storage",),
    ),
    Section(
        key="cells",
        title="All cells",
        about="Select a heading to sort by it. ◆ marks the Pareto front.",
        needs=QUALITY,
        filled=lambda of: bool(of.cells),
        layout="",
    ),
    Section(key="how", title="How it was measured", about="", needs="", filled=lambda of: True, layout=""),
)


def filled(results: Results) -> list[str]:
    """The keys of the sections that these results fill."""
    return [section.key for section in SECTIONS if section.filled(results)]


def omitted(results: Results) -> str:
    """A line that names the sections without results; empty if there are none."""
    absent = [f"{section.title.lower()} (needs {section.needs})" for section in SECTIONS if not section.filled(results)]
    return f"Left out, because the results have no values for them: {', '.join(absent)}." if absent else ""
