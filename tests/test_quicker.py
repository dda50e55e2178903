"""Short texts on the CPU take one thread or all of them, whichever has been quicker of late."""

import time
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.runtimes import onnxrt
from m2d_export.runtimes.quicker import AGAIN, LATEST, Quicker

TEXTS = ["A man is singing.", "A dog runs.", "Two women are cooking rice."]


def called(quicker: Quicker, calls: int, seconds: tuple[float, float]) -> list[int]:
    """The ways of so many calls, each of which takes the seconds of its way."""
    ways = []
    for _ in range(calls):
        ways.append(quicker.way())
        quicker.took(ways[-1], seconds[ways[-1]])
    return ways


@pytest.mark.parametrize("quick", [0, 1])
def test_the_quicker_way_is_taken_but_for_a_try_now_and_then(quick: int) -> None:
    quicker = Quicker()
    seconds = (1.0, 2.0) if quick == 0 else (2.0, 1.0)
    assert sorted(called(quicker, 2 * LATEST, seconds)) == [0] * LATEST + [1] * LATEST
    assert called(quicker, 4 * AGAIN, seconds).count(1 - quick) == 4


def test_a_way_that_became_the_slower_one_is_left_and_found_again() -> None:
    quicker = Quicker()
    called(quicker, 2 * AGAIN, (1.0, 2.0))
    assert called(quicker, 2 * AGAIN, (3.0, 2.0)).count(1) >= 2 * AGAIN - LATEST - 2
    called(quicker, LATEST * AGAIN, (1.0, 2.0))
    assert called(quicker, AGAIN, (1.0, 2.0)).count(0) == AGAIN - 1


def test_one_call_that_was_interrupted_changes_nothing() -> None:
    quicker = Quicker()
    called(quicker, AGAIN, (1.0, 2.0))
    quicker.took(0, 1000.0)
    assert called(quicker, AGAIN, (1.0, 2.0)).count(0) == AGAIN - 1


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
    return found


def test_short_texts_go_to_whichever_threads_are_quicker(bundle: Bundle, sessions: dict[int, Slowed]) -> None:
    with Encoder(bundle, threads=2) as encoder:
        own = encoder.encode(TEXTS[:1])
        while 1 not in sessions:
            encoder.encode(TEXTS[:1])
        assert sessions[2].calls >= onnxrt.OFTEN
        encoder.token_budget = 8
        encoder.encode(TEXTS * 20)  # many batches wait until it is open, as single texts do not
        for slow, quick in ((2, 1), (1, 2)):
            sessions[slow].seconds, sessions[quick].seconds = 0.05, 0
            for _ in range(LATEST * AGAIN):  # to learn it
                encoder.encode(TEXTS[:1])
            sessions[slow].calls = 0
            for _ in range(4 * AGAIN):
                np.testing.assert_allclose(encoder.encode(TEXTS[:1]), own, atol=1e-6)
            assert 4 <= sessions[slow].calls <= 6


def test_long_texts_keep_all_threads(bundle: Bundle, sessions: dict[int, Slowed]) -> None:
    with Encoder(bundle, threads=2) as encoder:
        for _ in range(onnxrt.OFTEN + 2 * AGAIN):
            encoder.encode(["and so on " * 20])
    assert list(sessions) == [2]


def test_a_bundle_that_is_gone_is_no_loss_to_the_encoder_that_is_open(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(copytree(bundle.root, tmp_path / "copy.m2d"))
    with Encoder(Bundle.open(copy), threads=2) as encoder:
        own = encoder.encode(TEXTS[:1])
        for file in copy.rglob("*.onnx"):
            file.unlink()
        for _ in range(2 * onnxrt.OFTEN):
            np.testing.assert_array_equal(encoder.encode(TEXTS[:1]), own)
