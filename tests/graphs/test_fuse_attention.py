"""Attention as one operator, and the graphs that ONNX Runtime has of it (that it gives the same: test_graphs.py)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from m2d_export import pipeline
from m2d_export.bundle.bundle import Bundle
from m2d_export.errors import IntegrityError, ParityError, SpecError
from m2d_export.gate import parity
from m2d_export.graphs.passes.fuse_attention import attention_as_one
from m2d_export.runtimes import Runtime
from tests.support.graph_files import in_memory


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Softmax", {"axis": 1}),
        ("Transpose", {"perm": [2, 0, 1, 3]}),
    ],
    ids=["softmax over heads", "another order"],
)
def test_of_attentions_that_are_not_all_like_berts_none_is_joined(
    bundle: Bundle, kind: str, change: dict[str, int | list[int]]
) -> None:
    model = in_memory(bundle)
    assert attention_as_one(model) is not None
    node = next(node for node in model.graph if node.op_type == kind)
    for name, value in change.items():
        node.attributes.add(ir.convenience.convert_attribute(name, value))
    assert attention_as_one(model) is None


def test_onnx_runtime_takes_the_graph_that_is_its_own(quantized: Bundle, copied_quantized: Path) -> None:
    entry = quantized.entry(2, "int8")
    assert entry.onnxrt is not None
    assert quantized.entry(2, "fp32").onnxrt is None
    with pytest.raises(SpecError, match="no runtime 'onnxruntime': there are onnxrt, "):
        quantized.variant(2, "int8", "onnxruntime")
    for runtime, path in (("", entry.path), ("openvino", entry.path), ("onnxrt", entry.onnxrt)):
        assert quantized.variant(2, "int8", runtime).path == quantized.root / path
    opsets = {name: ir.load(quantized.root / name).opset_imports[""] for name in (entry.path, entry.onnxrt)}
    assert opsets == {entry.path: 18, entry.onnxrt: 23}
    (copied_quantized / entry.onnxrt).write_bytes(b"something else")
    damaged = Bundle.open(copied_quantized)
    damaged.variant(2, "int8", "openvino")
    with pytest.raises(IntegrityError, match=r"layer-02\.int8\.onnxrt\.onnx has"):
        damaged.variant(2, "int8", "onnxrt")


def test_each_graph_of_int8_must_pass_the_gate(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed (extra: int8)")
    judged = []

    def worse_the_second_time(runtime: Runtime, *arguments: Any) -> parity.Parity:
        judged.append(runtime)
        found = compare_quantized(runtime, *arguments)
        return replace(found, cosine_min=0.5) if len(judged) == 2 else found

    compare_quantized = parity.compare_quantized
    monkeypatch.setattr(parity, "compare_quantized", worse_the_second_time)
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["int8"])
    with pytest.raises(ParityError, match=r"fail parity: layer 1, int8 of onnxrt: cosine to the reference is 0\.5"):
        pipeline.build(plan)
    assert not (tmp_path / "out.m2d").exists()
