"""Write a trained model as a sentence-transformers folder, with its heads, ``m2d.json``, a card and a picture."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from m2d_export.checkpoints.folder import EXITS
from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint, quietly
from m2d_export.host.files import writing
from m2d_export.host.folders import other_file, publish, staged_directory

from .card import card
from .evaluate import Evaluator, SplitScores
from .job import Job
from .log import Trained
from .picture import draw

SETTINGS, CARD, PICTURE = "m2d.json", "README.md", "grid.png"
TOKENIZER = "tokenizer_config.json"
LOADING = ("is_local", "local_files_only")  # transformers saves its own arguments, which are no part of a tokenizer


def publish_checkpoint(job: Job, trained: Trained, facts: Mapping[str, Any], target: Path) -> dict[str, SplitScores]:
    """Write the checkpoint to ``target``, whole or not at all; returns the scores of its files, by split.

    ``facts`` go into ``m2d.json`` and the card. If the weights are stored in fp16, the config still says float32, so
    that libraries compute in float32.
    """
    layers, dims, made = job.layers, job.recipe.dims, trained.checkpoint
    with staged_directory(target) as staging, writing(target):
        save_model(made, staging)
        if job.half:
            for path in staging.rglob("*.safetensors"):
                _store_in_half(path)
        settings = stated(layers, dims, made.heads)
        write_json(staging / SETTINGS, settings)
        # The files are scored, not the model in memory: fp16 weights differ.
        loaded = load_checkpoint(str(staging))
        if job.recipe.keeps_space:
            rotation = None if made.rotation is None else digest_of(loaded.tail[-1])
            settings |= {"space": made.space, "rotation": rotation}
        scores = {name: Evaluator(loaded, pairs, layers, dims).scores() for name, pairs in job.data.held_out().items()}
        grids = {name: {str(cell): value for cell, value in found.grid.items()} for name, found in scores.items()}
        metrics = {name: dict(found.metrics) for name, found in scores.items()}
        found = {**facts, **job.measured(loaded)}
        write_json(staging / SETTINGS, {**settings, **found, "scores": grids, "metrics": metrics})
        if trained.log:
            draw(trained.log, staging / PICTURE)
        (staging / CARD).write_text(card(loaded, layers, dims, scores, found), encoding="utf-8")
        written = {path.relative_to(staging).as_posix() for path in staging.rglob("*")}
        why_not_replaced = partial(other_file, known=written, owner="the checkpoint")
        publish(staging, target, why_not_replaced if trained.failure else None)  # a resumed training may fail again
    return scores


def save_model(checkpoint: Checkpoint, folder: Path) -> None:
    """Save a checkpoint with its heads and its table in the empty ``folder``, without m2d.json."""
    with quietly():
        checkpoint.original.to("cpu").save(str(folder), create_model_card=False)
        for layer, head in checkpoint.heads.items():
            path = folder / EXITS / str(layer)
            path.mkdir(parents=True)
            head.dense.cpu().save(str(path))  # type: ignore[operator]  # sentence-transformers' own
    if checkpoint.table is not None:
        _save_table(checkpoint, folder / EXITS / "0")
    _drop_loading(folder / TOKENIZER)


def _save_table(checkpoint: Checkpoint, folder: Path) -> None:
    """The table of exit 0, as a StaticEmbedding of sentence-transformers."""
    folder.mkdir(parents=True)
    table: Any = checkpoint.table
    save_file({"embedding.weight": table.weight.detach().cpu().contiguous()}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")


def digest_of(dense: Any) -> str:
    """The sha256 of the matrix of a Dense that rotates vectors, as m2d.json states it."""
    return hashlib.sha256(dense.linear.weight.detach().numpy().tobytes()).hexdigest()


def stated(layers: Iterable[int], dims: Iterable[int], heads: Mapping[int, Head]) -> dict[str, Any]:
    """What m2d.json says of every checkpoint that was trained here."""
    specs = [asdict(head.spec) for _, head in sorted(heads.items())]
    return {"format": 1, "layers": list(layers), "dims": list(dims), "heads": specs}


def _drop_loading(path: Path) -> None:
    """Remove the arguments of loading from the file of a tokenizer's settings, if there is one."""
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {key: value for key, value in settings.items() if key not in LOADING})


def _store_in_half(path: Path) -> None:
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of JSON that people can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
