"""The report: a folder with a page that opens from disk, the same in Markdown, and pictures for a README."""

import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

from m2d_export.bench.records import Group, Record, groups
from m2d_export.errors import DataError, OutputError
from m2d_export.host.extras import require
from m2d_export.host.files import publish, staged_directory
from m2d_export.report.markdown import Pick, document, template
from m2d_export.report.page_data import group_data
from m2d_export.report.pictures import draw
from m2d_export.report.summary import mixed
from m2d_export.select.warnings import WORDS

PAGE, MARKDOWN, PICTURE = "index.html", "report.md", ".png"
MADE_HERE = b'<meta name="generator" content="m2d-export report">'
SCRIPTS = ("pick.js", "parts.js", "state.js", "charts.js", "budgets.js", "page.js")  # each uses those before it


def write_report(records: Sequence[Record], target: Path, pick: Pick | None = None) -> None:
    """Write the folder ``target`` from the records of one or more bundles and machines.

    ``pick`` is the rule of ``select``: candidates and a least retention in, its choice out; with it the
    Markdown lists what it picks. An earlier report is replaced; raises OutputError where ``target`` holds anything
    else, DataError without records, RuntimeUnavailable without the extra ``report``.
    """
    if not records:
        raise DataError("there are no results to report: run `m2d-export bench BUNDLE` first")
    target = target.absolute()
    _check_target(target)
    kept_apart = groups(records)
    with staged_directory(target) as staging:
        (staging / PAGE).write_text(page(kept_apart), encoding="utf-8")
        names = [draw(group, staging, f"-{place}" if place else "") for place, group in enumerate(kept_apart)]
        (staging / MARKDOWN).write_text(document(kept_apart, names, pick), encoding="utf-8")
        publish(staging, target, replace=True)


def page(kept_apart: Sequence[Group]) -> str:
    """The page as one HTML text, Plotly in it."""
    told = [{**group_data(group), "selectable": group is _last_of_bundle(kept_apart, group)} for group in kept_apart]
    data = {"groups": told, "mixed": mixed(kept_apart), "words": WORDS}
    # No "</script>" or "<!--" may stand inside a script element.
    embedded = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Template(template("page.html")).substitute(
        title=f"m2d-export: {kept_apart[0].bundle[:12]}",
        css=template("page.css"),
        plotly=require("plotly.offline", "report").get_plotlyjs(),
        data=embedded,
        script="\n".join(template(name) for name in SCRIPTS),
    )


def _last_of_bundle(kept_apart: Sequence[Group], group: Group) -> Group:
    """Of a bundle's groups the one that ``select`` goes by: that of the machine which measured last."""
    own = [other for other in kept_apart if other.bundle == group.bundle]
    return max(own, key=lambda other: max(record.get("time") or "" for record in other.records))


def _check_target(target: Path) -> None:
    """Refuse to replace what is not an earlier report, or holds more than one."""
    if not target.exists():
        return
    names = [path.name for path in target.iterdir()] if target.is_dir() else [target.name]
    ours = [name for name in names if name in (PAGE, MARKDOWN) or name.endswith(PICTURE)]
    page = target / PAGE
    if not target.is_dir() or len(ours) < len(names) or (names and not _made_here(page)):
        raise OutputError(f"{target} exists and is not a report: choose another path, or remove it yourself")


def _made_here(page: Path) -> bool:
    return page.is_file() and MADE_HERE in page.read_bytes()[:2000]
