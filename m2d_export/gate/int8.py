"""The gate of int8. It compares the vectors of ordinary sentences with the reference, and checks the probe texts."""

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from m2d_export.agreement import agreement, agreement_reference
from m2d_export.gate.parity import Checked, compare, compare_single, vectors_of_single_texts
from m2d_export.gate.reference import Reference
from m2d_export.graphs.int8 import products
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import Variant


def check_int8(variant: Variant, reference: Reference) -> Checked:
    """Compare full vectors of ordinary sentences with the reference.

    Vectors of probe texts must be finite and must not depend on padding. They need not be close to the reference,
    because int8 differs more on unusual texts: control characters, emoji, one word of 300 letters.
    """
    tokenizer, sentences = reference.tokenizer, reference.sentences
    expected = reference.sentence_vectors[variant.layer]
    width = (expected.shape[1],)
    with open_runtime("onnxrt", variant) as runtime:
        probes = compare(runtime, reference.probe_vectors[variant.layer], tokenizer, reference.probes, width)
        single = vectors_of_single_texts(runtime, tokenizer, sentences)
        found = compare_single(single, runtime, expected, tokenizer, sentences, width)
    parity = replace(
        found,
        finite=found.finite and probes.finite,
        invariance=max(found.invariance, probes.invariance),
        invariance_cosine=min(found.invariance_cosine, probes.invariance_cosine),
        distinction=min(found.distinction, probes.distinction),
        agreement=agreement(single, agreement_reference(expected)).spearman,
        probes_cosine_min=probes.cosine_min,
        float_columns=float_columns(variant.path),
    )
    return parity, parity.failures(PRECISIONS[variant.precision].bounds)


def float_columns(graph: Path) -> int:
    """Count the columns that an int8 graph multiplies with float weights, in all its matmuls over tokens."""
    return sum(len(weights) for _, weights in products(ir.load(graph)))
