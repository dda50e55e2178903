"""What the tests of walks share: what is walked, and fake runtimes that keep what they are asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2d_export.bench.sweep import Matrix
from m2d_export.errors import RuntimeUnavailable
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

Record = dict[str, Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "results-format.md"
MATRIX = Matrix(layers=(1, 3), dims=(64, 7), batch_sizes=(1, 5), tokens=(3, 16))
CELLS = [(3, 64), (3, 7), (1, 64), (1, 7)]  # the deepest layer first
SUBJECTS = ("a cat", "the dog", "a man", "the woman", "an old parrot")
DOINGS = ("is playing", "was sitting on the mat", "is not on stage", "rose", "sings a song")
TEXTS = tuple(f"{subject} {doing}" for subject in SUBJECTS for doing in DOINGS)


TWO_WAYS = replace(MATRIX, runtimes=("onnxrt", "pytorch"))


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


class Recorder:
    """Fake runtimes in the place of real ones; keeps what they are asked, and which are open."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...]]] = []  # layer, shape of the batch
        self.ran: list[str] = []  # the runtime of each of them
        self.open: list[int] = []
        self.broken: set[tuple[str, int]] = set()  # runtime, layer: what cannot be opened
        self.seconds: Callable[[int], float] = lambda layer: 0.0
        self.before: Callable[[int], object] = lambda layer: None

    def open_runtime(
        self, name: str, variant: Variant, threads: int | None = None, compute: str = "fp32", cache: object = None
    ) -> FakeRuntime:
        recorder, layer = self, variant.layer
        if (name, layer) in self.broken:
            raise RuntimeUnavailable(f"{name} cannot load layer {layer}")

        class Recorded(FakeRuntime):
            def vectors(self, batch: Batch) -> FloatArray:
                recorder.calls.append((layer, batch.input_ids.shape))
                recorder.ran.append(name)
                recorder.before(layer)
                return super().vectors(batch)

            def close(self) -> None:
                recorder.open.remove(layer)
                super().close()

        self.open.append(layer)
        return Recorded(width=variant.width, seconds=self.seconds(layer), vocabulary=256)
