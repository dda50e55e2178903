"""TensorRT engines, of the full library and of RTX: profiles chosen by batch, one stream, CUDA graphs, no torch."""

import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.engines.library import library, logger
from m2d_export.engines.load import read_engine
from m2d_export.errors import OutputError, RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.host.files import is_private
from m2d_export.runtimes.compile_cache import cache_path, read_cached, store
from m2d_export.runtimes.cuda import Cuda
from m2d_export.runtimes.profiles import Place, parts
from m2d_export.runtimes.runtime import CLOSED, GPU_TOKENS, Runtime, RuntimeOptions
from m2d_export.runtimes.table import gpu_for
from m2d_export.spec import Engine, Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

log = logging.getLogger(__name__)
GRAPHS_KEPT = 64  # shapes; each has a context of its own, which a captured graph hangs on
OUTPUT = "sentence_embedding"


class TensorrtRuntime(Runtime):
    """The engine of ``kind`` that was made from a variant, on the first GPU; threads may share it: they take turns.

    ``cache`` is a folder for what RTX compiles on the card, by default one of this user beside the bundle. Raises
    RuntimeUnavailable where library, GPU or engine do not go together, IntegrityError for another file.
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
        self._contexts: dict[int, Any] = {}  # of RTX, by profile
        self._captured: OrderedDict[Place, tuple[Any, Any]] = OrderedDict()  # of the full library: context and graph
        with ExitStack() as opened:
            self._cuda = opened.enter_context(Cuda(kind))  # before the library, which asks what card is in use
            self._engine = self._deserialized(plan, built)
            check_types(self._information(), variant.precision, built.path.name)
            self._compiled = _Compiled(trt, self._engine, built, gpu.name, options.cache) if kind == "trt-rtx" else None
            self._allocate()
            opened.pop_all()
        self._open = True

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable where the library is too old, or the bindings of CUDA are missing."""
        library(options.name)
        require("cuda.bindings.runtime", options.name)

    def _deserialized(self, plan: bytes, built: Engine) -> Any:
        trt, name = self._trt, built.path.name
        self._runtime = trt.Runtime(self._log)  # engines must not outlive it
        if hasattr(self._runtime, "get_engine_validity"):
            validity, reasons = self._runtime.get_engine_validity(plan)
            known = trt.EngineInvalidityDiagnostics.__members__.items()
            why = ", ".join(what for what, bit in known if int(bit) & int(reasons))
            if validity == trt.EngineValidity.INVALID:
                raise RuntimeUnavailable(
                    f"{self.name} says that {name} cannot run on {self.provider} ({why}): build it again, or take a "
                    "runtime that knows this card"
                )
            if validity == trt.EngineValidity.SUBOPTIMAL:
                log.warning("%s says that %s runs here, but not at its best (%s)", self.name, name, why)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RuntimeUnavailable(f"{self.name} cannot load {name}: {self._said()}")
        return engine

    def _information(self) -> str:
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _said(self) -> str:
        """The library's last words."""
        return self._log.errors[-1] if self._log.errors else "it does not say why"

    def _allocate(self) -> None:
        """Buffers for the largest batch of any profile, so that their addresses stay for as long as this is open."""
        names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
        texts = max(profile.max[0] for profile in self._profiles)
        tokens = max(profile.max[0] * profile.max[1] for profile in self._profiles)
        if self._compiled is None:  # contexts of the full library take turns, so that they share their scratch memory
            size = self._engine.device_memory_size_v2
            self._scratch = self._cuda.memory(size), size
        self._inputs = {name: self._buffer(tokens, np.int64) for name in names if name != OUTPUT}
        self._output = self._buffer(texts * self._width, np.float32)

    def _buffer(self, count: int, kind: type[np.generic]) -> tuple[int, NDArray[Any]]:
        """An address on the GPU, and pinned memory of the same size."""
        size = count * np.dtype(kind).itemsize
        return self._cuda.memory(size), self._cuda.pinned(size).view(kind)

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32; what fits no profile is parted."""
        with self._turn:
            if not self._open:
                raise SpecError(CLOSED)
            found = [self._run(place, part)[: len(part.rows)].copy() for place, part in parts(batch, self._profiles)]
        return np.concatenate(found)

    def _run(self, place: Place, batch: Batch) -> FloatArray:
        for name, (_, host) in self._inputs.items():
            values = getattr(batch, name)
            host[: values.size] = values.ravel()
        if self._compiled is not None:  # RTX captures by itself
            if place.profile not in self._contexts:
                self._contexts[place.profile] = self._context(place.profile)
            self._shape(self._contexts[place.profile], place.shape)
            self._enqueue(self._contexts[place.profile], place.shape)
        elif place in self._captured:
            self._captured.move_to_end(place)
            self._cuda.launch(self._captured[place][1])
        else:
            self._capture(place)
        self._cuda.wait()
        return self._vectors(place.shape[0]).reshape(-1, self._width)

    def _capture(self, place: Place) -> None:
        """Run a shape once, which sets up what a capture must not, then capture it for the next time."""
        if len(self._captured) == GRAPHS_KEPT:
            _, (_, graph) = self._captured.popitem(last=False)
            self._cuda.free_graph(graph)
        context = self._context(place.profile)
        self._shape(context, place.shape)
        self._enqueue(context, place.shape)
        self._cuda.wait()
        graph = self._cuda.captured(lambda: self._enqueue(context, place.shape))
        self._captured[place] = context, graph

    def _context(self, profile: int) -> Any:
        shared = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._compiled.config if self._compiled else shared)
        if context is None:
            raise RuntimeUnavailable(f"{self.name} has no context for this engine: {self._said()}")
        if self._compiled is None:
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
            raise RuntimeUnavailable(f"this engine gives vectors of shape {given}, the manifest says {wanted}")

    def _enqueue(self, context: Any, shape: tuple[int, int]) -> None:
        rows, tokens = shape
        for address, host in self._inputs.values():
            self._cuda.copy_to(address, host[: rows * tokens])
        self._check(context.execute_async_v3(int(self._cuda.stream)), "a batch")
        self._cuda.copy_from(self._output[0], self._vectors(rows))

    def _vectors(self, rows: int) -> FloatArray:
        return self._output[1][: rows * self._width]

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise RuntimeUnavailable(f"{self.name} does not take {what}: {self._said()}")

    def close(self) -> None:
        """Keep what RTX has compiled, then free graphs, contexts, engine and memory."""
        with self._turn:
            if not self._open:
                return
            self._open = False
            with ExitStack() as closing:
                closing.callback(self._cuda.close)
                closing.callback(self._forget)
                for _, graph in self._captured.values():
                    closing.callback(self._cuda.free_graph, graph)
                if self._compiled is not None:
                    closing.callback(self._compiled.keep)

    def _forget(self) -> None:
        self._contexts.clear()
        self._captured.clear()
        self._compiled = self._engine = self._runtime = None


class _Compiled:
    """How RTX runs an engine, and what it has compiled of it on this card, kept for the next process."""

    def __init__(self, trt: Any, engine: Any, built: Engine, gpu: str, cache: Path | None) -> None:
        self.config = engine.create_runtime_config()
        self.config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Not lazily: kernels that are exchanged between two calls would change a text's vector from one to the next.
        strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self.config.dynamic_shapes_kernel_specialization_strategy = strategy
        self._own = cache is None
        depends_on = {"sha256": built.sha256, "library": trt.__version__, "gpu": gpu}
        self._path = cache_path(cache or built.cache, depends_on)
        self._usable = cache is not None or is_private(built.cache)  # it is code
        self._before = read_cached(self._path) if self._usable else b""
        self._cache = self.config.create_runtime_cache()
        if self._before and not self._cache.deserialize(self._before):  # of another driver: compiled anew
            self._before = b""
        self.config.set_runtime_cache(self._cache)

    def keep(self) -> None:
        """Write it, where there is anything new; a folder that was not asked for need not be writable."""
        made = bytes(self._cache.serialize())
        if self._usable and made != self._before:
            with contextlib.suppress(OutputError) if self._own else contextlib.nullcontext():
                store(self._path, made)


def check_types(information: str, precision: str, name: str) -> None:
    """Raise RuntimeUnavailable where what is between an engine's layers is neither ``precision`` nor fp32.

    ``information`` is what the engine inspector says in JSON. That ``precision`` is not told is no evidence against it:
    a whole encoder may be fused into one node, which tells nothing of its inside.
    """
    found = set(filter(None, map(_type, _inside(information))))
    if found - {precision, "fp32"}:
        raise RuntimeUnavailable(
            f"{name} is to be {precision}, and computes in {', '.join(sorted(found))}: build it again"
        )
    if precision not in found:
        log.warning("%s does not tell whether it computes in %s: all known is that it was built so", name, precision)


def _inside(information: str) -> Sequence[str]:
    """The types, in the library's words, of all tensors that are neither input nor output of the engine."""
    try:
        told = json.loads(information)
        layers = [layer for layer in told.get("Layers", []) if isinstance(layer, dict)]
        outside = set(told.get("Bindings", []))
        tensors = [tensor for layer in layers for side in ("Inputs", "Outputs") for tensor in layer.get(side, [])]
        return [tensor["Format/Datatype"] for tensor in tensors if tensor["Name"] not in outside]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # of another form than TensorRT 10's: nothing that could be compared


def _type(said: str) -> str | None:
    words = {"bf16": ("bf16", "bfloat16"), "fp16": ("half", "fp16", "float16"), "fp32": ("float", "fp32")}
    return next((kind for kind, names in words.items() if any(name in said.lower() for name in names)), None)
