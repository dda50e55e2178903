"""The gate of fp16 and bf16, the half types: the graph runs with the rounding of a GPU, on any machine."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from m2d_export.gate.parity import Checked, compare
from m2d_export.gate.reference import Reference
from m2d_export.graphs.export import save_graphs
from m2d_export.graphs.rounding import peak_names, rounded_graph
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.onnxrt import OnnxRuntime
from m2d_export.runtimes.runtime import Runtime, RuntimeOptions
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray, cosine

HEADROOM = 2  # other texts may have values larger than the probe texts, up to this factor


class RoundedRuntime(OnnxRuntime):
    """ONNX Runtime with every fp16 or bf16 result rounded as on a GPU; records the largest magnitude of each value."""

    def __init__(self, variant: Variant) -> None:
        rounded = rounded_graph(ir.load(variant.path), variant.precision)
        with tempfile.TemporaryDirectory(prefix="m2d-rounded-") as folder:
            path = Path(folder, "rounded.onnx")
            save_graphs({path: rounded}, path.with_suffix(".bin"))
            super().__init__(replace(variant, path=path), RuntimeOptions("onnxrt"))
        self._precision, self._names = variant.precision, peak_names(rounded)
        self._peaks = np.zeros(len(self._names), dtype=np.float32)

    def _vectors(self, batch: Batch) -> FloatArray:
        vectors, peaks = self.outputs(batch)
        self._peaks = np.maximum(self._peaks, peaks)  # NaN stays
        return vectors

    def _each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Run the batches one after the other through ``_vectors``, which records the peaks."""
        return Runtime._each(self, batches)

    @property
    def peak(self) -> float:
        """The largest magnitude of any recorded value so far."""
        return float(self._peaks.max(initial=0))

    def overflows(self) -> list[str]:
        """A message for the first value that is too close to the largest number; empty if there is none."""
        largest = PRECISIONS[self._precision].largest or np.inf
        for name, peak in zip(self._names, self._peaks, strict=True):
            if not peak <= largest / HEADROOM:
                return [
                    f"{name} reaches {peak:.3g}, but {self._precision} ends at {largest:.6g}: leave out this "
                    "precision, or build bf16, which has the range of fp32"
                ]
        return []


def check_half(variant: Variant, reference: Reference) -> Checked:
    """Compare the probe texts at every dim, and batches of many shapes; look for values close to overflow."""
    layer = variant.layer
    with RoundedRuntime(variant) as runtime:
        expected = reference.probe_vectors[layer]
        found = compare(runtime, expected, reference.tokenizer, reference.probes, reference.dims)
        pairs = [(runtime.vectors(batch), vectors[layer]) for batch, vectors in reference.shapes]
        overflows, peak = runtime.overflows(), runtime.peak
    with np.errstate(all="ignore"):
        cosines = np.concatenate([cosine(vectors, expected) for vectors, expected in pairs])
    parity = replace(
        found,
        finite=found.finite and all(bool(np.isfinite(vectors).all()) for both in pairs for vectors in both),
        cosine_min=min(found.cosine_min, float(cosines.min())),
        peak=peak if PRECISIONS[variant.precision].largest else None,
    )
    return parity, [*overflows, *parity.failures(PRECISIONS[variant.precision].bounds)]
