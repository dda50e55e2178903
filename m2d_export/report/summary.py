"""What a report says in words about a group of records: the page and its Markdown twin say the same."""

from collections import Counter
from collections.abc import Sequence

from m2d_export.bench.metrics import candidates, cascades, full_cell, full_record, full_score, latencies, stored
from m2d_export.bench.quantities import Candidate, Setup, View
from m2d_export.bench.records import HARDWARE, Group, Record, hardware, measured, unmeasured
from m2d_export.select.pareto import front
from m2d_export.spec import Cell

# A section of the report, and what of bench fills it.
SECTIONS = {
    "pick": ("the pick", "scores, agreement or retrieval"),
    "grid": ("the grid", "scores, agreement or retrieval"),
    "front": ("score against throughput", "both scores and latencies"),
    "latency": ("latency", "latencies"),
    "cascade": ("cascade", "bench --retrieval FOLDER"),
    "storage": ("index size", "scores of stored vectors"),
    "cells": ("all cells", "scores, agreement or retrieval"),
}


def sections(records: Sequence[Record], view: View) -> list[str]:
    """The names in SECTIONS that these records fill."""
    cells = candidates(records, view)
    timings = latencies(records)
    filled = {
        **dict.fromkeys(("grid", "cells"), bool(cells)),
        "pick": any((cell.score, cell.ndcg, cell.agreement) != (None, None, None) for cell in cells),
        "front": bool(front(cells)),
        "latency": bool(timings),
        "cascade": bool(cascades(records)),
        "storage": bool(stored(records, view.sts)),
    }
    return [name for name in SECTIONS if filled[name]]


def omitted(records: Sequence[Record], view: View) -> str:
    """One line on the sections left out for want of records, or nothing."""
    there = sections(records, view)
    absent = [f"{title} (needs {needs})" for name, (title, needs) in SECTIONS.items() if name not in there]
    return f"Left out, because the results do not hold it: {', '.join(absent)}." if absent else ""


def lead(group: Group, view: View, label: str) -> str:
    """Whose results these are, and what the full cell scores."""
    record = group.records[-1]
    said = [f"{record['architecture']}, {record['depth']} layers, {record['width']} dims."]
    full, score = full_record(group.records, view.sts), full_score(group.records, view.sts)
    if full is not None and score is not None and Cell(full["layer"], full["dim"]) == full_cell(group.records):
        ends = f" [{full['interval'][0]:.1f}, {full['interval'][1]:.1f}]" if full.get("interval") else ""
        said.append(f"The full cell, {full['layer']} × {full['dim']} in {full['precision']}, scores {score:.1f}{ends}")
        said[-1] += f" on {label}."
    return " ".join([*said, f"Measured on {machine_name(group)}, {days(group.records)}."])


def group_name(group: Group) -> str:
    """A bundle and a machine in a few words."""
    return f"bundle {group.bundle[:12]} on {machine_name(group)}"


def mixed(groups: Sequence[Group]) -> str | None:
    """What to say where results of several bundles or machines stand in one file."""
    if len(groups) == 1:
        return None
    bundles = len({group.bundle for group in groups})
    machines = len({hardware(group.records[0]) for group in groups})
    what = " and ".join(f"{count} {name}s" for count, name in ((bundles, "bundle"), (machines, "machine")) if count > 1)
    return f"These results come from {what}. They do not compare, and are kept apart."


def machine_name(group: Group) -> str:
    """The processor and how many cores of it were used, and the GPU where there is one."""
    gpu = group.machine.get("gpu")
    return f"{group.machine.get('cpu')} ({group.machine.get('cores')} cores)" + (f" with {gpu}" if gpu else "")


def days(records: Sequence[Record]) -> str:
    """The day of the first and of the last record."""
    times = sorted(record["time"][:10] for record in records if record.get("time"))
    return times[0] if not times or times[0] == times[-1] else f"{times[0]} to {times[-1]}"


def facts(group: Group) -> list[tuple[str, str]]:
    """The machine, the versions and what was counted, as names and texts."""
    machine = group.machine
    titles = zip(HARDWARE, ("processor", "cores", "memory, GB", "system", "GPU"), strict=True)
    counts = Counter(record["kind"] for record in measured(group.records))
    return [
        ("bundle", group.bundle),
        ("checkpoint", str(group.records[-1].get("fingerprint"))),
        *((title, str(machine[name])) for name, title in titles if machine.get(name) is not None),
        ("python", machine.get("python", "unknown")),
        ("versions", versions(group)),
        ("providers", ", ".join(sorted({str(record["provider"]) for record in measured(group.records)}))),
        ("measured", f"{days(group.records)} (UTC)"),
        ("results", ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"),
    ]


def versions(group: Group) -> str:
    """Every package with its version, or with all of them where it was upgraded between two results."""
    found: dict[str, dict[str, None]] = {}
    for record in group.records:
        for package, version in record["machine"].get("versions", {}).items():
            found.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' then '.join(several)}" for package, several in found.items())


def commands(group: Group) -> list[str]:
    """The distinct command lines behind the records."""
    return list(dict.fromkeys(record["command"] for record in group.records if record.get("command")))


def failures(group: Group) -> list[str]:
    """One line for each failed or interrupted record."""
    lines = []
    for record in unmeasured(group.records):
        names = ("layer", "dim", "batch_size", "tokens", "precision", "runtime")
        where = ", ".join(f"{name.replace('_', ' ')} {record[name]}" for name in names if record.get(name) is not None)
        lines.append(f"{record['kind']}, {where}: {record['status']}; {record.get('error') or 'no reason recorded'}")
    return lines


def setup_labels(setups: Sequence[Setup]) -> dict[Setup, str]:
    """A short name for each setup: precision and runtime, and what else tells them apart."""
    several = {name: len({getattr(setup, name) for setup in setups}) > 1 for name in ("compute", "provider", "threads")}
    plain = all(setup.compute == setup.precision for setup in setups)
    labels = {}
    for setup in setups:
        parts = [setup.precision, setup.runtime]
        if several["compute"] and not plain:
            parts.append(f"computed in {setup.compute}")
        if several["provider"]:
            parts.append(setup.provider)
        if several["threads"] and setup.threads is not None:
            parts.append(f"{setup.threads} threads")
        labels[setup] = " · ".join(parts)
    return labels


def setups_of(records: Sequence[Record], cells: Sequence[Candidate]) -> list[Setup]:
    """Every setup that has figures, cells first, then those of other kinds."""
    timed, passed = latencies(records), cascades(records)
    return list(dict.fromkeys(item.setup for items in (cells, timed, passed) for item in items))
