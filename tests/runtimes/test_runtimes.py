"""The contract that every runtime keeps, and what is refused before one is opened."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.errors import M2DError, RuntimeUnavailable, SpecError
from m2d_export.runtimes.runtime import Runtime
from m2d_export.runtimes.table import RUNTIMES, open_runtime
from m2d_export.text.batches import Batch, pad
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import cosine
from tests.runtimes.examples import BATCH, ROWS, SPEC
from tests.support.checkpoints import WIDTH
from tests.support.fake_runtime import FakeRuntime

ON_CPU = [name for name, row in RUNTIMES.items() if row.device == "cpu"]
NAMES = [*ON_CPU, "fake"]


def opened(name: str, bundle: Bundle) -> Runtime:
    return FakeRuntime(WIDTH) if name == "fake" else open_runtime(name, bundle.variant(2))


# The contract


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_float32_of_full_width(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        vectors = runtime.vectors(BATCH)
        assert vectors.shape == (3, WIDTH)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_names_itself_and_its_device(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        assert runtime.name == name
        assert runtime.provider.lower().startswith("cpu" if name in ON_CPU else "fake")  # as the library writes it


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_does_not_depend_on_other_texts_order_or_padding(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        single = np.concatenate([runtime.vectors(pad([row], SPEC, [0])) for row in ROWS])
        together = runtime.vectors(pad(ROWS, SPEC, range(3), length=20))
        reversed_ = runtime.vectors(pad(ROWS[::-1], SPEC, range(3)))[::-1]
    np.testing.assert_allclose(together, single, atol=1e-5)
    np.testing.assert_allclose(reversed_, single, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_not_normalised(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        lengths = np.linalg.norm(runtime.vectors(BATCH), axis=1)
    assert (np.abs(lengths - 1) > 0.05).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_runtime_refuses_batches(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        pass
    runtime.close()
    with pytest.raises(SpecError, match="closed"):
        runtime.vectors(BATCH)


NO_BATCHES: dict[str, tuple[str, Batch]] = {  # a word of the error, and the batch
    "negative id": ("input_ids", replace(BATCH, input_ids=BATCH.input_ids - 100)),
    "id beyond the table": ("input_ids", replace(BATCH, input_ids=BATCH.input_ids + SPEC.vocabulary)),
    "largest id": ("input_ids", replace(BATCH, input_ids=np.full_like(BATCH.input_ids, 2**63 - 1))),
    "int32 ids": ("int32", replace(BATCH, input_ids=BATCH.input_ids.astype(np.int32))),
    "other byte order": (">i8", replace(BATCH, input_ids=BATCH.input_ids.astype(">i8"))),
    "float mask": ("float32", replace(BATCH, attention_mask=BATCH.attention_mask.astype(np.float32))),
    "flags for a mask": ("bool", replace(BATCH, attention_mask=BATCH.attention_mask.astype(bool))),
    "mask of one row": (r"\(1, 6\)", replace(BATCH, attention_mask=BATCH.attention_mask[:1])),
    "mask of one column": (r"\(3, 1\)", replace(BATCH, attention_mask=BATCH.attention_mask[:, :1])),
    "short mask": (r"\(3, 2\)", replace(BATCH, attention_mask=BATCH.attention_mask[:, :2])),
    "mask with another number": ("attention_mask", replace(BATCH, attention_mask=BATCH.attention_mask * 2)),
    "pooling mask of one row": ("pooling_mask", replace(BATCH, pooling_mask=BATCH.attention_mask[:1])),
    "one axis": (r"\(6,\)", replace(BATCH, input_ids=BATCH.input_ids[0], attention_mask=BATCH.attention_mask[0])),
    "no axis": (r"\(\)", replace(BATCH, input_ids=np.array(3), attention_mask=np.array(1))),
    "lists": ("arrays of numpy", replace(BATCH, input_ids=cast(Any, BATCH.input_ids.tolist()))),
    "no mask": ("arrays of numpy", replace(BATCH, attention_mask=cast(Any, None))),
    "no texts": (r"\(0, 6\)", replace(BATCH, input_ids=BATCH.input_ids[:0], attention_mask=BATCH.attention_mask[:0])),
    "no tokens": (
        r"\(3, 0\)",
        replace(BATCH, input_ids=BATCH.input_ids[:, :0], attention_mask=BATCH.attention_mask[:, :0]),
    ),
    "too many tokens": (f"at most {SPEC.max_tokens}", pad(ROWS, SPEC, range(3), SPEC.max_tokens + 1)),
}


@pytest.mark.parametrize("name", NAMES)
def test_arrays_that_are_no_batch_of_this_encoder_are_refused(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        runtime.text = SPEC
        for word, batch in NO_BATCHES.values():
            with pytest.raises(SpecError, match=word):
                runtime.vectors(batch)
            with pytest.raises(SpecError, match=word):
                list(runtime.each([BATCH, batch] * 10))
        assert runtime.vectors(BATCH).shape == (3, WIDTH)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_runtime_knows_the_limits_of_its_bundle(name: str, bundle: Bundle) -> None:
    limits = bundle.manifest.text
    with open_runtime(name, bundle.variant(1)) as runtime:
        last, beyond = (np.full((1, 2), limits.vocabulary + place) for place in (-1, 0))
        mask = np.ones((1, 2), np.int64)
        assert np.isfinite(runtime.vectors(Batch(last, mask, None, [0]))).all()
        with pytest.raises(SpecError, match=f"0 to {limits.vocabulary - 1}"):
            runtime.vectors(Batch(beyond, mask, None, [0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_each_batch_comes_back_with_its_own_vectors(name: str, count: int, bundle: Bundle) -> None:
    batches = [pad([ROWS[index % 3]] * (1 + index), SPEC, [index]) for index in range(count)]
    with opened(name, bundle) as runtime:
        found = list(runtime.each(iter(batches)))
        assert sorted(batch.rows[0] for batch, _ in found) == list(range(count))
        for batch, vectors in found:
            np.testing.assert_allclose(vectors, runtime.vectors(batch), atol=1e-5)


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_several_threads_may_call_a_runtime(name: str, bundle: Bundle) -> None:
    batches = [pad([ROWS[index % 3]] * 4, SPEC, range(4)) for index in range(40)]
    with opened(name, bundle) as runtime, ThreadPoolExecutor(4) as pool:
        expected = [runtime.vectors(batch) for batch in batches]
        for found, own in zip(pool.map(runtime.vectors, batches), expected, strict=True):
            np.testing.assert_allclose(found, own, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_graphs_agree_with_pytorch(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as graph, opened("pytorch", bundle) as reference:
        np.testing.assert_allclose(graph.vectors(BATCH), reference.vectors(BATCH), atol=2e-5)


def test_the_fake_runtime_does_not_pool_prompt_tokens() -> None:
    spec = replace(SPEC, include_prompt=False)
    with FakeRuntime() as runtime:
        one, other = (
            runtime.vectors(pad([TokenIds([3, prompt, 40, 4], prompt_length=2)], spec, [0])) for prompt in (7, 8)
        )
        np.testing.assert_array_equal(one, other)
        pooled = runtime.vectors(pad([TokenIds([3, 8, 40, 4])], SPEC, [0]))
    assert np.abs(pooled - other).max() > 0.1


# Precisions and computes


@pytest.mark.parametrize(("name", "precision"), [("onnxrt", "fp16"), ("openvino", "fp16"), ("openvino", "bf16")])
def test_half_graphs_run_in_every_cpu_runtime_whose_row_has_them(name: str, precision: str, halves: Bundle) -> None:
    with open_runtime(name, halves.variant(2, precision)) as half, open_runtime(name, halves.variant(2)) as fp32:
        found, expected = half.vectors(BATCH), fp32.vectors(BATCH)
    assert found.dtype == np.float32
    assert (cosine(found, expected) > (0.9999 if precision == "fp16" else 0.998)).all()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_int8_graphs_run_in_every_cpu_runtime_whose_row_has_them(name: str, quantized: Bundle) -> None:
    with (
        open_runtime(name, quantized.variant(2, "int8", name)) as int8,
        open_runtime(name, quantized.variant(2)) as fp32,
    ):
        expected = fp32.vectors(BATCH)
        found = int8.vectors(BATCH)
        assert (cosine(found, expected) > 0.995).all()
        assert not np.allclose(found, expected, atol=1e-6)
        single = np.concatenate([int8.vectors(pad([row], SPEC, [0])) for row in ROWS])
    np.testing.assert_allclose(single, found, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "precision", "others"),
    [("onnxrt", "bf16", "openvino, trt, trt-rtx"), ("pytorch", "int8", "onnxrt, openvino")],
)
def test_a_precision_that_a_runtime_lacks_names_the_runtimes_that_have_it(
    name: str, precision: str, others: str, bundle: Bundle
) -> None:
    with pytest.raises(SpecError, match=f"{name}.*{precision}.*{others}"):
        open_runtime(name, replace(bundle.variant(1), precision=precision))


def test_a_compute_that_a_runtime_lacks_names_those_it_has(bundle: Bundle) -> None:
    with pytest.raises(SpecError, match=r"onnxrt.*'bf16'.*fp32"):
        open_runtime("onnxrt", bundle.variant(1), compute="bf16")


# What is refused


@pytest.mark.parametrize("name", ["", "onnx", "ONNXRT", "fake", "../onnxrt"])
def test_an_unknown_runtime_is_refused_with_the_known_ones(name: str, bundle: Bundle) -> None:
    with pytest.raises(SpecError, match=", ".join(RUNTIMES)):
        open_runtime(name, bundle.variant(1))


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True, 10**6, 2**63])
def test_a_count_of_threads_that_is_not_a_positive_whole_number_is_refused(
    name: str, threads: Any, bundle: Bundle
) -> None:
    with pytest.raises(SpecError, match=f"threads .*{threads!r}"):
        open_runtime(name, bundle.variant(1), threads)


@pytest.mark.parametrize("name", [name for name, row in RUNTIMES.items() if not row.compiles])
def test_a_cache_is_refused_by_a_runtime_that_compiles_nothing(
    name: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_export.runtimes.table.check_runtime", lambda *arguments: None)
    with pytest.raises(SpecError, match=f"{name} .*cache.*openvino"):
        open_runtime(name, bundle.variant(1), cache=tmp_path)


@pytest.mark.parametrize("name", ON_CPU)
def test_a_missing_package_is_named_with_its_extra(name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    row = RUNTIMES[name]
    monkeypatch.setitem(sys.modules, row.package, None)
    with pytest.raises(RuntimeUnavailable, match=rf"{row.package}.*'m2d-export\[{row.extra}\]'"):
        open_runtime(name, bundle.variant(1))


def test_a_broken_package_is_reported_with_its_own_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import libcudart_of_another_year\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime.*No module named 'libcudart_of_another_year'"):
        open_runtime("onnxrt", bundle.variant(1))


def test_an_unavailable_runtime_is_an_error_of_this_package() -> None:
    assert issubclass(RuntimeUnavailable, M2DError)
    assert RuntimeUnavailable.exit_code == 2
