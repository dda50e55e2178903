"""Prepare the systems, let them take turns, collect the results."""

import csv
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.peers.child import (
    HERE,
    CannotRunError,
    Child,
    LacksFlagError,
    python_of,
    run,
    variables,
    versions,
)
from benchmarks.peers.systems import OURS, SYSTEMS, WEIGHTS, System
from m2d_export import Bundle
from m2d_export.bench.similarity import spearman
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.host.files import sha256_of
from m2d_export.host.machine import kernel_flags
from m2d_export.host.machine import versions as own_versions
from m2d_export.vectors import FloatArray, cosine

SINGLES = 50  # texts encoded one at a time in a turn
# A turn of single texts takes 0.1 s, but a shared machine is slow or fast for whole seconds. With many short turns,
# every system meets both.
SINGLE_TURNS = 10
REST = 0.5  # seconds before a turn, in which the threads of the last system stop spinning
SHORT_REST = 0.1  # before a turn of single texts
OWN = ("m2d-export", "numpy", "tokenizers", "onnxruntime", "openvino")
BUILD = ("torch", "transformers", "onnx-ir", "onnxscript")  # packages that our graphs depend on
REFERENCE = "sentence-transformers torch fp32"


@dataclass(frozen=True)
class Place:
    """The folders of a run, and its number of threads."""

    work: Path
    checkpoint: Path
    stsb: Path
    threads: int

    def folder(self, name: str) -> Path:
        """The folder that a system opens."""
        return self.checkpoint if name == "checkpoint" else self.work / name

    def log(self, name: str) -> Path:
        """The log of a step or a system."""
        return self.work / "logs" / f"{name.replace(' ', '_')}.log"


def opened(system: System, place: Place) -> Child:
    """Install the environment of a system, make its files, load its worker. Raises CannotRunError."""
    if system.needs and system.needs not in kernel_flags():
        raise LacksFlagError(f"this CPU has no {system.needs}")
    python = python_of(system.environment, place.work)
    _exported(system, place)
    settings = {**system.settings, "path": str(place.folder(system.folder)), "threads": place.threads}
    environment = variables(system.environment, place.work, place.threads)
    return Child(python, settings, place.log(system.name), environment)


def _exported(system: System, place: Place) -> None:
    """Make the files that a system needs and that are not there yet."""
    if system.environment == OURS:
        checkpoint = place.checkpoint if system.folder == WEIGHTS else common.ROOT / "models" / system.folder
        command = [sys.executable, "-m", "m2d_export", "build", str(checkpoint), "--precision", "fp32,int8", "--force"]
        made_by = [*sorted((common.ROOT / "m2d_export").rglob("*.py")), *sorted(checkpoint.rglob("*.json"))]
        made_by += sorted(checkpoint.rglob("*.safetensors"))
        _once("build", [*command, "-o", str(place.folder(system.folder))], system.folder, OURS, made_by, place)
    maker = system.folder  # exports are in a folder with the name of the environment that makes them
    for step in system.exports:
        command = [str(python_of(maker, place.work)), "-P", str(HERE / "exports.py"), step, str(place.checkpoint)]
        command += [str(place.folder(maker)), *([str(_calibration(place))] if step == "static" else [])]
        made_by = [HERE / "exports.py", HERE / f"{maker}.txt", place.checkpoint / "model.safetensors"]
        _once(step, command, maker, maker, made_by, place)


def _once(step: str, command: list[str], folder: str, environment: str, made_by: Sequence[Path], place: Place) -> None:
    """Run a step for ``folder``, unless the same programs have run it with the same weights before."""
    done, stamp = place.work / f".{folder}.{step}", " ".join(sha256_of(path) for path in made_by)
    stamp += json.dumps(own_versions(BUILD)) if environment == OURS else ""
    if done.exists() and done.read_text(encoding="utf-8") == stamp:
        return
    done.unlink(missing_ok=True)
    run(command, place.log(f"{folder} {step}"), variables(environment, place.work, place.threads))
    done.write_text(stamp, encoding="utf-8")


def _calibration(place: Place) -> Path:
    """A folder with the sentences of STS-B train, which a peer can open as a dataset."""
    folder = place.work / "calibration"
    folder.mkdir(exist_ok=True)
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        texts = load_pairs(str(place.stsb / "train.csv")).texts
        csv.writer(file).writerows([["sentence"], *([text] for text in texts)])
    return folder


def workloads(pairs: Pairs, limit: int | None, work: Path) -> dict[str, Path]:
    """Files of texts: the sentences, paragraphs of ten of them, and the texts that are encoded one at a time."""
    short = common.sentences(pairs)[:limit]
    found = {"short": short, "long": common.paragraphs(short), "single": common.spread(short, SINGLES)}
    for name, texts in found.items():
        (work / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    return {name: work / f"{name}.json" for name in found}


class Comparison:
    """The systems that can run, with their results so far, and the reason for each system that cannot."""

    def __init__(self, place: Place, pairs: Pairs, limit: int | None) -> None:
        place.work.mkdir(parents=True, exist_ok=True)
        self.place, self.texts = place, workloads(pairs, limit, place.work)
        self._gold = pairs.scores[: limit // 2 if limit else None]
        self._reference: dict[str, FloatArray] = {}
        self.children: dict[System, Child] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}
        self.failed = False  # for a reason other than a missing flag of the CPU
        self._orders = common.drawn_orders(SYSTEMS)

    def open(self, system: System) -> None:
        """Load a system and score its vectors. It encodes all texts once, which is not timed."""
        print(f"{system.name} ..", flush=True)
        try:
            child = self.children[system] = opened(system, self.place)
            vectors = {name: self._vectors(child, name) for name in ("short", "long")}
            self._ask(system, "single")
        except CannotRunError as error:
            self._drop(system, error)
            return
        short = vectors["short"]
        if system.name == REFERENCE:
            self._reference = vectors
        self.rows[system.name] = {
            "weights": system.weights,
            "environment": system.environment or "m2d-export",
            "computes": child.computes,
            "width": short.shape[1],
            "score": spearman(cosine(short[::2], short[1::2]), self._gold),
            "least_cosine_to_torch_fp32": {
                name: float(cosine(vectors[name], base).min())
                for name, base in self._reference.items()
                if base.shape == vectors[name].shape and WEIGHTS in system.weights
            },
            "seconds": {name: [] for name in self.texts},
        }

    def round(self) -> None:
        """One turn of each system with many texts, then several turns with one text at a time."""
        self._take_turns(("short", "long"), REST)
        for _ in range(SINGLE_TURNS):
            self._take_turns(("single",), SHORT_REST)

    def _take_turns(self, workloads: Sequence[str], rest: float) -> None:
        for system in [system for system in next(self._orders) if system in self.children]:
            time.sleep(rest)
            try:
                for name in workloads:
                    self.rows[system.name]["seconds"][name].append(self._ask(system, name))
            except CannotRunError as error:
                self._drop(system, error)

    def _vectors(self, child: Child, name: str) -> FloatArray:
        path = self.place.work / "vectors.npy"
        child.ask(texts=self.texts[name], vectors=path)
        vectors: FloatArray = np.load(path)
        return vectors

    def _ask(self, system: System, name: str) -> float:
        """Seconds of a workload; the median for texts one at a time."""
        seconds: list[float] = self.children[system].ask(texts=self.texts[name], single=name == "single")["seconds"]
        return statistics.median(seconds)

    def _drop(self, system: System, error: CannotRunError) -> None:
        print(f"{system.name} cannot run: {error}", flush=True)
        self.rows.pop(system.name, None)
        self.not_run[system.name] = str(error)
        self.failed |= not isinstance(error, LacksFlagError)
        if system in self.children:
            self.children.pop(system).close()

    def results(self) -> dict[str, Any]:
        """The content of the results file."""
        counts = {name: len(json.loads(path.read_text(encoding="utf-8"))) for name, path in self.texts.items()}
        for row in self.rows.values():
            medians = {name: statistics.median(seconds) for name, seconds in row["seconds"].items()}
            row |= {f"{name}_per_second": counts[name] / medians[name] for name in ("short", "long")}
            row["single_p50_ms"] = medians["single"] * 1000
        used = {system.environment for system in SYSTEMS if system.name in self.rows} - {OURS}
        return {
            "texts": counts,
            "threads": self.place.threads,
            "systems": self.rows,
            "not_run": self.not_run,
            "cpu_flags": kernel_flags(),
            "versions": {"m2d-export": own_versions(OWN)}
            | {environment: versions(environment, self.place.work) for environment in sorted(used)},
            "bundles": {
                name: Bundle.open(self.place.folder(name)).id
                for name in sorted({system.folder for system in self.children if system.environment == OURS})
            },
        }

    def close(self) -> None:
        """End every worker."""
        for child in self.children.values():
            child.close()
