"""Write sentences about a group of records. The page and its Markdown file show the same sentences."""

from collections import Counter
from collections.abc import Sequence

from m2d_export.bench.metrics import full_cell, full_record, full_score
from m2d_export.bench.record_schema import HARDWARE
from m2d_export.bench.records import Group, Record, hardware, measured, unmeasured
from m2d_export.report.formatting import interval
from m2d_export.report.results import Results
from m2d_export.spec import Cell


def lead(results: Results) -> str:
    """Name the encoder and the machine of the results, and the score of the full cell."""
    group, sts = results.group, results.view.sts
    record = group.records[-1]
    sentences = [f"{record['architecture']}, {record['depth']} layers, {record['width']} dims."]
    full, score = full_record(group.records, sts), full_score(group.records, sts)
    if full is not None and score is not None and Cell(full["layer"], full["dim"]) == full_cell(group.records):
        value = f"{score:.1f} {interval(full.get('interval'))}".strip()
        name = f"{full['layer']} × {full['dim']} in {full['precision']}"
        sentences.append(f"The full cell, {name}, scores {value} on {results.label}.")
    return " ".join([*sentences, f"Measured on {machine_name(group)}, {days(group.records)}."])


def group_name(group: Group) -> str:
    """Name the bundle and the machine of a group in a few words."""
    return f"bundle {group.bundle[:12]} on {machine_name(group)}"


def mixed(groups: Sequence[Group]) -> str | None:
    """Return a note if a file has results of several bundles or machines."""
    if len(groups) == 1:
        return None
    bundles = len({group.bundle for group in groups})
    machines = len({hardware(group.records[0]) for group in groups})
    what = " and ".join(f"{count} {name}s" for count, name in ((bundles, "bundle"), (machines, "machine")) if count > 1)
    return f"These results come from {what}. They cannot be compared, and are shown separately."


def machine_name(group: Group) -> str:
    """The processor with its number of cores, and the GPU if there is one."""
    gpu = group.machine.get("gpu")
    return f"{group.machine.get('cpu')} ({group.machine.get('cores')} cores)" + (f" with {gpu}" if gpu else "")


def days(records: Sequence[Record]) -> str:
    """The day of the first record and the day of the last record."""
    times = sorted(record["time"][:10] for record in records if record.get("time"))
    return times[0] if not times or times[0] == times[-1] else f"{times[0]} to {times[-1]}"


def facts(group: Group) -> list[tuple[str, str]]:
    """The machine, the versions and the number of results, as (name, text) pairs."""
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
    """Every package with its version. A package has several versions if it was changed between two results."""
    found: dict[str, dict[str, None]] = {}
    for record in group.records:
        for package, version in record["machine"].get("versions", {}).items():
            found.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' then '.join(several)}" for package, several in found.items())


def commands(group: Group) -> list[str]:
    """The different command lines that made the records."""
    return list(dict.fromkeys(record["command"] for record in group.records if record.get("command")))


def failures(group: Group) -> list[str]:
    """Write one line for each record that failed or was interrupted."""
    lines = []
    for record in unmeasured(group.records):
        names = ("layer", "dim", "batch_size", "tokens", "precision", "runtime")
        where = ", ".join(f"{name.replace('_', ' ')} {record[name]}" for name in names if record.get(name) is not None)
        lines.append(f"{record['kind']}, {where}: {record['status']}; {record.get('error') or 'no reason recorded'}")
    return lines
