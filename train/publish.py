"""A trained model as a folder: sentence-transformers' own, with the heads, ``m2d.json`` and a card beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from m2d_export.checkpoints.load import load_checkpoint, quietly
from m2d_export.host.files import publish, remove_stale, staged_directory, writing
from train.card import card
from train.evaluate import Judge, Scored
from train.live import draw
from train.log import Trained
from train.work import Job

SETTINGS, CARD, PICTURE = "m2d.json", "README.md", "grid.png"
TOKENIZER = "tokenizer_config.json"
HOW_LOADED = ("is_local", "local_files_only")  # transformers writes down how it was called: no part of a tokenizer


def publish_checkpoint(job: Job, trained: Trained, facts: Mapping[str, Any], target: Path) -> dict[str, Scored]:
    """Write the checkpoint to ``target``, whole or not at all; returns what its own files score, by split.

    ``facts`` go into ``m2d.json`` and the card as they are. Where weights are stored in fp16, the config keeps saying
    float32, so that they are computed with in float32.
    """
    layers, dims = job.layers, job.recipe.dims
    remove_stale(target)
    with staged_directory(target) as staging, writing(target):
        with quietly():
            job.checkpoint.original.to("cpu").save(str(staging), create_model_card=False)
            for layer, head in trained.heads.items():
                folder = staging / "exits" / str(layer)
                folder.mkdir(parents=True)
                head.cpu().save(str(folder))  # type: ignore[operator]  # sentence-transformers' own
        _forget_loading(staging / TOKENIZER)
        if job.half:
            for path in staging.rglob("*.safetensors"):
                _halve(path)
        settings = {"format": 1, "layers": list(layers), "dims": list(dims), "heads": sorted(trained.heads)}
        _write_json(staging / SETTINGS, settings)
        # Judged from its own files, as whoever loads them will find it.
        loaded = load_checkpoint(str(staging))
        judges = {name: Judge(loaded, pairs, layers, dims) for name, pairs in job.data.judged().items()}
        scored = {name: judge.scored() for name, judge in judges.items()}
        shown = {name: {str(cell): value for cell, value in found.grid.items()} for name, found in scored.items()}
        metrics = {name: dict(found.metrics) for name, found in scored.items()}
        _write_json(staging / SETTINGS, {**settings, **facts, "scores": shown, "metrics": metrics})
        if trained.log:
            draw(trained.log, staging / PICTURE)
        (staging / CARD).write_text(card(loaded, layers, dims, scored, facts), encoding="utf-8")
        publish(staging, target, replace=trained.lost is not None)  # the last good one, of an earlier attempt
    return scored


def _forget_loading(path: Path) -> None:
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        _write_json(path, {key: value for key, value in settings.items() if key not in HOW_LOADED})


def _halve(path: Path) -> None:
    tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
