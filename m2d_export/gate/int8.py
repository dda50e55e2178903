"""The gate of int8: it compares the vectors of ordinary sentences, and checks those of the probe texts."""

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
    """Compare ordinary sentences at full width; probe texts need finite vectors that do not depend on padding.

    On unusual texts (control characters, emoji, one word of 300 letters), int8 differs more from the reference.
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
    """How many columns of activations a graph multiplies with float weights, in all its products over tokens."""
    return sum(len(weights) for _, weights in products(ir.load(graph)))
