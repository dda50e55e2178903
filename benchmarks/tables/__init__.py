"""Results files as Markdown: one function per question, each returns a table with its facts and its machine."""

import json
from typing import Any

from benchmarks.common import RESULTS

EXIT = 3  # the exit of the shipped checkpoint that pages quote


def result(name: str) -> dict[str, Any]:
    """A results file that holds one JSON object."""
    loaded: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return loaded


def not_yet(name: str, script: str) -> str | None:
    """What stands in the place of a table while its results file is missing; None if the file exists."""
    if (RESULTS / name).exists():
        return None
    return f"**There is no results file yet.** `python -m benchmarks.{script} -o benchmarks/results/{name}` writes one."


def times(ratio: float) -> str:
    """A ratio, as text."""
    return f"{ratio:.2f}x"


def bold_if_ours(name: str) -> str:
    """The name of a system, in bold if it is this package."""
    return f"**{name}**" if name.startswith("m2d-export") else name


def on(machine: dict[str, Any]) -> str:
    """The machine and the versions of a result."""
    versions = machine["versions"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, "
        f"onnxruntime {versions['onnxruntime']}, torch {versions['torch']}"
    )
