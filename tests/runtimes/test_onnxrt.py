"""Sessions and threads of ONNX Runtime."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.runtimes.onnxrt import MANY, OnnxRuntime
from m2d_export.runtimes.runtime import RuntimeOptions
from m2d_export.runtimes.table import open_runtime
from m2d_export.text.batches import Batch, pad
from tests.runtimes.examples import BATCH, ROWS, SPEC

OPTIONS = RuntimeOptions("onnxrt")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of threads of every session that ONNX Runtime opens."""
    import onnxruntime as ort

    seen: list[int] = []
    session = ort.InferenceSession

    def spy(path: str, options: Any, **rest: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return session(path, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    return seen


@pytest.mark.parametrize("threads", [1, 3])
def test_the_session_has_the_threads_that_were_asked_for(bundle: Bundle, sessions: list[int], threads: int) -> None:
    open_runtime("onnxrt", bundle.variant(1), threads).close()
    assert sessions == [threads]


def test_a_second_session_of_one_thread_opens_once_for_many_batches(bundle: Bundle, sessions: list[int]) -> None:
    with open_runtime("onnxrt", bundle.variant(1), 2) as runtime:
        list(runtime.each([BATCH] * (MANY - 1)))
        for _ in range(200):
            runtime.vectors(BATCH)
        assert sessions == [2]
        list(runtime.each([BATCH] * MANY))
        list(runtime.each([BATCH] * MANY))
        assert sessions == [2, 1]


def test_one_thread_needs_no_second_session(bundle: Bundle, sessions: list[int]) -> None:
    with open_runtime("onnxrt", bundle.variant(1), 1) as runtime:
        list(runtime.each([BATCH] * MANY))
    assert sessions == [1]


def test_many_batches_come_back_in_order_with_their_own_vectors(bundle: Bundle) -> None:
    batches = [pad([ROWS[index % 3]] * (1 + index % 5), SPEC, [index]) for index in range(40)]
    with open_runtime("onnxrt", bundle.variant(2), 2) as runtime:
        found = list(runtime.each(iter(batches)))
        assert [batch.rows[0] for batch, _ in found] == list(range(40))
        for batch, vectors in found:
            np.testing.assert_allclose(vectors, runtime.vectors(batch), atol=1e-5)


def test_a_bad_batch_among_many_is_one_error_and_later_batches_run(bundle: Bundle) -> None:
    bad = replace(BATCH, input_ids=BATCH.input_ids + 10**6)
    with open_runtime("onnxrt", replace(bundle.variant(1), text=None), 2) as runtime:  # ids are checked by the library
        with pytest.raises(RuntimeUnavailable, match="batch") as caught:
            list(runtime.each([BATCH, bad] * 20))
        assert "\n" not in str(caught.value)
        assert len(list(runtime.each([BATCH] * 20))) == 20


def test_a_caller_who_stops_early_does_not_wait_for_the_remaining_batches(
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
    assert len(ran) <= 4  # the first, and those that its thread and the other had begun


def test_several_threads_may_send_many_batches_at_once(bundle: Bundle, sessions: list[int]) -> None:
    batches = [pad([ROWS[index % 3]] * 4, SPEC, [index]) for index in range(20)]
    with open_runtime("onnxrt", bundle.variant(2), 2) as runtime, ThreadPoolExecutor(4) as pool:
        expected = [runtime.vectors(batch) for batch in batches]
        for found in pool.map(lambda _: list(runtime.each(batches)), range(8)):
            for (_, vectors), own in zip(found, expected, strict=True):
                np.testing.assert_allclose(vectors, own, atol=1e-5)
    assert sessions == [2, 1]


@pytest.mark.parametrize("fate", ["gone", "replaced"])
def test_an_open_encoder_never_reads_its_graph_again_where_another_has_replaced_it(
    copied_bundle: Path, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["A man is singing.", "A dog runs.", "Two women are cooking rice."]
    with Encoder(Bundle.open(copied_bundle), 3, threads=2) as encoder:
        own = encoder.encode(texts)
        graph = copied_bundle / "graphs" / "layer-03.fp32.onnx"
        graph.unlink()
        if fate == "replaced":
            copyfile(copied_bundle / "graphs" / "layer-01.fp32.onnx", graph)
        encoder.token_budget = 8  # many batches, so that it wants a second session
        for _ in range(2):
            np.testing.assert_allclose(encoder.encode(texts * 20), np.tile(own, (20, 1)), atol=1e-6)
    (warning,) = [record.getMessage() for record in caplog.records if "second session" in record.getMessage()]
    assert str(graph) in warning


@pytest.mark.parametrize("taken", [0, 1])
def test_many_batches_of_a_closed_runtime_are_refused(bundle: Bundle, taken: int) -> None:
    runtime = open_runtime("onnxrt", bundle.variant(1), 2)
    results = runtime.each([pad(ROWS * 9, SPEC, range(27))] * 2000)
    for _ in range(taken):
        next(results)
    runtime.close()
    with pytest.raises(SpecError, match="closed"):
        list(results)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08" * 1000], ids=["empty", "text", "bytes"])
def test_a_graph_that_cannot_be_loaded_is_named_in_one_line(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(RuntimeUnavailable, match=r"bad\.onnx") as caught:
        OnnxRuntime(replace(bundle.variant(1), path=tmp_path / "bad.onnx"), OPTIONS)
    assert "\n" not in str(caught.value)


def test_a_session_on_another_provider_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    class Elsewhere:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider", "CPUExecutionProvider"]

    fallen_back = SimpleNamespace(InferenceSession=Elsewhere, SessionOptions=ort.SessionOptions)
    monkeypatch.setitem(sys.modules, "onnxruntime", fallen_back)
    with pytest.raises(RuntimeUnavailable, match=r"CPUExecutionProvider.*AzureExecutionProvider"):
        OnnxRuntime(bundle.variant(1), OPTIONS)
