"""The model card of a trained checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.host.templates import markdown_text
from m2d_export.report.formatting import plain_table, score
from m2d_export.spec import Cell

from .distil.card import origin_lines
from .evaluate import Scores, SplitScores
from .recipes import CARD

HEAD = """---
{front}library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, 2d-matryoshka]
---

# {name}

A 2D-Matryoshka sentence encoder with {layers} **exits**, which are the layers after which it can stop. Its vectors can
be cut to fewer numbers (**dims**).
It is a {architecture} with {depth} layers and {width} dims, trained from `{base}` on {train} sentence pairs{texts}.

At full depth it is an ordinary sentence-transformers model:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}", truncate_dim={dim})
vectors = model.encode(["A parrot is talking."])
```

`m2d-export build` makes an ONNX graph of each exit. {one_exit}"""
SLICE = "`m2d-export slice --cell {cell}` writes one exit as an ordinary\nsentence-transformers folder."
ONNX = "`m2d-export onnx --cell {cell}` writes one exit as an\nONNX folder for other tools."  # slice refuses it


def card(
    checkpoint: Checkpoint,
    layers: Sequence[int],
    dims: Sequence[int],
    scores: Mapping[str, SplitScores],
    facts: Mapping[str, Any],
) -> str:
    """The card in Markdown; ``scores`` are by split, ``facts`` are those of ``m2d.json``."""
    distillation, small = facts.get("distillation", {}), Cell(min(layers), max(dims))
    licence, head = distillation.get("license"), checkpoint.heads.get(small.layer)
    top = HEAD.format(
        front=f"license: {licence}\n" if licence else "",
        name=facts["name"],
        layers=len(layers),
        architecture=checkpoint.architecture,
        depth=checkpoint.depth,
        width=checkpoint.width,
        base=facts["base"],
        train=f"{facts['data']['pairs']['train']:,}",
        dim=dims[min(1, len(dims) - 1)],
        texts=f", and on texts with the vectors of `{distillation['base']}`" if distillation else "",
        one_exit=(SLICE if head is None or head.spec.is_plain else ONNX).format(cell=small),
    )
    parts = [top]
    for split, found in scores.items():
        parts += [f"## Scores on {split}", "Spearman of cosine x 100 at every cell:", _grid(found.grid, layers, dims)]
        rows = [[f"`{metric}`", _number(value, 4)] for metric, value in found.metrics.items()]
        parts += [f"The full cell, {max(layers)} layers and {max(dims)} dims:", plain_table(["metric", split], rows)]
    if "agreement" in facts:
        grid = {Cell.parse(cell): value for cell, value in facts["agreement"].items()}
        what = (
            "Spearman x 100 between the cosines of pairs of held-out texts and those that "
            f"`{distillation['base']}` gives:"
        )
        parts += ["## Agreement with the base", what, _grid(grid, layers, dims)]
    parts += ["## Training", _training(facts)]
    if facts["differences"]:
        parts += [f"Differences to the training of {CARD}:", "\n".join(f"- {line}" for line in facts["differences"])]
    if facts["log"]:
        parts += ["## Training log", "![dev scores](grid.png)", _log(facts["log"], layers, dims)]
    return "\n\n".join(parts) + "\n"


def _training(facts: Mapping[str, Any]) -> str:
    data, energy = facts["data"], facts["energy"]
    used = energy["note"] if energy["kwh"] is None else f"{energy['kwh']:.3f} kWh, {energy['co2_kg']:.3f} kg CO2"
    since = " since the last stop" if facts["resumed"] else ""
    lines = [
        f"recipe: {facts['recipe']} ({', '.join(_settings(facts['settings'], data['unlabelled']))})",
        f"data: {data['source']}, scores from {data['scale'][0]:g} to {data['scale'][1]:g}, "
        + ", ".join(f"{count:,} {split}" for split, count in data["pairs"].items())
        + (f", and {data['unlabelled']:,} sentences without scores" if data["unlabelled"] else ""),
        f"pairs of train that are also in another split: {sum(data['overlap'].values())}",
        f"{facts['seconds'] / 60:.0f} minutes{since} on {facts['machine']}, {facts['precision']}",
        f"energy: {used}" + ("" if energy["kwh"] is None else f" ({energy['note']})"),
        *(start_lines(facts["start"]) if "start" in facts else []),
        *(f"distillation, {line}" for line in (origin_lines(facts["distillation"]) if "distillation" in facts else [])),
        "versions: " + ", ".join(f"{package} {version}" for package, version in facts["versions"].items()),
    ]
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def start_lines(stated: Mapping[str, Any]) -> list[str]:
    """How the checkpoint that a training begins with was made, as its m2d.json states it."""
    made = f"start: {stated.get('recipe', 'a recipe that its m2d.json does not state')}"
    if "seconds" in stated and "steps" in stated:
        seconds = sum(stated["seconds"].values())
        made += f", {stated['steps']:,} steps of {stated['batch']} texts in {seconds:,.0f} s on {stated['machine']}"
    if "made" in stated:
        made += f", {stated['made']}"
    weights = stated.get("weights")
    return [made, *([f"weights of the start: {weights['file']}, sha256 {weights['sha256']}"] if weights else [])]


def _settings(settings: Mapping[str, Any], unlabelled: int) -> list[str]:
    """The settings of a recipe and of its loss in words, without the number of sentences that were not given."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            parts += [f"{key} {name} {number:g}" for name, number in value.items()]
        elif key != "unlabelled" or unlabelled:
            shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            parts.append(f"{key} {shown}")
    return [part.replace("_", " ") for part in parts]


def _grid(grid: Scores, layers: Sequence[int], dims: Sequence[int]) -> str:
    rows = [[str(layer), *(score(grid[Cell(layer, dim)]) for dim in dims)] for layer in reversed(layers)]
    return plain_table(["layer", *(f"{dim} dims" for dim in dims)], rows)


def _log(log: Sequence[Mapping[str, Any]], layers: Sequence[int], dims: Sequence[int]) -> str:
    cells = {"full": Cell(max(layers), max(dims)), "smallest": Cell(min(layers), min(dims))}
    head = ["step", "loss", *(f"dev, {name} cell ({cell})" for name, cell in cells.items())]
    rows = [
        [str(entry["step"]), _number(entry["loss"], 4), *(_number(entry["dev"][str(c)], 2) for c in cells.values())]
        for entry in log
    ]
    return plain_table(head, rows)


def _number(value: float | None, places: int) -> str:
    return score(None) if value is None else f"{value:.{places}f}"
