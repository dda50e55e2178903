"""Write the report: a folder with a page that needs no server, a short version in Markdown, and pictures."""

import json
import re
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from m2d_export.bench.records import Group, Record, groups
from m2d_export.errors import DataError
from m2d_export.host import templates
from m2d_export.host.extras import require
from m2d_export.host.files import check_parent, followed, writing
from m2d_export.host.folders import check_replaceable, other_file, publish, staged_directory
from m2d_export.report.data import page_data
from m2d_export.report.markdown import document
from m2d_export.report.pictures import draw
from m2d_export.report.results import Results
from m2d_export.report.sections import SECTIONS, Section

PAGE, MARKDOWN = "index.html", "report.md"
FILES = re.compile(rb'<meta name="generator" content="m2d-export report" data-files="([^"]*)">')  # the report's files
# A script uses only scripts that come before it.
SCRIPTS = ("parts", "state", "rule", "charts", *(f"section_{section.key}" for section in SECTIONS), "page")
template = partial(templates.template, "m2d_export.report")


def write_report(records: Sequence[Record], target: str | Path) -> None:
    """Write the folder ``target`` from the records of one or more bundles and machines. Replace an earlier report.

    Raises OutputError if ``target`` has a file that no report wrote, DataError if there are no records, and
    RuntimeUnavailable if the extra ``report`` is not installed.
    """
    if not records:
        raise DataError("there are no results to report: run `m2d-export bench BUNDLE` first")
    target = followed(target)
    with writing(target):
        check_parent(target)
        if target.exists() or target.is_symlink():
            check_replaceable(target, _why_not_replaced, target)
    found = groups(records)
    with staged_directory(target) as staging, writing(target):
        pictures = [draw(Results.of(group), staging, f"-{place}" if place else "") for place, group in enumerate(found)]
        (staging / MARKDOWN).write_text(document(found, pictures), encoding="utf-8")
        names = [PAGE, *sorted(path.name for path in staging.iterdir())]
        (staging / PAGE).write_text(page(found, names), encoding="utf-8")
        publish(staging, target, _why_not_replaced)


def page(found: Sequence[Group], files: Sequence[str] = (PAGE,)) -> str:
    """Make the page: one HTML text that contains Plotly and the names of the report's ``files``."""
    data = json.dumps(page_data(found), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return template(
        "page.html",
        title=escape(f"m2d-export: {found[0].bundle[:12]}"),
        files=" ".join(files),
        css=template("page.css"),
        sections="\n".join(map(_block, SECTIONS)),
        plotly=require("plotly.offline", "report").get_plotlyjs(),
        data=data.replace("<", "\\u003c"),  # "</script>" and "<!--" would break the script element
        script="\n".join(template(f"{name}.js") for name in SCRIPTS),
    )


def _block(section: Section) -> str:
    """The empty block of a section. The script of the section fills it."""
    texts = {"title": escape(section.title), "about": escape(section.about)}
    return template("section.html", key=section.key, layout=section.layout, **texts)


def _why_not_replaced(folder: Path) -> str | None:
    """Why a report must not replace ``folder``, or None if it may.

    A report replaces a folder only if the page in this folder lists all files.
    """
    if not folder.is_dir():
        return "exists and is not a report"
    page = folder / PAGE
    found = FILES.search(page.read_bytes()[:2000]) if page.is_file() else None
    return other_file(folder, found[1].decode("utf-8", "replace").split() if found else (), "a report")
