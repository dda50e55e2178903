"""Run engines of TensorRT and of TensorRT for RTX, in one CUDA stream, with a CUDA graph for each shape of batches."""

import contextlib
import logging
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.engines.library import library, logger, read_engine
from m2d_export.errors import OutputError, RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.host.files import is_private
from m2d_export.runtimes.compile_cache import cache_path, read_cached, store
from m2d_export.runtimes.cuda import Cuda
from m2d_export.runtimes.engine_types import check_types
from m2d_export.runtimes.profiles import Slot, split
from m2d_export.runtimes.runtime import CLOSED, GPU_TOKENS, Runtime, RuntimeOptions
from m2d_export.runtimes.table import gpu_for
from m2d_export.spec import OUTPUT, Engine, Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

log = logging.getLogger(__name__)
MAX_GRAPHS = 64  # at most this number of shapes have a CUDA graph and an execution context


class TensorrtRuntime(Runtime):
    """The engine of a variant on the first GPU. If several threads call it, they take turns.

    ``options.cache`` is a folder for the code that TensorRT for RTX compiles for this GPU. The default is a private
    folder next to the bundle. Raises RuntimeUnavailable if library, GPU and engine do not fit together. Raises
    IntegrityError if the engine's file is not the one in the manifest.
    """

    token_budget = GPU_TOKENS

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        kind = options.name
        gpu, trt = gpu_for(kind), library(kind)
        built = variant.engine(kind)
        plan = read_engine(built, trt.__version__, gpu)
        self.name, self.provider = kind, gpu.name
        self._trt, self._profiles, self._width = trt, built.key.shapes, variant.width
        self._turn = Lock()
        self._log = logger(trt)
        self._contexts: dict[int, Any] = {}  # RTX only: the context of each profile
        self._captured: OrderedDict[Slot, tuple[Any, Any]] = OrderedDict()  # TensorRT only: context and CUDA graph
        with ExitStack() as opened:
            self._cuda = opened.enter_context(Cuda(kind))  # first, because the library asks which GPU is in use
            self._engine = self._deserialized(plan, built)
            inspector = self._engine.create_engine_inspector()
            information = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
            check_types(information, variant.precision, built.path.name)
            self._rtx = _RtxCode(trt, self._engine, built, gpu.name, options.cache) if kind == "trt-rtx" else None
            self._allocate()
            opened.pop_all()
        self._open = True

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable if the library is too old or the CUDA bindings are missing."""
        library(options.name)
        require("cuda.bindings.runtime", options.name)

    def _deserialized(self, plan: bytes, built: Engine) -> Any:
        trt, name = self._trt, built.path.name
        self._runtime = trt.Runtime(self._log)  # it must live as long as its engines
        if hasattr(self._runtime, "get_engine_validity"):
            validity, reasons = self._runtime.get_engine_validity(plan)
            known = trt.EngineInvalidityDiagnostics.__members__.items()
            why = ", ".join(what for what, bit in known if int(bit) & int(reasons)) or "no reason"
            if validity == trt.EngineValidity.INVALID:
                raise RuntimeUnavailable(
                    f"{name} cannot run on {self.provider}: {self.name} reports {why}. Build the engine again, or use "
                    "another runtime"
                )
            if validity == trt.EngineValidity.SUBOPTIMAL:
                log.warning("%s runs on this GPU, but slower than it could: %s reports %s", name, self.name, why)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeUnavailable(f"{self.name} cannot load {name}: {self._last_error()}")
        return engine

    def _last_error(self) -> str:
        return self._log.errors[-1] if self._log.errors else "it gives no reason"

    def _allocate(self) -> None:
        """Allocate buffers for the largest batch of any profile, because captured graphs need fixed addresses."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        texts = max(profile.max[0] for profile in self._profiles)
        tokens = max(profile.max[0] * profile.max[1] for profile in self._profiles)
        if self._rtx is None:  # TensorRT: contexts take turns, so they share scratch memory
            size = self._engine.device_memory_size_v2
            self._scratch = self._cuda.memory(size), size
        self._inputs = {name: self._buffer(tokens, np.int64) for name in names if name != OUTPUT}
        self._output = self._buffer(texts * self._width, np.float32)

    def _buffer(self, count: int, kind: type[np.generic]) -> tuple[int, NDArray[Any]]:
        """An address on the GPU, and page-locked host memory of the same size."""
        size = count * np.dtype(kind).itemsize
        return self._cuda.memory(size), self._cuda.pinned(size).view(kind)

    def _vectors(self, batch: Batch) -> FloatArray:
        """The vectors of a batch. A batch that is too large is split."""
        with self._turn:
            if not self._open:
                raise SpecError(CLOSED)
            parts = split(batch, self._profiles)
            return np.concatenate([self._run(slot, part)[: len(part.rows)].copy() for slot, part in parts])

    def _run(self, slot: Slot, batch: Batch) -> FloatArray:
        for name, (_, host) in self._inputs.items():
            values = getattr(batch, name)
            host[: values.size] = values.ravel()
        if self._rtx is not None:  # RTX captures graphs itself
            if slot.profile not in self._contexts:
                self._contexts[slot.profile] = self._context(slot.profile)
            self._shape(self._contexts[slot.profile], slot.shape)
            self._enqueue(self._contexts[slot.profile], slot.shape)
        elif slot in self._captured:
            self._captured.move_to_end(slot)
            self._cuda.launch(self._captured[slot][1])
        else:
            self._capture(slot)
        self._cuda.wait()
        return self._host(slot.shape[0]).reshape(-1, self._width)

    def _capture(self, slot: Slot) -> None:
        """Run a shape once, then capture it as a CUDA graph. The first run allocates memory, but a capture must not."""
        if len(self._captured) == MAX_GRAPHS:
            _, (_, graph) = self._captured.popitem(last=False)
            self._cuda.free_graph(graph)
        context = self._context(slot.profile)
        self._shape(context, slot.shape)
        self._enqueue(context, slot.shape)
        self._cuda.wait()
        graph = self._cuda.captured(lambda: self._enqueue(context, slot.shape))
        self._captured[slot] = context, graph

    def _context(self, profile: int) -> Any:
        shared = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._rtx.config if self._rtx else shared)
        if context is None:
            raise RuntimeUnavailable(f"{self.name} cannot create an execution context: {self._last_error()}")
        if self._rtx is None:
            context.set_device_memory(*self._scratch)
        self._check(context.set_optimization_profile_async(profile, int(self._cuda.stream)), f"profile {profile}")
        for name, (address, _) in {**self._inputs, OUTPUT: self._output}.items():
            self._check(context.set_tensor_address(name, address), f"memory of {name}")
        return context

    def _shape(self, context: Any, shape: tuple[int, int]) -> None:
        for name in self._inputs:
            self._check(context.set_input_shape(name, shape), f"shape {shape} of {name}")
        given, wanted = tuple(context.get_tensor_shape(OUTPUT)), (shape[0], self._width)
        if given != wanted:
            raise RuntimeUnavailable(
                f"this engine returns vectors of shape {given}, but the manifest says {wanted}: build it again"
            )

    def _enqueue(self, context: Any, shape: tuple[int, int]) -> None:
        rows, tokens = shape
        for address, host in self._inputs.values():
            self._cuda.copy_to(address, host[: rows * tokens])
        self._check(context.execute_async_v3(int(self._cuda.stream)), "a batch")
        self._cuda.copy_from(self._output[0], self._host(rows))

    def _host(self, rows: int) -> FloatArray:
        return self._output[1][: rows * self._width]

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise RuntimeUnavailable(f"{self.name} refuses {what}: {self._last_error()}")

    def _close(self) -> None:
        """Store the code that RTX has compiled, then free graphs, contexts, engine and memory."""
        with self._turn:
            if not self._open:
                return
            self._open = False
            with ExitStack() as closing:
                closing.callback(self._cuda.close)
                closing.callback(self._forget)
                for _, graph in self._captured.values():
                    closing.callback(self._cuda.free_graph, graph)
                if self._rtx is not None:
                    closing.callback(self._rtx.store)

    def _forget(self) -> None:
        self._contexts.clear()
        self._captured.clear()
        self._rtx = self._engine = self._runtime = None


class _RtxCode:
    """The settings of RTX for an engine, and the code that RTX compiles for it. The next process uses the same code."""

    def __init__(self, trt: Any, engine: Any, built: Engine, gpu: str, cache: Path | None) -> None:
        self.config = engine.create_runtime_config()
        self.config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # If RTX compiled lazily, it would replace kernels between two calls, and the vector of a text would change.
        strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self.config.dynamic_shapes_kernel_specialization_strategy = strategy
        self._is_default = cache is None
        depends_on = {"sha256": built.sha256, "library": trt.__version__, "gpu": gpu}
        self._path = cache_path(cache or built.cache, depends_on)
        self._usable = cache is not None or is_private(built.cache)  # other users must not write code that is run here
        self._before = read_cached(self._path) if self._usable else b""
        self._cache = self.config.create_runtime_cache()
        if self._before and not self._cache.deserialize(self._before):  # another driver made it
            self._before = b""
        self.config.set_runtime_cache(self._cache)

    def store(self) -> None:
        """Write new code to the cache; an error is raised only if the user named the folder."""
        code = bytes(self._cache.serialize())
        if self._usable and code != self._before:
            with contextlib.suppress(OutputError) if self._is_default else contextlib.nullcontext():
                store(self._path, code)
