"""Compilations, streams and computes of OpenVINO."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.errors import RuntimeUnavailable
from m2d_export.runtimes.openvino import MANY, OpenvinoRuntime
from m2d_export.runtimes.runtime import Runtime
from m2d_export.runtimes.table import open_runtime
from m2d_export.text.batches import Batch, pad
from tests.runtimes.examples import BATCH, ROWS, SPEC
from tests.support.checkpoints import WIDTH

ov = pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of every compilation."""
    seen: list[dict[str, Any]] = []
    compiled = ov.Core.compile_model

    def spy(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        seen.append(settings)
        return compiled(core, model, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", spy)
    return seen


@pytest.fixture
def runtime(bundle: Bundle, compilations: list[dict[str, Any]]) -> Iterator[Runtime]:
    with open_runtime("openvino", bundle.variant(2)) as opened:
        yield opened


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_compute_that_the_processor_lacks_is_refused(compute: str, bundle: Bundle) -> None:
    if compute == "bf16" and "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(RuntimeUnavailable, match="bf16"):
            open_runtime("openvino", bundle.variant(1), compute=compute)
        return
    with open_runtime("openvino", bundle.variant(1), compute=compute) as runtime:
        assert runtime.vectors(BATCH).shape == (3, WIDTH)


def test_another_compute_than_the_one_asked_for_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def get_property(self, name: str) -> Any:
            return ov.Type.bf16

    monkeypatch.setattr(ov.Core, "compile_model", lambda *arguments: Elsewhere())
    with pytest.raises(RuntimeUnavailable, match=r"f32.*bf16"):
        open_runtime("openvino", bundle.variant(1))


INTERRUPTED = """
import faulthandler, gc, signal, sys
from m2d_export import Bundle, Encoder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
faulthandler.enable()  # as pytest and servers do: signals get a stack of their own
encoders = [Encoder(Bundle.open(sys.argv[1]), 1, runtime="openvino") for _ in range(2)]
while encoders:
    encoders.pop(0).close()
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_two_encoders_is_a_keyboard_interrupt(bundle: Bundle) -> None:
    """With one core per encoder it was a segmentation fault: see ``_core``."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, bundle.root], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_a_batch_that_cannot_be_run_is_one_error_and_later_batches_run(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, expected = pad(ROWS, SPEC, range(3)), runtime.vectors(BATCH)
    good = OpenvinoRuntime._values

    def values(self: OpenvinoRuntime, batch: Batch) -> dict[str, Any]:
        return {name: array[None] if batch is bad else array for name, array in good(self, batch).items()}

    monkeypatch.setattr(OpenvinoRuntime, "_values", values)  # arrays with an axis too many
    for run in (runtime.vectors, lambda batch: list(runtime.each([BATCH, batch] * 10))):
        with pytest.raises(RuntimeUnavailable, match="batch") as caught:
            run(bad)
        assert "\n" not in str(caught.value)
    for _, vectors in [(BATCH, runtime.vectors(BATCH)), *runtime.each([BATCH] * 20)]:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_streams_are_compiled_once_for_many_batches(runtime: Runtime, compilations: list[dict[str, Any]]) -> None:
    few = list(runtime.each([BATCH] * (MANY - 1)))
    assert [settings["PERFORMANCE_HINT"] for settings in compilations] == ["LATENCY"]
    for _ in range(2):
        many = list(runtime.each([BATCH] * MANY))
        np.testing.assert_allclose([vectors for _, vectors in many], [few[0][1]] * MANY, atol=1e-5)
    assert [settings["PERFORMANCE_HINT"] for settings in compilations] == ["LATENCY", "THROUGHPUT"]


def test_few_batches_do_not_use_the_streams(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    list(runtime.each([BATCH] * MANY))
    monkeypatch.setattr(runtime, "_many", None)
    assert len(list(runtime.each([BATCH] * 3))) == 3


@pytest.mark.parametrize("short", [3, 20])
def test_a_few_very_long_texts_among_short_ones_run_alone(
    short: int, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [pad(ROWS, SPEC, range(3), 7 if index < 2 else 0) for index in range(2 + short)]
    assert batches[0].attention > batches[-1].attention
    monkeypatch.setattr("m2d_export.runtimes.openvino.stream_room", lambda threads: batches[-1].attention)
    alone, vectors_of = [], runtime._vectors
    monkeypatch.setattr(runtime, "_vectors", lambda batch: (alone.append(batch.attention), vectors_of(batch))[1])
    found = list(runtime.each(batches))
    assert sorted(id(batch) for batch, _ in found) == sorted(map(id, batches))
    assert alone[:2] == [batches[0].attention] * 2 or alone[-2:] == [batches[0].attention] * 2
    assert len(alone) == (2 if short == 20 else 5)


@pytest.mark.parametrize(
    ("short", "long", "snippets"),
    [(20, 0, ["DISABLE"]), (0, 20, [None]), (20, 20, [None, "DISABLE"]), (3, 20, [None])],
)
def test_many_long_texts_and_many_short_ones_have_streams_of_their_own(
    short: int,
    long: int,
    snippets: list[str | None],
    runtime: Runtime,
    compilations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("m2d_export.runtimes.openvino.LONG_TOKENS", 6)
    batches = [pad(ROWS, SPEC, range(3), 7 if index < long else 0) for index in range(short + long)]
    expected = runtime.vectors(batches[0])
    found = list(runtime.each(batches))
    assert {id(batch) for batch, _ in found} == {id(batch) for batch in batches}
    for _, vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert [settings.get("SNIPPETS_MODE") for settings in compilations] == [None, *snippets]
