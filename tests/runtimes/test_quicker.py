"""Short texts on the CPU take one thread or all of them, whichever has been quicker of late."""

import time
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.runtimes import onnxrt, open_runtime
from m2d_export.runtimes.quicker import AGAIN, LATEST, Quicker
from m2d_export.text.batches import Batch, TokenIds, batches, pad

TEXTS = ["A man is singing.", "A dog runs.", "Two women are cooking rice."]


def called(quicker: Quicker, calls: int, seconds: tuple[float, float]) -> list[int]:
    """The ways of so many calls, each of which takes the seconds of its way."""
    ways = []
    for _ in range(calls):
        ways.append(quicker.way())
        quicker.took(ways[-1], seconds[ways[-1]])
    return ways


@pytest.mark.parametrize("quick", [0, 1])
@pytest.mark.parametrize("ratio", [1.5, 4.0])
def test_tries_of_the_slower_way_are_about_a_sixteenth_of_the_time(quick: int, ratio: float) -> None:
    quicker = Quicker()
    seconds = (1.0, ratio) if quick == 0 else (ratio, 1.0)
    assert sorted(called(quicker, 2 * LATEST, seconds)) == [0] * LATEST + [1] * LATEST
    tries = called(quicker, 960, seconds).count(1 - quick)
    assert tries == 960 / (AGAIN * ratio)
    assert tries * ratio <= 960 / 16


def test_a_way_that_became_the_slower_one_is_left_at_once_and_found_again_by_the_next_try() -> None:
    quicker = Quicker()
    called(quicker, 2 * AGAIN, (1.0, 2.0))
    assert called(quicker, 2 * AGAIN, (3.0, 2.0)).count(1) >= 2 * AGAIN - LATEST - 2
    ways = called(quicker, 3 * AGAIN, (1.0, 2.0))
    assert ways[2 * AGAIN :].count(0) >= AGAIN - 1


def test_one_call_that_was_interrupted_changes_nothing() -> None:
    quicker = Quicker()
    called(quicker, AGAIN, (1.0, 2.0))
    quicker.took(0, 1000.0)
    assert called(quicker, AGAIN, (1.0, 2.0)).count(0) >= AGAIN - 1


class Slowed:
    """A session each of whose calls takes longer by ``seconds``; ``calls`` are counted."""

    def __init__(self, session: Any) -> None:
        self._session, self.seconds, self.calls = session, 0.0, 0
        self.get_inputs = session.get_inputs

    def run(self, names: None, values: dict[str, Any]) -> Any:
        self.calls += 1
        time.sleep(self.seconds)
        return self._session.run(names, values)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> dict[int, Slowed]:
    """The open sessions, by their threads."""
    found: dict[int, Slowed] = {}
    opened = onnxrt.opened

    def spy(variant: Any, options: Any, providers: Any) -> Slowed:
        found[options.intra_op_num_threads] = Slowed(opened(variant, options, providers))
        return found[options.intra_op_num_threads]

    monkeypatch.setattr(onnxrt, "opened", spy)
    monkeypatch.setattr(onnxrt, "BRIEF", 1.0)  # whatever else this machine does
    return found


@pytest.fixture
def batch(bundle: Bundle) -> Batch:
    return next(batches(bundle.tokenizer.encode(["A man is singing."]), bundle.manifest.text))


def test_short_batches_go_to_whichever_threads_are_quicker(
    bundle: Bundle, batch: Batch, sessions: dict[int, Slowed]
) -> None:
    with open_runtime("onnxrt", bundle.variant(3), threads=2) as runtime:
        own = runtime.vectors(batch)
        runtime.settle(batch)
        assert sorted(sessions) == [1, 2]
        for slow, quick in ((2, 1), (1, 2)):
            sessions[slow].seconds, sessions[quick].seconds = 0.05, 0
            runtime.settle(batch)
            for _ in range(2 * AGAIN):  # both were alike, so that the slower one is tried often
                runtime.vectors(batch)
            sessions[slow].calls = 0
            for _ in range(4 * AGAIN):
                np.testing.assert_allclose(runtime.vectors(batch), own, atol=1e-6)
            assert sessions[slow].calls <= 4


def test_so_do_texts_of_an_encoder_that_gets_one_at_a_time(bundle: Bundle, sessions: dict[int, Slowed]) -> None:
    with Encoder(bundle, threads=2) as encoder:
        own, late = encoder.encode(TEXTS[:1]), time.monotonic() + 60
        while 1 not in sessions or not sessions[1].calls:
            assert time.monotonic() < late, "it was never opened, or never tried"
            np.testing.assert_allclose(encoder.encode(TEXTS[:1]), own, atol=1e-6)
        assert sessions[2].calls >= onnxrt.OFTEN


@pytest.mark.parametrize(("tokens", "brief"), [(onnxrt.SHORT + 1, 1.0), (8, 0.0)])
def test_long_batches_and_those_that_take_long_keep_all_threads(
    bundle: Bundle, sessions: dict[int, Slowed], tokens: int, brief: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxrt, "BRIEF", brief)
    batch = pad([TokenIds(range(5, 5 + tokens))], bundle.manifest.text, [0])
    with open_runtime("onnxrt", bundle.variant(1), threads=2) as runtime:
        runtime.settle(batch)
        for _ in range(onnxrt.OFTEN):
            runtime.vectors(batch)
    assert list(sessions) == [2]


@pytest.mark.parametrize("fate", ["gone", "another"])
def test_an_encoder_keeps_the_model_that_it_has_opened(
    copied_bundle: Path, fate: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxrt, "BRIEF", 1.0)  # whatever else this machine does
    with Encoder(Bundle.open(copied_bundle), 3, threads=2) as encoder:
        own = encoder.encode(TEXTS)
        graph = copied_bundle / "graphs" / "layer-03.fp32.onnx"
        graph.unlink()
        if fate == "another":
            copyfile(copied_bundle / "graphs" / "layer-01.fp32.onnx", graph)
        for _ in range(2 * onnxrt.OFTEN):
            np.testing.assert_allclose(encoder.encode(TEXTS[:1]), own[:1], atol=1e-6)
        encoder.token_budget = 8
        for _ in range(2):
            np.testing.assert_allclose(encoder.encode(TEXTS * 20), np.tile(own, (20, 1)), atol=1e-6)
    (warning,) = [record.getMessage() for record in caplog.records if "once more" in record.getMessage()]
    assert str(graph) in warning
