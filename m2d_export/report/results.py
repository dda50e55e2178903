"""One group of records, with the values of the default view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2d_export.bench.metrics import candidates, cascades, latencies
from m2d_export.bench.records import Group
from m2d_export.bench.values import Candidate, Cascade, Setup, Timing, View
from m2d_export.bench.views import sts_labels, view_of


@dataclass(frozen=True)
class Results:
    """What a report shows of one bundle on one machine, in the default ``view``.

    ``label`` is that of the STS set. ``labels`` are the short names of the setups.
    """

    group: Group
    view: View
    label: str
    cells: Sequence[Candidate]
    timings: Sequence[Timing]
    cascades: Sequence[Cascade]
    labels: Mapping[Setup, str]

    @classmethod
    def of(cls, group: Group, view: View | None = None) -> "Results":
        """Derive everything from the records of a group; by default ``view_of`` chooses the view."""
        records, view = group.records, view or view_of(group.records)
        cells, timings, passed = candidates(records, view), latencies(records), cascades(records)
        setups = dict.fromkeys(item.setup for items in (cells, timings, passed) for item in items)
        label = sts_labels(records).get(view.sts or "", "")
        return cls(group, view, label, cells, timings, passed, setup_labels([*setups]))


def setup_labels(setups: Sequence[Setup]) -> dict[Setup, str]:
    """A short name for each setup: precision and runtime, and what else is needed to tell them apart."""
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
