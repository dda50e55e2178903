"""The sections of a report: one list, from which the page and its Markdown are made.

A new chart is a row here, a file ``templates/section_KEY.js`` that draws it on the page, and a function in
``pictures`` where it also gets a picture. Data that the page does not have yet comes from ``data``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from m2d_export.report.pareto import front
from m2d_export.report.results import Results


@dataclass(frozen=True)
class Section:
    """A part of a report. It is shown if ``filled`` finds its values in the results.

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
        about="Set what you need. The cell that meets it is marked in every chart below. With a limit on quality the "
        "fastest cell wins, without one the best; among equals the smaller.",
        needs=QUALITY,
        filled=lambda of: any((c.score, c.ndcg, c.agreement) != (None, None, None) for c in of.cells),
        layout="picker",
    ),
    Section(
        key="grid",
        title="The grid",
        about="A cell is an exit layer and a dim: run that many blocks, keep that many numbers. Retention is the score "
        "as a share of the full cell's. An asterisk marks a layer or dim that was not trained.",
        needs=QUALITY,
        filled=lambda of: bool(of.cells),
        pictures=("score", "retention"),
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
        about="Median milliseconds a batch; whiskers reach the 95th percentile. Open markers are noisy: the middle "
        "half of the calls spreads over more than 20 % of the median.",
        needs="latencies",
        filled=lambda of: bool(of.timings),
        pictures=("latency",),
    ),
    Section(
        key="cascade",
        title="Cascade",
        about="A cheap cell makes a shortlist, a deep cell ranks it again. Recall@10 is the share of the deep cell's "
        "ten nearest documents that are in the shortlist.",
        needs="bench --retrieval FOLDER",
        filled=lambda of: bool(of.cascades),
        pictures=("cascade",),
    ),
    Section(
        key="storage",
        title="Index size",
        about="The size of a million vectors in each storage, and the score that they keep.",
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
    """One line about the sections that these results do not fill, or nothing."""
    absent = [f"{section.title.lower()} (needs {section.needs})" for section in SECTIONS if not section.filled(results)]
    return f"Left out, because the results have no values for them: {', '.join(absent)}." if absent else ""
