"""The full TensorRT, by a stand-in as strict as TensorRT 11, through the function that builds for RTX."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import call, create_autospec

import pytest

from m2d_export.engines.child import Job, engine_from_graph
from m2d_export.engines.library import FLAGS
from m2d_export.errors import ExportError
from m2d_export.spec import EngineKey
from tests.support.checkpoints import SHAPES

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")


REMOVED = {  # in 11; what is called on a stand-in that lacks them would fail
    "BuilderFlag": "FP16 BF16 INT8 FP8 INT4 FP4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS",
    "Builder": "platform_has_fast_fp16 platform_has_fast_int8 build_engine",
    "IBuilderConfig": "int8_calibrator set_calibration_profile algorithm_selector quantization_flags",
    "ILayer": "precision set_output_type",
    "ICudaEngine": "get_binding_shape num_bindings",
    "IExecutionContext": "execute_async_v2 set_binding_shape",
}


def test_the_stand_in_lacks_what_tensorrt_11_has_removed() -> None:
    for name, members in REMOVED.items():
        assert not [member for member in members.split() if hasattr(getattr(rtx, name), member)], name
    assert not [name for name in ("IAlgorithmSelector", "IInt8EntropyCalibrator2") if hasattr(rtx, name)]


def stand_in(half_products: int) -> Any:
    """A module whose classes take only what the real bindings have."""
    network = create_autospec(rtx.INetworkDefinition, instance=True, spec_set=True)
    inputs = [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]
    network.num_inputs, network.num_layers = 2, half_products
    network.get_input.side_effect = inputs.__getitem__
    product = create_autospec(rtx.ILayer, instance=True, spec_set=True)
    product.type = rtx.LayerType.MATRIX_MULTIPLY
    product.get_output.return_value = SimpleNamespace(dtype=rtx.DataType.HALF)
    network.get_layer.return_value = product
    config = create_autospec(rtx.IBuilderConfig, instance=True, spec_set=True)
    config.get_timing_cache.return_value.serialize.return_value = b"timings"
    builder = create_autospec(rtx.Builder, instance=True, spec_set=True)
    builder.create_network.return_value, builder.create_builder_config.return_value = network, config
    profile = partial(create_autospec, rtx.IOptimizationProfile, instance=True, spec_set=True)
    builder.create_optimization_profile.side_effect = profile
    builder.build_serialized_network.return_value = b"a plan"
    parser = create_autospec(rtx.OnnxParser, instance=True, spec_set=True)
    parser.parse_from_file.return_value = True
    real = (
        *("ILogger", "IProgressMonitor", "NetworkDefinitionCreationFlag", "BuilderFlag", "LayerType"),
        "ProfilingVerbosity",
    )
    return SimpleNamespace(
        **{name: getattr(rtx, name) for name in real},
        Builder=lambda log: builder,
        OnnxParser=lambda network, log: parser,
        builder=builder,
        config=config,
        parser=parser,
        __version__="11.4.0.106",
    )


def full_job(tmp_path: Path) -> Job:
    key = EngineKey("trt", "11.4.0.106", "0" * 64, "0" * 64, SHAPES, ("sm90",), "NVIDIA H100", FLAGS)
    return Job(tmp_path / "some.onnx", key, {"FLOAT16": 3}, tmp_path / "out", tmp_path / "timings")


def test_the_full_tensorrt_is_built_by_the_same_function(tmp_path: Path) -> None:
    trt = stand_in(3)
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    typed = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # needed until 10.x, passed over by 11
    assert trt.builder.create_network.call_args == call(typed)
    assert trt.parser.parse_from_file.call_args == call(str(tmp_path / "some.onnx"))
    assert trt.config.clear_flag.call_args == call(rtx.BuilderFlag.TF32)
    assert trt.config.profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
    profiles = [made.args[0] for made in trt.config.add_optimization_profile.call_args_list]
    assert [profile.set_shape.call_args_list for profile in profiles] == [
        [call(name, shapes.min, shapes.opt, shapes.max) for name in ("input_ids", "attention_mask")]
        for shapes in SHAPES
    ]
    assert not trt.config.set_compute_capability.called
    assert trt.config.create_timing_cache.call_args == call(b"")
    assert (tmp_path / "timings").read_bytes() == b"timings"
    engine_from_graph(trt, full_job(tmp_path), lambda phase: None)
    assert trt.config.create_timing_cache.call_args == call(b"timings")  # what one exit was timed at serves the next


def test_the_full_tensorrt_that_returns_nothing_is_an_error(tmp_path: Path) -> None:
    trt = stand_in(3)
    trt.builder.build_serialized_network.return_value = None
    with pytest.raises(ExportError, match=r"trt cannot build some\.onnx"):
        engine_from_graph(trt, full_job(tmp_path), lambda phase: None)


def test_the_first_words_of_a_builder_that_fails_are_its_reason(tmp_path: Path) -> None:
    trt, logs = stand_in(3), []

    def fail(network: Any, config: Any) -> None:
        for said in ("no kernel\nfor a node", "no plan", "no engine", "sorry"):
            logs[0].log(rtx.ILogger.Severity.ERROR, said)

    trt.Builder = lambda log: logs.append(log) or trt.builder
    trt.builder.build_serialized_network.side_effect = fail
    with pytest.raises(ExportError, match=r"some\.onnx: no kernel for a node; no plan; no engine$"):
        engine_from_graph(trt, full_job(tmp_path), lambda phase: None)


@pytest.mark.parametrize("damaged", [False, True])
def test_timings_of_another_card_or_damaged_ones_are_begun_anew(damaged: bool, tmp_path: Path) -> None:
    trt, foreign, fresh = stand_in(3), object(), object()
    trt.config.create_timing_cache.side_effect = {b"foreign": None if damaged else foreign, b"": fresh}.__getitem__
    trt.config.set_timing_cache.side_effect = lambda cache, ignore_mismatch: cache is fresh
    (tmp_path / "timings").write_bytes(b"foreign")
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    assert trt.config.set_timing_cache.call_args == call(fresh, False)
    assert (tmp_path / "timings").read_bytes() == b"timings"


def test_a_builder_without_timings_builds_all_the_same(tmp_path: Path) -> None:
    trt = stand_in(3)
    trt.config.get_timing_cache.return_value = None
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    assert not (tmp_path / "timings").exists()
