"""Run exits with ONNX Runtime's CUDA or TensorRT provider. Inputs and outputs lie in GPU memory."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.errors import RuntimeUnavailable, SpecError, first_line
from m2d_export.host.extras import require
from m2d_export.runtimes.onnxrt import open_session
from m2d_export.runtimes.profiles import split
from m2d_export.runtimes.runtime import CLOSED, GPU_TOKENS, RUN_FAILED, Runtime, RuntimeOptions
from m2d_export.spec import ShapeRange, TextSpec, Variant, default_shapes
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OnnxGpuRuntime(Runtime):
    """A session that runs on CUDA or TensorRT. Raises RuntimeUnavailable if ONNX Runtime chooses another provider.

    The TensorRT provider builds its own engine at the first use of a profile. This takes minutes. ``options.cache`` is
    a folder that keeps these engines. In an fp16 graph, the TensorRT provider can compute in half although the graph
    states float32.
    """

    token_budget = GPU_TOKENS

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        ort = require("onnxruntime", "gpu")
        wanted = TENSORRT if options.name == "onnxrt-trt" else CUDA
        if wanted not in ort.get_available_providers():
            raise RuntimeUnavailable(
                f"this onnxruntime {ort.__version__} has no {wanted}: the packages onnxruntime and onnxruntime-gpu "
                "overwrite each other. Run pip uninstall onnxruntime, then pip install --force-reinstall "
                "'m2d-export[gpu]'"
            )
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # this loads CUDA and cuDNN from their own packages
        providers = {CUDA: {"device_id": "0", "use_tf32": "0"}}  # fp32 must not become TF32
        self.name, self.provider = options.name, wanted
        self._profiles: tuple[ShapeRange, ...] = ()
        if wanted == TENSORRT:
            if variant.text is None:
                raise SpecError("TensorRT must know the length of the longest text: use a variant of Bundle.variant")
            self._profiles = default_shapes(variant.text.max_tokens)
            providers = {TENSORRT: _tensorrt(variant.text, self._profiles, options.cache), **providers}
        self._array = ort.OrtValue.ortvalue_from_numpy
        self._turn = Lock()
        self._session: Any = open_session(variant, ort.SessionOptions(), providers)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0].name

    def _vectors(self, batch: Batch) -> FloatArray:
        with self._turn:
            if self._session is None:
                raise SpecError(CLOSED)
            parts = [part for _, part in split(batch, self._profiles)] if self._profiles else [batch]
            return np.concatenate([self._run(part)[: len(part.rows)] for part in parts])

    def _run(self, batch: Batch) -> FloatArray:
        binding = self._session.io_binding()
        try:
            for name in self._inputs:
                binding.bind_ortvalue_input(name, self._array(getattr(batch, name), "cuda", 0))
            binding.bind_output(self._output, "cuda", 0)
            self._session.run_with_iobinding(binding)
            return np.asarray(binding.copy_outputs_to_cpu()[0], dtype=np.float32)
        except Exception as error:  # ONNX Runtime raises types of its own
            raise RuntimeUnavailable(
                f"ONNX Runtime cannot run this batch: {first_line(error)}; {RUN_FAILED}"
            ) from error

    def _close(self) -> None:
        self._session = None


def _tensorrt(text: TextSpec, shapes: tuple[ShapeRange, ...], cache: Path | None) -> dict[str, str]:
    """Make the options of the TensorRT provider. They contain the default profiles for every input."""
    options = {"device_id": "0", "trt_fp16_enable": "1"}
    for which in ("min", "opt", "max"):
        sizes = [(name, *getattr(shape, which)) for shape in shapes for name in text.input_names]
        options[f"trt_profile_{which}_shapes"] = ",".join(f"{name}:{rows}x{tokens}" for name, rows, tokens in sizes)
    if cache is not None:
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    return options
