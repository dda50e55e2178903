"""Check a graph before it is published: compare its vectors with the reference."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from m2d_export.gate.reference import Reference
from m2d_export.precisions import PRECISIONS, Bounds
from m2d_export.runtimes.runtime import Runtime
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import Variant
from m2d_export.text.batches import SAMPLE_ATTENTION, pad
from m2d_export.text.tokenizer import TokenIds, Tokenizer
from m2d_export.vectors import FloatArray, cosine, truncate

MIN_DISTINCTION = 1e-4  # if the vectors of two unrelated texts differ by less, the output is constant
EXTRA_PADDING = 7


@dataclass(frozen=True)
class Parity:
    """How close a graph is to the reference, over texts and dims. ``Bounds`` explains the values that have a bound.

    ``distinction`` is the largest difference between the vectors of two unrelated texts. int8 is compared on ordinary
    sentences at full width. Only int8 has ``agreement`` (Spearman x 100 with the reference), ``probes_cosine_min`` (the
    smallest cosine on the probe texts) and ``float_columns`` (how many columns of activations are multiplied in float).
    Only fp16 and bf16 have ``peak`` (the largest magnitude of a value that is rounded).
    """

    texts: int
    finite: bool
    cosine_min: float
    cosine_mean: float
    max_abs_diff: float
    invariance: float
    invariance_cosine: float
    distinction: float
    agreement: float | None = None
    probes_cosine_min: float | None = None
    float_columns: int | None = None
    peak: float | None = None

    def metrics(self) -> dict[str, Any]:
        """The metrics that were measured, by their names in the manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def failures(self, bounds: Bounds) -> list[str]:
        """A message for each value that breaks its bound. If the list is empty, the graph may be published.

        NaN breaks every bound.
        """
        if not self.finite:
            return ["the graph or the reference gives NaN or infinity"]
        problems = []
        if not self.cosine_min >= bounds.cosine_min:
            problems.append(f"cosine to the reference is {self.cosine_min:.7f}, minimum {bounds.cosine_min}")
        if not self.cosine_mean >= bounds.cosine_mean:
            problems.append(f"mean cosine to the reference is {self.cosine_mean:.7f}, minimum {bounds.cosine_mean}")
        if self.agreement is not None and not self.agreement >= bounds.agreement:
            problems.append(f"agreement with the reference is {self.agreement:.1f}, minimum {bounds.agreement:g}")
        if not self.invariance <= bounds.invariance:
            problems.append(
                f"the vectors of a text by itself and in a batch differ by {self.invariance:.1e}, "
                f"maximum {bounds.invariance:.0e}"
            )
        if not self.invariance_cosine >= bounds.invariance_cosine:
            found, needed = self.invariance_cosine, bounds.invariance_cosine
            problems.append(f"the vectors of a text by itself and in a batch have cosine {found:.7f}, minimum {needed}")
        if not self.distinction >= MIN_DISTINCTION:
            problems.append(f"vectors of different texts differ by only {self.distinction:.1e}: the output is constant")
        return problems


Checked = tuple[Parity, list[str]]  # the measured values, and a message for every failure


def check_float32(variant: Variant, reference: Reference) -> Checked:
    """Compare the vectors of the probe texts with the reference. ``compare`` explains how."""
    with open_runtime("onnxrt", variant) as runtime:
        expected = reference.probe_vectors[variant.layer]
        parity = compare(runtime, expected, reference.tokenizer, reference.probes, reference.dims)
    return parity, parity.failures(PRECISIONS[variant.precision].bounds)


def compare(
    runtime: Runtime, reference: FloatArray, tokenizer: Tokenizer, tokens: Sequence[TokenIds], dims: Sequence[int]
) -> Parity:
    """Compare vectors of single texts with ``reference`` (texts, width) at every dim.

    The vectors of single texts are also compared with the vectors of the same texts in batches.
    """
    single = vectors_of_single_texts(runtime, tokenizer, tokens)
    return compare_single(single, runtime, reference, tokenizer, tokens, dims)


def vectors_of_single_texts(runtime: Runtime, tokenizer: Tokenizer, tokens: Sequence[TokenIds]) -> FloatArray:
    """Compute a runtime's vectors with one text per call: (texts, width)."""
    return np.concatenate([runtime.vectors(pad([item], tokenizer.spec, [0])) for item in tokens])


def compare_single(
    single: FloatArray,
    runtime: Runtime,
    reference: FloatArray,
    tokenizer: Tokenizer,
    tokens: Sequence[TokenIds],
    dims: Sequence[int],
) -> Parity:
    """Like ``compare``, but the caller passes the vectors of single texts: ``single`` (texts, width)."""
    spec, count, width = tokenizer.spec, len(tokens), reference.shape[1]
    lengths = [len(item.ids) for item in tokens]
    longest = max(lengths)
    size = max(2, SAMPLE_ATTENTION // longest**2)
    batches = (
        *((range(start, min(start + size, count)), longest) for start in range(0, count, size)),  # all texts
        (range(count - 2, -1, -1), 0),  # all texts but the last one (the longest probe), in reverse order
        *(((row, row + 1), max(lengths[row : row + 2]) + EXTRA_PADDING) for row in range(0, count - 2, 2)),
    )
    with np.errstate(all="ignore"):
        unit = truncate(single, width)
        changes, cosines_to_single = [], []
        for rows, length in batches:
            batch = pad([tokens[row] for row in rows], spec, rows, min(length, spec.max_tokens))
            batched = truncate(runtime.vectors(batch), width)
            changes.append(np.abs(batched - unit[list(rows)]).max())
            cosines_to_single.append(cosine(batched, unit[list(rows)]).min())
        cosines = np.stack([cosine(single[:, :dim], reference[:, :dim]) for dim in dims])
        return Parity(
            texts=count,
            finite=all(bool(np.isfinite(values).all()) for values in (single, reference, changes)),
            cosine_min=float(cosines.min()),
            cosine_mean=float(cosines.mean()),
            max_abs_diff=float(np.abs(unit - truncate(reference, width)).max()),
            invariance=float(np.max(changes)),
            invariance_cosine=float(np.min(cosines_to_single)),
            distinction=float(np.abs(unit[0] - unit[1]).max()),
        )
