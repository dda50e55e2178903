"""Prepare each system, let them take turns, and put what came out in one object."""

import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.child import (
    HERE,
    ROOT,
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
from m2d_export.host.machine import machine, telling_flags
from m2d_export.host.machine import versions as own_versions
from m2d_export.vectors import FloatArray, cosine

PARAGRAPH = 10  # sentences of a long text
SINGLES = 50  # texts encoded one at a time in a turn
# A turn of single texts is over in 0.1 s, while a machine shared with others is slow or fast for seconds: of one turn a
# round, whoever met a slow second lost. Many short turns give every system its share of both.
SINGLE_TURNS = 10
REST = 0.5  # seconds before a turn: idle threads of ONNX Runtime were seen to spin on for 40 ms, others for less
SHORT_REST = 0.1  # before one of the short turns
OWN = ("m2d-export", "numpy", "tokenizers", "onnxruntime", "openvino", "nncf")
BUILD = ("torch", "transformers", "onnx-ir", "onnxscript", "nncf")  # what our graphs come out of
REFERENCE = "sentence-transformers torch fp32"


@dataclass(frozen=True)
class Place:
    """Where everything is, and with how many threads it runs."""

    work: Path
    checkpoint: Path
    stsb: Path
    threads: int

    def folder(self, name: str) -> Path:
        """The folder that a system opens."""
        return self.checkpoint if name == "checkpoint" else self.work / name

    def log(self, name: str) -> Path:
        """Where a step or a system says what it says."""
        return self.work / "logs" / f"{name.replace(' ', '_')}.log"


def opened(system: System, place: Place) -> Child:
    """The system's worker, loaded, once its environment and its files are there; raises CannotRunError."""
    if system.needs and system.needs not in telling_flags():
        raise LacksFlagError(f"this CPU has no {system.needs}")
    python, environ = (
        python_of(system.environment, place.work),
        variables(system.environment, place.work, place.threads),
    )
    _exported(system, place)
    settings = {**system.settings, "path": str(place.folder(system.folder)), "threads": place.threads}
    return Child(python, settings, place.log(system.name), environ)


def _exported(system: System, place: Place) -> None:
    """Make the files that a system needs, those that are not there already."""
    if system.environment == OURS:
        checkpoint = place.checkpoint if system.folder == WEIGHTS else ROOT / "models" / system.folder
        command = [sys.executable, "-m", "m2d_export", "build", str(checkpoint), "--precision", "fp32,int8", "--force"]
        made_by = [*sorted((ROOT / "m2d_export").rglob("*.py")), *sorted(checkpoint.rglob("*.json"))]
        made_by += sorted(checkpoint.rglob("*.safetensors"))  # its exits have weights of their own
        _once("build", [*command, "-o", str(place.folder(system.folder))], system.folder, OURS, made_by, place)
    maker = system.folder  # the folders of exports bear the name of the environment that makes them
    for step in system.exports:
        command = [str(python_of(maker, place.work)), "-P", str(HERE / "exports.py"), step, str(place.checkpoint)]
        command += [str(place.folder(maker)), *([str(_calibration(place))] if step == "static" else [])]
        made_by = [HERE / "exports.py", HERE / f"{maker}.txt", place.checkpoint / "model.safetensors"]
        _once(step, command, maker, maker, made_by, place)


def _once(step: str, command: list[str], folder: str, environment: str, made_by: Sequence[Path], place: Place) -> None:
    """Make what a step makes in ``folder``, unless it is there, made by the same programs from the same weights."""
    done, stamp = place.work / f".{folder}.{step}", " ".join(sha256_of(path) for path in made_by)
    stamp += json.dumps(own_versions(BUILD)) if environment == OURS else ""
    if done.exists() and done.read_text(encoding="utf-8") == stamp:
        return
    done.unlink(missing_ok=True)
    run(command, place.log(f"{folder} {step}"), variables(environment, place.work, place.threads))
    done.write_text(stamp, encoding="utf-8")


def _calibration(place: Place) -> Path:
    """A folder with the sentences of STS-B train, as a dataset that a peer can open by its path."""
    folder = place.work / "calibration"
    folder.mkdir(exist_ok=True)
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["sentence"], *([text] for text in load_pairs(str(place.stsb / "train.csv")).texts)]
        )
    return folder


def workloads(pairs: Pairs, limit: int | None, work: Path) -> dict[str, Path]:
    """Files of texts: the sentences, paragraphs of ten of them, and those that are encoded one at a time."""
    short = [text for pair in zip(*pairs.sides(), strict=True) for text in pair][:limit]
    long = [" ".join(short[start : start + PARAGRAPH]) for start in range(0, len(short) - PARAGRAPH + 1, PARAGRAPH)]
    found = {"short": short, "long": long, "single": short[:: max(1, len(short) // SINGLES)][:SINGLES]}
    for name, texts in found.items():
        (work / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    return {name: work / f"{name}.json" for name in found}


class Comparison:
    """Every system that can run, loaded and waiting; what it has measured so far; why the others cannot."""

    def __init__(self, place: Place, pairs: Pairs, limit: int | None) -> None:
        place.work.mkdir(parents=True, exist_ok=True)
        self.place, self.texts = place, workloads(pairs, limit, place.work)
        self._gold = pairs.scores[: limit // 2 if limit else None]
        self._reference: dict[str, FloatArray] = {}
        self.children: dict[System, Child] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}
        self.failed = False  # for another reason than that the CPU is not made for it

    def open(self, system: System) -> None:
        """Load a system, score its vectors, and let it see all texts once, unmeasured."""
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

    def round(self, number: int) -> None:
        """One turn of each system with many texts, then several with one at a time, each in another order."""
        order = random.Random(number)  # noqa: S311 - a seed for each round: nobody always follows the same one
        self._turn(order, ("short", "long"), REST)
        for _ in range(SINGLE_TURNS):
            self._turn(order, ("single",), SHORT_REST)

    def _turn(self, order: random.Random, names: Sequence[str], rest: float) -> None:
        systems = list(self.children)
        for system in order.sample(systems, len(systems)):
            try:
                time.sleep(rest)
                for name in names:
                    self.rows[system.name]["seconds"][name].append(self._ask(system, name))
            except CannotRunError as error:
                self._drop(system, error)

    def _vectors(self, child: Child, name: str) -> FloatArray:
        path = self.place.work / "vectors.npy"
        child.ask(texts=self.texts[name], vectors=path)
        vectors: FloatArray = np.load(path)
        return vectors

    def _ask(self, system: System, name: str) -> float:
        """Seconds of a workload, or the median of its texts one at a time."""
        seconds: list[float] = self.children[system].ask(texts=self.texts[name], single=name == "single")["seconds"]
        return statistics.median(seconds)

    def _drop(self, system: System, error: CannotRunError) -> None:
        print(f"{system.name} cannot run: {error}", flush=True)
        self.rows.pop(system.name, None)
        self.not_run[system.name] = str(error)
        self.failed |= not isinstance(error, LacksFlagError)
        if system in self.children:
            self.children.pop(system).close()

    def result(self) -> dict[str, Any]:
        """Everything, as the results file has it."""
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
            "cpu_flags": telling_flags(),
            "versions": {"m2d-export": own_versions(OWN)}
            | {environment: versions(environment, self.place.work) for environment in sorted(used)},
            "bundles": {
                name: Bundle.open(self.place.folder(name)).id
                for name in sorted({system.folder for system in self.children if system.environment == OURS})
            },
            "machine": machine(),
        }

    def close(self) -> None:
        """End every worker."""
        for child in self.children.values():
            child.close()
