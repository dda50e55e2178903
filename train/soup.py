"""The mean of several runs' weights: ``python -m train.soup DATA RUN RUN .. -o OUT``.

Runs of one recipe from one checkpoint that differ in their seed lie close enough together for their mean to be a
model, and a better one than each (Wortsman et al. 2022, "Model soups").
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from m2d_export.checkpoint import load_checkpoint, quietly
from m2d_export.cli import CONTEXT, run
from m2d_export.cli.common import examples
from m2d_export.errors import CheckpointError, OutputError
from train.data import load_data
from train.live import grid_table, screen
from train.log import Trained
from train.losses import LossWeights
from train.publish import SETTINGS, publish_checkpoint
from train.recipes import GridRecipe
from train.work import Job

SAME = ("layers", "dims", "heads", "base", "recipe", "settings", "data", "precision", "versions")


@click.command(context_settings=CONTEXT, epilog=examples("python -m train.soup ./stsb run42 run43 run44 -o minilm-2d"))
@click.argument("data")
@click.argument("runs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--half", is_flag=True, help="Store the weights in fp16.")
def main(data: str, runs: tuple[str, ...], output: Path, half: bool) -> None:
    """Average the weights of RUNS, folders that the grid recipe wrote, and score the result on DATA."""
    target = output.expanduser().absolute()
    if target.exists() or target.is_symlink():
        raise OutputError(f"{output} exists: choose another --output, or remove it yourself")
    facts = [_facts(Path(folder)) for folder in runs]
    recipe = _same_recipe(runs, facts)
    with quietly():
        checkpoints = [load_checkpoint(folder) for folder in runs]
    mean = checkpoints[0]
    for layer, head in mean.heads.items():
        _average(head, [checkpoint.heads[layer] for checkpoint in checkpoints])
    _average(mean.original, [checkpoint.original for checkpoint in checkpoints])
    job = Job(facts[0]["base"], mean, load_data(data), recipe, "cpu", facts[0]["precision"], target, half)
    with screen() as shown:
        scored = publish_checkpoint(job, Trained(mean.heads, ()), _together(facts, target.name), target)
        for name, found in scored.items():
            shown.console.print(grid_table(found.grid, None, f"{name} at the end"))


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no {SETTINGS}: give folders that python -m train wrote") from error
    if facts.get("recipe") != "grid":
        raise CheckpointError(f"{folder} was not trained by the grid recipe: only its runs can be averaged")
    return facts


def _same_recipe(runs: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> GridRecipe:
    """The recipe of all runs; raises CheckpointError where they differ in more than their seed."""
    first = _comparable(facts[0])
    for folder, other in zip(runs, map(_comparable, facts), strict=True):
        differing = [key for key in first if first[key] != other[key]]
        if differing:
            said = ", ".join(differing)
            raise CheckpointError(f"{folder} differs from {runs[0]} in {said}: average runs of one recipe")
    settings = facts[0]["settings"]
    lists = {key: tuple(settings[key]) for key in ("layers", "dims")}
    return GridRecipe(**{**settings, **lists, "weights": LossWeights(**settings["weights"])})


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: facts.get(key) for key in SAME}
    return {**found, "settings": {**facts["settings"], "seed": None}}


@torch.no_grad()
def _average(into: nn.Module, modules: Sequence[nn.Module]) -> None:
    """Give ``into`` the mean of the weights of ``modules``, itself perhaps among them."""
    states = [module.state_dict() for module in modules]
    into.load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
            for name, value in states[0].items()
        }
    )


def _together(facts: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """What ``m2d.json`` and the card say of a soup: as of its first run, but for what adds up."""
    energies = [run["energy"] for run in facts]
    spent = {
        key: None if any(energy[key] is None for energy in energies) else sum(energy[key] for energy in energies)
        for key in ("kwh", "co2_kg")
    }
    return {
        **{key: value for key, value in facts[0].items() if key not in ("scores", "metrics")},
        "name": name,
        "seeds": [run["settings"]["seed"] for run in facts],
        "seconds": round(sum(run["seconds"] for run in facts), 1),
        "resumed": any(run["resumed"] for run in facts),
        "energy": {**energies[0], **spent},
        "log": [],
    }


if __name__ == "__main__":
    run(main)
