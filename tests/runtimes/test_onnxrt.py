"""Sessions and threads of ONNX Runtime."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from threading import Event
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.runtimes import open_runtime
from m2d_export.runtimes.onnxrt import OnnxRuntime
from m2d_export.spec import TextSpec
from m2d_export.text.batches import Batch, TokenIds, pad

SPEC = TextSpec(max_tokens=48, pad_id=1)
ROWS = [TokenIds([3, 40, 41, 4]), TokenIds([3, 42, 4]), TokenIds([3, 43, 44, 45, 46, 4])]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of every session that ONNX Runtime is asked for."""
    import onnxruntime as ort

    seen: list[int] = []
    session = ort.InferenceSession

    def spy(path: str, options: Any, **rest: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    return seen


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_reach_onnx_runtime(bundle: Bundle, sessions: list[int], threads: int) -> None:
    open_runtime("onnxrt", bundle.variant(1), threads).close()
    assert sessions == [threads]


def test_onnx_runtime_gives_each_of_many_batches_a_thread_and_few_all_of_them(
    bundle: Bundle, sessions: list[int]
) -> None:
    batch = pad(ROWS, SPEC, range(3))
    with open_runtime("onnxrt", bundle.variant(1), 2) as runtime:
        list(runtime.each([batch] * 3))
        assert sessions == [2]
        list(runtime.each([batch] * 20))
        list(runtime.each([batch] * 20))
        assert sessions == [2, 1]
    with open_runtime("onnxrt", bundle.variant(1), 1) as runtime:
        list(runtime.each([batch] * 20))
    assert sessions == [2, 1, 1]


def test_many_batches_come_back_in_order_with_the_vectors_of_each_alone(bundle: Bundle) -> None:
    batches = [pad([ROWS[place % 3]] * (1 + place % 5), SPEC, [place]) for place in range(40)]
    with open_runtime("onnxrt", bundle.variant(2), 2) as runtime:
        found = list(runtime.each(iter(batches)))
        assert [batch.rows[0] for batch, _ in found] == list(range(40))
        for batch, vectors in found:
            np.testing.assert_allclose(vectors, runtime.vectors(batch), atol=1e-5)


def test_a_bad_batch_among_many_is_one_error_and_the_next_ones_run(bundle: Bundle) -> None:
    good = pad(ROWS, SPEC, range(3))
    bad = replace(good, attention_mask=good.attention_mask[:, :2])
    with open_runtime("onnxrt", bundle.variant(1), 2) as runtime:
        with pytest.raises(RuntimeUnavailable, match="ONNX Runtime cannot run this batch: ") as caught:
            list(runtime.each([good, bad] * 20))
        assert "\n" not in str(caught.value)
        assert len(list(runtime.each([good] * 20))) == 20


def test_who_wants_no_more_of_many_batches_does_not_wait_for_them(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Batch] = []
    go_on = Event()
    first, later = pad(ROWS, SPEC, range(3)), pad(ROWS, SPEC, range(3))
    run = OnnxRuntime._run

    def held(self: OnnxRuntime, session: Any, batch: Batch) -> Any:
        ran.append(batch)
        if batch is not first:
            go_on.wait(60)
        return run(self, session, batch)

    monkeypatch.setattr(OnnxRuntime, "_run", held)
    with open_runtime("onnxrt", bundle.variant(1), 2) as runtime:
        results = runtime.each([first, *[later] * 200])
        next(results)
        results.close()
        go_on.set()
    assert len(ran) <= 4  # the first, and what its thread and the other had begun


def test_threads_may_share_streams(bundle: Bundle) -> None:
    batches = [pad([ROWS[place % 3]] * 4, SPEC, [place]) for place in range(20)]
    with open_runtime("onnxrt", bundle.variant(2), 2) as runtime, ThreadPoolExecutor(4) as pool:
        expected = [runtime.vectors(batch) for batch in batches]
        for found in pool.map(lambda _: list(runtime.each(batches)), range(8)):
            for (_, vectors), own in zip(found, expected, strict=True):
                np.testing.assert_allclose(vectors, own, atol=1e-5)


@pytest.mark.parametrize("fate", ["gone", "replaced"])
def test_an_encoder_never_reads_its_files_again_as_those_of_another_bundle(
    copied_bundle: Path, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["A man is singing.", "A dog runs.", "Two women are cooking rice."]
    with Encoder(Bundle.open(copied_bundle), 3, threads=2) as encoder:
        own = encoder.encode(texts)
        graph = copied_bundle / "graphs" / "layer-03.fp32.onnx"
        graph.unlink()
        if fate == "replaced":
            copyfile(copied_bundle / "graphs" / "layer-01.fp32.onnx", graph)
        encoder.token_budget = 8  # many batches, for which it wants a second session
        for _ in range(2):
            np.testing.assert_allclose(encoder.encode(texts * 20), np.tile(own, (20, 1)), atol=1e-6)
    (warning,) = [record.getMessage() for record in caplog.records if "second session" in record.getMessage()]
    assert str(graph) in warning


@pytest.mark.parametrize("already", [0, 1])
def test_many_batches_of_a_closed_runtime_are_refused(bundle: Bundle, already: int) -> None:
    runtime = open_runtime("onnxrt", bundle.variant(1), 2)
    results = runtime.each([pad(ROWS * 9, SPEC, range(27))] * 2000)
    for _ in range(already):
        next(results)
    runtime.close()
    with pytest.raises(SpecError, match="closed: open it again"):
        list(results)
