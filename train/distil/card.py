"""The README of a distilled checkpoint."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.host.templates import markdown_text
from m2d_export.report.formatting import plain_table, score
from m2d_export.spec import Cell

from ..evaluate import Scores

HEAD = """---
{front}library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, 2d-matryoshka]
---

# {name}

A sentence encoder with **exits**, which are the layers after which it can stop: {layers}. It is a {architecture} with
{depth} layers and {width} dims.

It was made from {base} with texts, without labels. Exit {depth} is the base or close to it. The other exits
learned to give the similarities that the base gives.

At full depth it is an ordinary sentence-transformers model. `m2d-export build` makes an ONNX graph of each exit.

## Agreement with the base

Spearman x 100 between the cosines of pairs of held-out texts and those that the base gives, before -> after. All
choices were made on these texts too.
"""
ROTATED = (
    "the last Dense rotates the vectors, so they do not fit an index that the base made (--keep-space prevents it)"
)


def card(checkpoint: Checkpoint, name: str, before: Scores, after: Scores, facts: Mapping[str, Any]) -> str:
    """The README in Markdown; ``before`` and ``after`` are the grids, ``facts`` those of ``m2d.json``."""
    front = [f"license: {facts['license']}"] if facts["license"] else []
    front += [f"base_model: {facts['base']}"] if facts["revision"] else []
    head = HEAD.format(
        front="".join(f"{line}\n" for line in front),
        name=markdown_text(name),
        layers=", ".join(map(str, checkpoint.trained_layers or checkpoint.exits)),
        architecture=checkpoint.architecture,
        depth=checkpoint.depth,
        width=checkpoint.width,
        base=f"`{facts['base']}`",
    )
    stopped = "It was not measured, because the training was stopped before its end."
    grid = before_and_after(before, after) if after else stopped
    return "\n".join([head, grid, "", "## How it was made", "", _made(facts), ""])


def before_and_after(before: Scores, after: Scores) -> str:
    """A table in Markdown of the cells of ``after``, with the score of each before and after."""
    dims = sorted({cell.dim for cell in after}, reverse=True)
    rows = [
        [str(layer), *(f"{score(before.get(Cell(layer, dim)))} -> {score(after[Cell(layer, dim)])}" for dim in dims)]
        for layer in sorted({cell.layer for cell in after}, reverse=True)
    ]
    return plain_table(["exit", *(f"{dim} dims" for dim in dims)], rows)


def origin_lines(facts: Mapping[str, Any]) -> list[str]:
    """The base and the texts that a checkpoint was distilled from, in words."""
    texts = facts["texts"]
    origin = (
        f"revision {facts['revision']}" if facts["revision"] else f"a folder with fingerprint {facts['fingerprint']}"
    )
    mix = f"{texts['mix']:,} of the mix {texts['mix_source']}" if texts["mix"] else "no mix"
    return [
        f"base: {facts['base']}, {origin}",
        f"licence of the base: {facts['license'] or 'its card states none'}",
        f"texts: {texts['own']:,} of {texts['read']:,} in {texts['source']}, and {mix}",
        f"of these texts, {texts['held_out']:,} were held out",
        f"sha256 of the texts: {texts['sha256']}",
    ]


def license_of(folder: Path) -> str | None:
    """The licence that the card of a checkpoint states in its first lines; None if it states none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    block = re.match(r"\ufeff?---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)['\"]?[ \t]*$", block[1], re.MULTILINE) if block else None
    return found[1] if found else None


def _made(facts: Mapping[str, Any]) -> str:
    settings, seconds = facts["settings"], facts["seconds"]
    steps = f"{facts['steps']:,} steps" + (", stopped before the end" if facts["stopped"] else "")
    given = [(name, value) for name, value in settings.items() if value is not False and value is not None]
    lines = [
        *origin_lines(facts),
        f"seconds to solve the heads: {seconds['heads']:,.0f}",
        f"seconds of training, in all runs together: {seconds['training']:,.0f} ({steps})",
        f"machine: {facts['machine']}",
        f"options: {' '.join(_option(name, value) for name, value in given)}",
        "rotation: " + (ROTATED if facts["rotated"] else "none"),
        "versions: " + ", ".join(f"{package} {version}" for package, version in facts["versions"].items()),
    ]
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _option(name: str, value: Any) -> str:
    """A setting as an option of the command."""
    text = "" if value is True else f" {','.join(map(str, value)) if isinstance(value, list) else value}"
    return f"--{name.replace('_', '-')}{text}"
