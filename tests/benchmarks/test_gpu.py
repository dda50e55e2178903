"""The benchmark of GPUs, run on the CPU."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import systems
from benchmarks.gpu.__main__ import GPU, SMOKE, aims, card
from benchmarks.gpu.systems import Subject, compiled, eager, exit_of, graphed, set_up, unpadded, unpadded_by_torch
from benchmarks.gpu.unpadded import VARLEN
from benchmarks.gpu.work import inputs, mixed
from benchmarks.tables import gpu as tables
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import M2DError, ParityError, RuntimeUnavailable
from m2d_export.host.gpu import Gpu, gpus
from m2d_export.text.batches import Batch
from m2d_export.vectors import cosine
from tests.support.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_trial_on_the_cpu_measures_every_system_that_runs_there(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--checkpoint", str(checkpoint), "-o", str(output)]
    command += ["--smoke", "--layer", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["card"] == {"name": "none: a smoke test on the CPU"}
    assert result["command"] == "python -m benchmarks.gpu --checkpoint tiny -o gpu.json --smoke --layer 2"
    names = ["pytorch", "pytorch, compiled", "sentence-transformers", "m2d-export, onnxrt"]
    own, made_up = result["encoders"]
    assert [(encoder["encoder"], encoder["weights"]) for encoder in (own, made_up)] == [
        ("tiny", "real"),
        ("distilbert of random weights", "random"),
    ]
    for encoder in (own, made_up):
        assert [row["system"] for row in encoder["rows"]] == names * 4
        assert set(encoder["absent"]) == {
            *("pytorch, CUDA graph", "m2d-export, trt"),
            *(f"sentence-transformers, unpadded by {kernel}" for kernel in ("flash attention", "torch")),
        }
        for row in encoder["rows"]:
            assert row["cosine_min"] > 0.99999
            assert 0 < row["p50_ms"] <= row["p99_ms"]
            assert row["sentences_per_second"] * row["tokens"] == pytest.approx(row["tokens_per_second"])
        assert [(row["order"], row["system"]) for row in encoder["mixed"]] == [
            (order, system) for order in ("as they come", "sorted") for system in names if "compiled" not in system
        ]
        filled = {row["order"]: row["filled"] for row in encoder["mixed"]}
        assert filled["as they come"] < filled["sorted"] <= 1
        assert all(row["cosine_min"] > 0.99999 for row in encoder["mixed"])
        times = {(row["system"], row["batch_size"], row["tokens"]): row["p50_ms"] for row in encoder["rows"]}
        assert any(aim["over"] == "the measured peak" for aim in encoder["aims"]) == (encoder is made_up)
        assert encoder["aims"][0]["ratios"] == {
            "1x16": pytest.approx(times["pytorch", 1, 16] / times["m2d-export, onnxrt", 1, 16])
        }
    shown = tables.gpu_tables(result)
    for name in names[:3]:
        assert f"\n| {name} | " in shown
    assert shown.count("\n| **m2d-export, onnxrt** | ") == 4  # two encoders, each with its grid and its mixed lengths
    assert "distilbert of random weights, layer 2:" in shown
    assert "| system, mixed lengths | as they come, sentences/s | " in shown
    assert "Not measured: m2d-export, trt (" in shown


def test_our_fastest_system_at_each_shape_counts_for_the_aims() -> None:
    rows = [
        {"system": system, "batch_size": size, "tokens": tokens, "p50_ms": ms, "share_of_peak": 1 / ms}
        for system, ms in (("pytorch", 9.0), ("m2d-export, trt", 4.0), ("m2d-export, onnxrt-cuda", 2.0))
        for size, tokens in ((1, 16), (8, 32), (32, 256))
    ]
    found = [(aim["over"], aim["aim"], aim["ratios"], aim["least"]) for aim in aims(rows, of_peak=True)]
    assert found[:3] == [(aim["over"], aim["aim"], aim["ratios"], aim["least"]) for aim in aims(rows, of_peak=False)]
    assert found == [
        ("pytorch", 3.0, {"1x16": 4.5, "8x32": 4.5}, 4.5),
        ("pytorch, compiled", 1.5, {}, None),
        ("pytorch", 1.3, {"32x256": 4.5}, 4.5),
        ("the measured peak", 0.5, {"32x256": 0.5}, 0.5),
    ]


@pytest.fixture
def subject(checkpoint: Path) -> Iterator[Subject]:
    """Exit 1 of the tiny checkpoint, which has its own head."""
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):  # restored afterwards
        yield Subject(load_checkpoint(str(checkpoint)), 1, SMOKE)


def test_a_system_in_fp16_leaves_the_checkpoint_in_float32(subject: Subject) -> None:
    halved = exit_of(replace(subject, setting=replace(SMOKE, precision="fp16")))
    assert {value.dtype for value in halved.parameters()} == {torch.float16}
    heads = [head.dense for head in subject.checkpoint.heads.values()]
    kept = [subject.checkpoint.encoder, *heads, *subject.checkpoint.tail]
    assert {value.dtype for module in kept for value in module.parameters()} == {torch.float32}


@pytest.mark.slow
def test_each_shape_of_the_grid_is_compiled_and_no_other_shape_runs(subject: Subject) -> None:
    compilations: list[object] = []

    def compiler(graph: Any, examples: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    setting: Any = replace(SMOKE, batch_sizes=(2, 3, 4), tokens=(4, 5, 6), compiler=compiler)
    with torch.inference_mode():
        system = compiled(replace(subject, setting=setting))
        counts = [0]
        for shape in [(2, 9), *product(setting.batch_sizes, setting.tokens)]:  # the example, then the grid
            system(inputs(subject.checkpoint, *shape))
            counts.append(len(compilations))
        assert all(right > left for left, right in pairwise(counts))
        with pytest.raises(Exception, match="recompile_limit"):
            system(inputs(subject.checkpoint, 2, 10))


def each_alone(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    starts_of_keys: torch.Tensor,
    longest: int,
    longest_of_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """The attention within each text, as torch's kernel for GPUs computes it."""
    assert starts is starts_of_keys
    assert window_size == (-1, -1)
    assert starts.dtype == torch.int32  # the kernel accepts no other type
    assert longest == longest_of_keys == max(starts.diff())
    parts = []
    for first, last in pairwise(starts.tolist()):
        alone = [each[first:last].transpose(0, 1) for each in (query, key, value)]  # (heads, tokens, width)
        parts.append(torch.nn.functional.scaled_dot_product_attention(*alone, scale=scale).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("made_up", [False, True], ids=["BERT", "DistilBERT"])
def test_packed_texts_have_the_vectors_of_padded_texts(
    subject: Subject, made_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no kernel for packed texts")
    monkeypatch.setattr(varlen, "varlen_attn", create_autospec(varlen.varlen_attn, side_effect=each_alone))
    path = subject.checkpoint.folder
    if made_up:
        path = systems.random_distilbert(tmp_path, path, SMOKE.made_up)
    subject = replace(subject, checkpoint=load_checkpoint(str(path)), layer=2)
    reference = exit_of(subject)
    with torch.inference_mode():
        system = unpadded(subject, VARLEN)
        for batches in mixed(subject.checkpoint, SMOKE).values():
            for batch in batches:
                assert cosine(system(batch), reference.vectors(batch)[0]).min() > 0.99999


def test_an_encoder_with_its_own_attention_does_not_run_packed(subject: Subject, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "mpnet", "mpnet")
    with pytest.raises(RuntimeUnavailable, match="MPNetModel"):
        unpadded(replace(subject, checkpoint=load_checkpoint(str(path))), VARLEN)


def test_a_system_that_fails_or_has_other_vectors_is_not_timed(subject: Subject) -> None:
    reference = exit_of(subject)
    batch = inputs(subject.checkpoint, 2, 8)

    def broken(batch: Batch) -> Any:
        raise RuntimeError("out of memory\nand more of it")

    ready: dict[str, Any] = {
        "right": lambda batch: reference.vectors(batch)[0],
        "turned": lambda batch: -reference.vectors(batch)[0],
        "overflown": lambda batch: reference.vectors(batch)[0] * np.nan,
        "broken": broken,
    }
    absent: dict[str, str] = {}
    found = benchmark.checked(ready, absent, [batch], reference, "2 x 8")
    assert found == {"right": pytest.approx(1)}
    assert list(ready) == ["right"]
    assert {name: reason.partition(":")[0] for name, reason in absent.items()} == dict.fromkeys(
        ("turned", "overflown", "broken"), "2 x 8"
    )
    assert "-1.0000" in absent["turned"]
    assert "nan" in absent["overflown"]
    assert absent["broken"].endswith("out of memory")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU here")
@pytest.mark.parametrize("make", [eager, graphed, compiled, unpadded_by_torch])
def test_on_a_card_each_baseline_has_the_vectors_of_the_reference(
    subject: Subject, make: Callable[[Subject], Any]
) -> None:
    subject = replace(subject, layer=2, setting=GPU)
    reference = ExitEncoder(subject.checkpoint, [2]).eval()
    with torch.inference_mode():
        system = make(subject)
        for shape in ((2, 8), (3, 17)):
            batch = inputs(subject.checkpoint, *shape)
            assert cosine(system(batch), reference.vectors(batch)[0]).min() > 0.999


def test_both_orders_of_mixed_lengths_hold_the_same_texts(subject: Subject) -> None:
    setting = replace(SMOKE, texts=100, batch_sizes=(1, 8))
    orders = mixed(subject.checkpoint, setting)
    texts: dict[str, list[list[int]]] = {order: [] for order in orders}
    for order, batches in orders.items():
        for batch in batches:
            rows = zip(batch.input_ids, batch.attention_mask, strict=True)
            texts[order].extend(ids[: mask.sum()].tolist() for ids, mask in rows)
    lengths = [len(text) for text in texts["as they come"]]
    assert sorted(texts["sorted"]) == sorted(texts["as they come"])
    assert [len(text) for text in texts["sorted"]] == sorted(lengths, reverse=True)
    assert (min(lengths), max(lengths)) == (4, 16)
    assert [len(batch.rows) for batch in orders["sorted"]] == [8] * 12 + [4]
    assert all(batch.attention_mask.sum(axis=1).max() == batch.input_ids.shape[1] for batch in orders["sorted"])


def test_a_failed_build_leaves_the_other_systems(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ParityError("not published: layer 1 fails\nand more of it")

    monkeypatch.setattr(systems, "build", fail)
    with ExitStack() as opened, torch.inference_mode():
        ready, absent = set_up(subject, inputs(subject.checkpoint, 2, 8), opened)
    assert list(ready) == ["pytorch", "pytorch, compiled", "sentence-transformers"]
    assert absent["m2d-export, onnxrt"] == "not published: layer 1 fails"
    assert "m2d-export, trt" in absent


def test_results_are_written_before_the_next_encoder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoders(*arguments: object) -> Any:
        yield {"encoder": "tiny", "weights": "real", "absent": {}}
        raise M2DError("no more")

    output = tmp_path / "gpu.json"
    monkeypatch.setattr(benchmark, "encoders", encoders)
    monkeypatch.setattr(sys, "argv", ["gpu", "--checkpoint", str(checkpoint), "-o", str(output), "--smoke"])
    assert benchmark.main() == M2DError.exit_code
    assert [encoder["encoder"] for encoder in json.loads(output.read_text())["encoders"]] == ["tiny"]


def test_without_nvidia_smi_the_driver_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (Gpu("NVIDIA H100", "sm90"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = card(GPU)
    assert (found["name"], found["capability"], found["driver"]) == ("NVIDIA H100", "sm90", "unknown")


def test_without_results_the_table_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "python -m benchmarks.gpu" in tables.gpu()


@pytest.mark.slow
@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_card_the_script_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "-o", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == RuntimeUnavailable.exit_code
    assert len(done.stderr.splitlines()) == 1
    assert "--smoke" in done.stderr
