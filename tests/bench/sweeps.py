"""What the tests of sweeps share: what is measured, fake runtimes that record their calls, and a clock."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2d_export.bench.sweep import Matrix
from m2d_export.errors import RuntimeUnavailable
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray
from tests.support.fake_runtime import FakeRuntime

Record = dict[str, Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "results-format.md"
MATRIX = Matrix(layers=(1, 3), dims=(64, 7), batch_sizes=(1, 5), tokens=(3, 16))
CELLS = [(3, 64), (3, 7), (1, 64), (1, 7)]  # the deepest layer first
SUBJECTS = ("a cat", "the dog", "a man", "the woman", "an old parrot")
DOINGS = ("is playing", "was sitting on the mat", "is not on stage", "rose", "sings a song")
TEXTS = tuple(f"{subject} {doing}" for subject in SUBJECTS for doing in DOINGS)


TWO_RUNTIMES = replace(MATRIX, runtimes=("onnxrt", "pytorch"))


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


class Clock:
    """A clock that moves only when something waits or sleeps; it records how long it slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wait(seconds)


class Recorder:
    """Opens fake runtimes, and records their calls and which are open."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...]]] = []  # layer and shape of each batch
        self.ran: list[str] = []  # the runtime of each call
        self.open: list[int] = []
        self.broken: set[tuple[str, int]] = set()  # runtime and layer that cannot be opened
        self.before: Callable[[int], object] = lambda layer: None

    def open_runtime(
        self, name: str, variant: Variant, threads: int | None = None, compute: str = "fp32", cache: object = None
    ) -> FakeRuntime:
        recorder, layer = self, variant.layer
        if (name, layer) in self.broken:
            raise RuntimeUnavailable(f"{name} cannot load layer {layer}")

        class Recorded(FakeRuntime):
            def _vectors(self, batch: Batch) -> FloatArray:
                recorder.calls.append((layer, batch.input_ids.shape))
                recorder.ran.append(name)
                recorder.before(layer)
                return super()._vectors(batch)

            def close(self) -> None:
                recorder.open.remove(layer)
                super().close()

        self.open.append(layer)
        return Recorded(width=variant.width, vocabulary=256)
