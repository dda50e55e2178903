"""The report: a folder with a page that opens from disk, a short version in Markdown, and pictures for a README."""

import json
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from m2d_export.bench.records import Group, Record, groups
from m2d_export.errors import DataError, OutputError
from m2d_export.host import templates
from m2d_export.host.extras import require
from m2d_export.host.files import publish, staged_directory
from m2d_export.report.data import page_data
from m2d_export.report.markdown import document
from m2d_export.report.pictures import draw
from m2d_export.report.results import Results
from m2d_export.report.sections import SECTIONS, Section

PAGE, MARKDOWN, PICTURE = "index.html", "report.md", ".png"
MADE_HERE = b'<meta name="generator" content="m2d-export report">'
# Each script uses those before it.
SCRIPTS = ("parts", "state", "rule", "charts", *(f"section_{section.key}" for section in SECTIONS), "page")
template = partial(templates.template, "m2d_export.report")


def write_report(records: Sequence[Record], target: Path) -> None:
    """Write the folder ``target`` from the records of one or more bundles and machines; replace an earlier report.

    Raises OutputError where ``target`` holds anything else, DataError without records, and RuntimeUnavailable without
    the extra ``report``.
    """
    if not records:
        raise DataError("there are no results to report: run `m2d-export bench BUNDLE` first")
    target = target.absolute()
    _check_target(target)
    found = groups(records)
    results = [Results.of(group) for group in found]
    with staged_directory(target) as staging:
        (staging / PAGE).write_text(page(found), encoding="utf-8")
        pictures = [draw(one, staging, f"-{place}" if place else "") for place, one in enumerate(results)]
        (staging / MARKDOWN).write_text(document(results, pictures), encoding="utf-8")
        publish(staging, target, replace=True)


def page(found: Sequence[Group]) -> str:
    """The page as one HTML text that includes Plotly."""
    data = json.dumps(page_data(found), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return template(
        "page.html",
        title=f"m2d-export: {found[0].bundle[:12]}",
        css=template("page.css"),
        sections="\n".join(map(_block, SECTIONS)),
        plotly=require("plotly.offline", "report").get_plotlyjs(),
        data=data.replace("<", "\\u003c"),  # "</script>" and "<!--" would end a script element
        script="\n".join(template(f"{name}.js") for name in SCRIPTS),
    )


def _block(section: Section) -> str:
    """The empty block of a section, which its script fills."""
    texts = {"title": escape(section.title), "about": escape(section.about)}
    return template("section.html", key=section.key, layout=section.layout, **texts)


def _check_target(target: Path) -> None:
    """Refuse to replace anything that is not an earlier report, or that holds more than one."""
    if not target.exists():
        return
    names = [path.name for path in target.iterdir()] if target.is_dir() else [target.name]
    ours = [name for name in names if name in (PAGE, MARKDOWN) or name.endswith(PICTURE)]
    page = target / PAGE
    made_here = page.is_file() and MADE_HERE in page.read_bytes()[:2000]
    if not target.is_dir() or len(ours) < len(names) or (names and not made_here):
        raise OutputError(f"{target} exists and is not a report: choose another path, or remove it yourself")
