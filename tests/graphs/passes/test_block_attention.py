"""Attention in blocks of queries: the same vectors, in less memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from m2d_export import Bundle
from m2d_export.graphs.passes.block_attention import block_attention
from tests.support.checkpoints import ARCHITECTURES

PEAK = """
import sys
import numpy as np, onnxruntime as ort
from m2d_export.bench.memory import peak_bytes
session = ort.InferenceSession(sys.argv[1])
def run(tokens):
    ones = np.ones((1, tokens), np.int64)
    session.run(None, {value.name: ones for value in session.get_inputs()})
run(8)
before = peak_bytes()
run(2000)
print(peak_bytes() - before)
"""


def in_blocks(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """The graph of the deepest exit as it is and with attention in blocks, with their weights inside."""
    whole, blocks = bundle.variant(bundle.grid.depth).path, folder / "blocks.onnx"
    model = ir.load(whole)
    assert block_attention(model)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    ir.save(model, blocks)
    return whole, blocks


def test_attention_in_blocks_gives_the_same_vectors(bundle: Bundle, tmp_path: Path) -> None:
    check_same_vectors(bundle, tmp_path)


@pytest.mark.slow
# Backwards: another worker may build the same bundles for test_folder.py at this time, and starts at the other end.
@pytest.mark.parametrize("architecture", [name for name in reversed(ARCHITECTURES) if name != "deberta-v2"])
def test_attention_of_every_architecture_can_be_in_blocks(architecture: str, architecture_of, tmp_path: Path) -> None:
    check_same_vectors(architecture_of(architecture)[1], tmp_path)


def check_same_vectors(bundle: Bundle, folder: Path) -> None:
    """The graph in blocks gives the vectors of the whole graph, also for fewer tokens than blocks."""
    whole, blocks = (ort.InferenceSession(str(path)) for path in in_blocks(bundle, folder))
    chance = np.random.default_rng(0)
    for shape in ((1, 1), (2, 3), (3, 33)):
        mask = np.ones(shape, np.int64)
        mask[-1, shape[1] // 2 + 1 :] = 0
        values = {"input_ids": chance.integers(5, 90, shape), "attention_mask": mask}
        np.testing.assert_allclose(whole.run(None, values)[0], blocks.run(None, values)[0], atol=1e-5)


@pytest.mark.slow
def test_attention_in_blocks_takes_a_part_of_the_memory(architecture_of, tmp_path: Path) -> None:
    _, bundle = architecture_of("modernbert")
    whole, blocks = (
        int(subprocess.run([sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True).stdout)
        for path in in_blocks(bundle, tmp_path)
    )
    assert blocks < whole / 3
