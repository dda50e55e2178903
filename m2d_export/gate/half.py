"""The gate of fp16 and bf16: a half graph judged by the arithmetic of a GPU, on whatever machine builds it."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m2d_export.gate.parity import Parity, compare
from m2d_export.graphs.export import save_graphs
from m2d_export.graphs.half import GREATEST, peak_names, rounded_model
from m2d_export.runtimes import Runtime
from m2d_export.runtimes.onnxrt import OnnxRuntime
from m2d_export.spec import TextSpec, Variant
from m2d_export.text.batches import Batch, TokenIds, Tokenizer, pad
from m2d_export.vectors import FloatArray, cosine

BATCH_SIZES, TOKENS = (1, 2, 32), (2, 16, 128)
HEADROOM = 2  # the probe texts stay below the greatest number by this factor, since others will reach further


class RoundedRuntime(OnnxRuntime):
    """The graph of ``variant``, every half result rounded as it is on a GPU; the largest of each is kept."""

    def __init__(self, variant: Variant) -> None:
        rounded = rounded_model(ir.load(variant.path), variant.precision)
        with tempfile.TemporaryDirectory(prefix="m2d-rounded-") as folder:
            path = Path(folder, "rounded.onnx")
            save_graphs({path: rounded}, path.with_suffix(".bin"))
            super().__init__(replace(variant, path=path))
        self._precision, self._names = variant.precision, peak_names(rounded)
        self._peaks = np.zeros(len(self._names), dtype=np.float32)

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        vectors, peaks = self.outputs(batch)
        self._peaks = np.maximum(self._peaks, peaks)  # NaN stays
        return vectors

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, one after the other, since what they reach is kept by ``vectors``."""
        return Runtime.each(self, batches)

    @property
    def peak(self) -> float:
        """The largest magnitude of a half value so far."""
        return float(self._peaks.max())

    def overflows(self) -> list[str]:
        """The first value that comes too near to the greatest number, in words; empty where none does."""
        limit = GREATEST[self._precision] / HEADROOM
        for name, peak in zip(self._names, self._peaks, strict=True):
            if not peak <= limit:
                return [
                    f"{name} reaches {peak:.3g}, and {self._precision} ends at {GREATEST[self._precision]:.6g}: "
                    "leave this precision out, or build bf16, which reaches as far as fp32"
                ]
        return []


def grid(tokens: Sequence[TokenIds], spec: TextSpec) -> list[Batch]:
    """Batches of 1, 2 and 32 texts by 2, 16, 128 and the most tokens, each full and with padding."""
    stream = [token for item in tokens for token in item.ids if token != spec.pad_id]
    batches = []
    for length in sorted({min(count, spec.max_tokens) for count in (*TOKENS, spec.max_tokens)}):
        for size in BATCH_SIZES:
            starts = [(7 * row + length) % len(stream) for row in range(size)]
            rows = [[stream[(start + place) % len(stream)] for place in range(length)] for start in starts]
            short = [row[: max(1, length - (number + 1) * length // (size + 1))] for number, row in enumerate(rows)]
            batches += [pad([TokenIds(row) for row in kind], spec, range(size), length) for kind in (rows, short)]
    return batches


def compare_half(
    runtime: RoundedRuntime,
    reference: FloatArray,
    tokenizer: Tokenizer,
    tokens: Sequence[TokenIds],
    dims: Sequence[int],
    shapes: Sequence[tuple[Batch, FloatArray]],
) -> Parity:
    """As ``parity.compare``, and over the batches of ``grid`` with the reference's vectors of each."""
    found = compare(runtime, reference, tokenizer, tokens, dims)
    pairs = [(runtime.vectors(batch), expected) for batch, expected in shapes]
    with np.errstate(all="ignore"):
        cosines = np.concatenate([cosine(vectors, expected) for vectors, expected in pairs])
    finite = all(bool(np.isfinite(vectors).all()) for both in pairs for vectors in both)
    return replace(
        found,
        finite=found.finite and finite,
        cosine_min=min(found.cosine_min, float(cosines.min())),
        peak=runtime.peak,
    )
