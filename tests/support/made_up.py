"""Invented but plausible results of bench (docs/results-format.md): six layers, five dims, fp32 and int8."""

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
LAYERS, DIMS, DEPTH, WIDTH = (1, 2, 3, 4, 5, 6), (384, 256, 128, 64, 32), 6, 384
MACHINE = {
    "cpu": "Made-up CPU @ 2.60GHz",
    "cores": 2,
    "memory_gb": 16,
    "system": "Linux",
    "python": "3.11.7",
    "versions": {"m2d-export": "0.2.0", "onnxruntime": "1.24.1", "numpy": "2.4.6"},
}
TOY = "toy set (200 pairs, not comparable with published scores)"
COMMAND = "m2d-export bench minilm.m2d --sts stsb --texts abstracts.txt --retrieval scifact -o results.jsonl"


def common(kind: str, **fields: Any) -> Record:
    """The fields of every record, any of them replaced by ``fields``."""
    return {
        "kind": kind,
        "status": "ok",
        "bundle": "9f2c41d7b0aa5e63" * 4,
        "fingerprint": "5be0d1c2f3a49687" * 4,
        "architecture": "BertModel",
        "depth": DEPTH,
        "width": WIDTH,
        "layer": DEPTH,
        "precision": "fp32",
        "runtime": "onnxrt",
        "compute": "fp32",
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "time": "2026-11-22T09:30:00Z",
        "machine": MACHINE,
        "command": COMMAND,
        **fields,
    }


def true_score(layer: int, dim: int, precision: str = "fp32") -> float:
    """A score x 100 that falls with fewer layers, fewer dims and int8, as trained grids do."""
    return (
        82.4
        - 9.5 * ((DEPTH - layer) / 5) ** 1.6
        - 4.6 * (math.log2(WIDTH / dim) / 3.6) ** 2
        - 0.5 * (precision != "fp32")
    )


def score(layer: int, dim: int, precision: str = "fp32", *, sts: str = "stsb", label: str = "STS-B test") -> Record:
    """A score record; retention is a share of the full cell of its own precision."""
    value, full = true_score(layer, dim, precision), true_score(DEPTH, WIDTH, precision)
    if sts == "toy":
        value, full = value - 9, full - 9
    return common(
        "score",
        layer=layer,
        precision=precision,
        dim=dim,
        trained_layer=layer != 4,
        trained_dim=dim != 256,
        sts=sts,
        label=label,
        pairs=1379,
        spearman={"cosine": value, "manhattan": value - 0.3, "euclidean": value - 0.2, "dot": value - 1.1},
        pearson={"cosine": value + 0.4, "manhattan": None, "euclidean": value, "dot": value - 2},
        interval=[value - 1.6, value + 1.5],
        difference=value - full,
        difference_interval=[min(0.0, (value - full) * 1.3 - 0.1), (value - full) * 0.7 + 0.1],
        retention=value / full,
    )


def latency(layer: int, batch_size: int, tokens: int, precision: str = "fp32", scope: str = "graph") -> Record:
    """A latency record whose seconds carry noise, the same for the same arguments."""
    chance = random.Random(f"{layer} {batch_size} {tokens} {precision} {scope}")
    median = 1.1e-5 * (layer + 0.35) * batch_size**0.9 * tokens / (1.9 if precision == "int8" else 1) + 2e-4
    median *= 1.25 if scope == "text" else 1
    seconds = sorted(median * (1 + abs(chance.gauss(0, 0.04))) for _ in range(25))
    p50 = seconds[12]
    return common(
        "latency",
        layer=layer,
        precision=precision,
        batch_size=batch_size,
        tokens=tokens,
        scope=scope,
        seconds=seconds,
        p50_ms=p50 * 1e3,
        p95_ms=seconds[23] * 1e3,
        p99_ms=seconds[24] * 1e3,
        sentences_per_second=batch_size / p50,
        spread=(seconds[18] - seconds[6]) / p50,
        noisy=(layer, batch_size) == (5, 32),
    )


def agreement(layer: int, dim: int, precision: str = "fp32") -> Record:
    value = 100 - 1.4 * (true_score(DEPTH, WIDTH) - true_score(layer, dim, precision))
    more = {"random_spearman": value + 0.5, "nearest_spearman": value - 6, "overlap_at_10": value - 18}
    grid = {"layer": layer, "precision": precision, "dim": dim, "trained_layer": layer != 4, "trained_dim": dim != 256}
    return common("agreement", **grid, texts="abstracts.txt", count=2000, spearman=value, **more)


def retrieval(layer: int, dim: int, precision: str = "fp32") -> Record:
    value = 64 - 1.9 * (true_score(DEPTH, WIDTH) - true_score(layer, dim, precision))
    grid = {"layer": layer, "precision": precision, "dim": dim, "trained_layer": layer != 4, "trained_dim": dim != 256}
    values = {
        "collection": "scifact",
        "documents": 5183,
        "queries": 300,
        "ndcg_at_10": value,
        "recall_at_100": value + 26,
        "query_prompt": "query",
        "document_prompt": None,
    }
    return common("retrieval", **grid, **values)


def index_retrieval(layer: int, dim: int, precision: str = "fp32", name: str = "own") -> Record:
    """Queries of a cell in an index of the deepest exit, of the same bundle or of another."""
    best = 64 - 1.9 * (true_score(DEPTH, WIDTH) - true_score(DEPTH, dim))
    value = best - 1.1 * (true_score(DEPTH, dim) - true_score(layer, dim, precision)) - 2 * (name != "own")
    found = {"ndcg_at_10": value, "recall_at_100": value + 26, "own_ndcg_at_10": best, "share": value / best}
    prompts = {"query_prompt": "query", "document_prompt": None}
    more = {"collection": "scifact", "documents": 5183, "queries": 300, **prompts, **found}
    return common("index_retrieval", **_in_index(layer, dim, precision, name), **more)


def index_agreement(layer: int, dim: int, precision: str = "fp32", name: str = "own") -> Record:
    value = 100 - 2.2 * (true_score(DEPTH, dim) - true_score(layer, dim, precision))
    more = {"texts": "abstracts.txt", "count": 2000, "overlap_at_10": value}
    return common("index_agreement", **_in_index(layer, dim, precision, name), **more)


def _in_index(layer: int, dim: int, precision: str, name: str) -> Record:
    index = {"index": name.encode().hex() * 8, "index_name": name, "index_cell": [DEPTH, dim]}
    grid = {"layer": layer, "precision": precision, "dim": dim, "trained_layer": layer != 4, "trained_dim": dim != 256}
    return {**grid, **index}


def bm25(value: float = 57.0, collection: str = "scifact") -> Record:
    found = {"documents": 5183, "queries": 300, "ndcg_at_10": value, "recall_at_100": 88.0}
    setup = {"layer": 0, "runtime": "bm25s", "provider": "bm25s", "threads": 1}
    return common("bm25", **setup, collection=collection, language="english", **found)


def cascade(cheap: tuple[int, int], collection: str = "scifact") -> Record:
    lengths = [10, 20, 50, 100, 200, 500]
    start = 100 - 2.4 * (true_score(DEPTH, WIDTH) - true_score(*cheap))
    return common(
        "cascade",
        layer=cheap[0],
        collection=collection,
        documents=5183,
        cheap=list(cheap),
        deep=[DEPTH, WIDTH],
        shortlist=lengths,
        recall_at_10=[100 - (100 - start) * (10 / length) ** 0.8 for length in lengths],
        cost_ms=[1.2 + 0.5 * cheap[0] + 0.002 * cheap[1] + 0.004 * length for length in lengths],
        deep_ms=9.6,
    )


def storage(layer: int, dim: int, kind: str, precision: str = "fp32", **sts: str) -> Record:
    size = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "binary": 0.125}[kind] * dim
    lost = {"fp32": 0, "fp16": 0, "int8": 0.4, "binary": 2.5 * (384 / dim) ** 0.4}[kind]
    value = true_score(layer, dim, precision) - lost - 9 * (sts.get("sts") == "toy")
    fields = {
        "layer": layer,
        "precision": precision,
        "dim": dim,
        "trained_layer": layer != 4,
        "trained_dim": dim != 256,
        "storage": kind,
    }
    named = {"sts": "stsb", "label": "STS-B test", **sts}
    return common("storage", **fields, **named, bytes_per_vector=size, spearman=value)


def memory(layer: int, precision: str = "fp32") -> Record:
    return common(
        "memory", layer=layer, precision=precision, peak_mb=90 + 14.5 * layer * (0.4 if precision == "int8" else 1)
    )


def sweep(**sts: str) -> list[Record]:
    """Everything that bench measures, on one STS set."""
    precisions = ("fp32", "int8")
    grid = [(layer, dim, precision) for precision in precisions for layer in LAYERS for dim in DIMS]
    found = [score(*cell, **sts) for cell in grid]
    found += [measure(*cell) for measure in (agreement, retrieval, index_retrieval, index_agreement) for cell in grid]
    found += [bm25()]
    found += [storage(*cell[:2], kind, cell[2], **sts) for cell in grid for kind in ("fp32", "fp16", "int8", "binary")]
    found += [cascade((layer, dim)) for layer in LAYERS for dim in DIMS if (layer, dim) != (DEPTH, WIDTH)]
    found += [memory(layer, precision) for layer in LAYERS for precision in precisions]
    shapes = [(1, 16), (1, 64), (8, 16), (8, 64), (32, 16), (32, 64), (32, 128)]
    timed = [(layer, *shape, precision) for shape in shapes for layer in LAYERS for precision in precisions]
    found += [latency(*place, scope) for place in timed for scope in ("graph", "text")]
    return found


def failed(record: Record, status: str = "failed") -> Record:
    """The record that bench writes if measuring ``record`` fails."""
    values = ("spearman", "pearson", "interval", "difference", "difference_interval", "retention", "seconds", "p50_ms")
    others = {name: value for name, value in record.items() if name not in values}
    return {**others, "status": status, "error": "RuntimeUnavailable: out of memory"}


def write(path: Path, records: Iterable[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
