"""Stand-ins for CUDA's runtime and TensorRT on machines without a GPU.

They have only names that the real modules have. Memory is host memory, and ONNX Runtime runs the graphs. Work on a
stream runs only when the stream is waited for, so code that reads a result too early finds none.
"""

import ctypes
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import onnxruntime as ort
import tensorrt_rtx_bindings as rtx
from cuda.bindings import runtime as real

from m2d_export.spec import ShapeRange

OK = real.cudaError_t.cudaSuccess
OUTPUT = "sentence_embedding"
RTX_ALONE = {"CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy", "ComputeCapability"}


class Cuda:
    """``cuda.bindings.runtime``: its functions by their real signatures. ``fails`` maps names to a status."""

    def __init__(self) -> None:
        self.fails: dict[str, real.cudaError_t] = {}
        self.called: Counter[str] = Counter()
        self.live: dict[int, Any] = {}  # not freed yet: memory by address, streams and graphs by handle
        self.waiting: list[Callable[[], object]] = []
        self.recording: list[Callable[[], object]] | None = None
        self._handles = count(1)

    def __getattr__(self, name: str) -> Any:
        found = getattr(real, name)  # AttributeError if the real module lacks it
        if isinstance(found, type) or not callable(found):
            return found
        return create_autospec(found, side_effect=lambda *arguments: self._call(name, *arguments))

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        self.called[name] += 1
        if name in self.fails:
            return self.fails[name], None
        if name == "cudaGetErrorString":
            return real.cudaGetErrorString(*arguments)
        return OK, *Cuda.FUNCTIONS[name](self, *arguments)

    def give(self, work: Callable[[], object]) -> None:
        """Run something on the stream, or record it in a capture."""
        (self.waiting if self.recording is None else self.recording).append(work)

    def memory(self, address: int, size: int, side: str) -> Any:
        """The buffer at an address; fails unless it holds ``size`` bytes from there on and is on this side."""
        starts = [start for start, held in self.live.items() if isinstance(held, tuple) and start <= address]
        where, buffer = self.live[max(starts)]
        assert address + size <= max(starts) + buffer.nbytes, "beyond the end of a buffer"
        assert where == side
        return buffer

    def _stream(self, flags: int) -> Any:
        assert flags == real.cudaStreamNonBlocking
        return (self._handle(real.cudaStream_t, "stream"),)

    def _handle(self, kind: Any, held: Any) -> Any:
        handle = kind(next(self._handles))
        self.live[int(handle)] = held
        return handle

    def _allocated(self, side: str, size: int) -> tuple[int]:
        buffer = np.full(size, 0xAB, dtype=np.uint8)
        self.live[buffer.ctypes.data] = side, buffer
        return (buffer.ctypes.data,)

    def _free(self, held: Any) -> tuple[()]:
        del self.live[int(held)]
        return ()

    def _copy(self, to: int, source: int, size: int, kind: Any, stream: Any) -> tuple[()]:
        assert self.live[int(stream)] == "stream"
        sides = {"cudaMemcpyHostToDevice": ("device", "host"), "cudaMemcpyDeviceToHost": ("host", "device")}[kind.name]
        self.memory(to, size, sides[0])
        self.memory(source, size, sides[1])
        self.give(lambda: ctypes.memmove(to, source, size))
        return ()

    def _wait(self, stream: Any) -> tuple[()]:
        assert self.recording is None, "a capture must not be waited for"
        while self.waiting:
            self.waiting.pop(0)()
        return ()

    def _begin(self, stream: Any, mode: Any) -> tuple[()]:
        assert not self.waiting
        self.recording = []
        return ()

    def _end(self, stream: Any) -> tuple[Any]:
        recorded, self.recording = self.recording, None
        return (self._handle(real.cudaGraph_t, recorded),)

    def _instantiated(self, graph: Any, flags: int) -> tuple[Any]:
        return (self._handle(real.cudaGraphExec_t, list(self.live[int(graph)])),)

    def _launch(self, graph: Any, stream: Any) -> tuple[()]:
        self.waiting += self.live[int(graph)]
        return ()

    FUNCTIONS: Mapping[str, Callable[..., tuple[Any, ...]]] = {
        "cudaStreamCreateWithFlags": _stream,
        "cudaStreamDestroy": _free,
        "cudaStreamSynchronize": _wait,
        "cudaStreamBeginCapture": _begin,
        "cudaStreamEndCapture": _end,
        "cudaGraphInstantiate": _instantiated,
        "cudaGraphDestroy": _free,
        "cudaGraphExecDestroy": _free,
        "cudaGraphLaunch": _launch,
        "cudaMalloc": lambda self, size: self._allocated("device", size),
        "cudaMallocHost": lambda self, size: self._allocated("host", size),
        "cudaFree": _free,
        "cudaFreeHost": _free,
        "cudaMemcpyAsync": _copy,
    }


class TensorRT:
    """The module ``tensorrt_rtx_bindings``, or with ``full`` the module ``tensorrt``, which lacks RTX's own names.

    ``graphs`` has, by the sha256 of an engine, the ONNX graph and the profiles that it was made from.
    """

    def __init__(self, cuda: Cuda, full: bool = False) -> None:
        self.cuda, self.full = cuda, full
        self.graphs: dict[str, tuple[Path, tuple[ShapeRange, ...]]] = {}
        self.validity, self.reasons, self.information = rtx.EngineValidity.VALID, 0, "{}"
        self.deserialized: list[bytes] = []
        self.contexts: list[Any] = []
        self.configs: list[Any] = []
        self.compiled = b""  # the contents of the runtime cache of RTX
        self.takes_kept = True
        self.refuses: set[str] = set()  # calls of a context that return False
        self.__version__ = "11.4.0.106" if full else rtx.__version__

    def __getattr__(self, name: str) -> Any:
        if self.full and name in RTX_ALONE:
            raise AttributeError(name)
        return getattr(rtx, name)

    def Runtime(self, log: Any) -> Any:  # noqa: N802 - as the module names it
        runtime = create_autospec(rtx.Runtime, instance=True, spec_set=True)
        runtime.get_engine_validity.side_effect = lambda plan: (self.validity, self.reasons)
        runtime.deserialize_cuda_engine.side_effect = lambda plan: self._engine(plan, log)
        if self.full:  # older versions cannot check whether an engine is valid here
            return SimpleNamespace(deserialize_cuda_engine=runtime.deserialize_cuda_engine)
        return runtime

    def _engine(self, plan: bytes, log: Any) -> Any:
        self.deserialized.append(plan)
        found = self.graphs.get(hashlib.sha256(plan).hexdigest())
        if found is None:
            log.log(rtx.ILogger.Severity.ERROR, "made-up reason\nin two lines")
            return None
        path, shapes = found
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [*(value.name for value in session.get_inputs()), OUTPUT]
        engine = create_autospec(rtx.ICudaEngine, instance=True, spec_set=True)
        engine.num_io_tensors, engine.device_memory_size_v2 = len(names), 4096
        engine.get_tensor_name.side_effect = names.__getitem__
        inspector = create_autospec(rtx.EngineInspector, instance=True, spec_set=True)
        inspector.get_engine_information.side_effect = lambda form: self.information
        engine.create_engine_inspector.return_value = inspector
        engine.create_runtime_config.side_effect = self._config
        engine.create_execution_context.side_effect = lambda how: self._context(session, shapes, how)
        return engine

    def _config(self) -> Any:
        assert not self.full
        config = create_autospec(rtx.IRuntimeConfig, instance=True, spec_set=True)
        cache = create_autospec(rtx.IRuntimeCache, instance=True, spec_set=True)
        cache.deserialize.side_effect = self._take
        cache.serialize.side_effect = lambda: self.compiled
        config.create_runtime_cache.return_value = cache
        self.configs.append(config)
        return config

    def _take(self, kept: bytes) -> bool:
        self.compiled = kept if self.takes_kept else b""
        return self.takes_kept

    def _context(self, session: Any, shapes: tuple[ShapeRange, ...], how: Any) -> Any:
        shared = how is rtx.ExecutionContextAllocationStrategy.USER_MANAGED
        assert shared if self.full else how is self.configs[-1]
        state = _Context(self, session, shapes, shared)
        context = create_autospec(rtx.IExecutionContext, instance=True, spec_set=True)
        for name in (
            *("set_optimization_profile_async", "set_tensor_address", "set_input_shape", "get_tensor_shape"),
            *("set_device_memory", "execute_async_v3"),
        ):
            getattr(context, name).side_effect = state.method(name)
        self.contexts.append(state)
        return context


class _Context:
    """An execution context: the shapes and addresses that it was given, and the graph that it runs."""

    def __init__(self, library: TensorRT, session: Any, shapes: tuple[ShapeRange, ...], shared: bool) -> None:
        self.library, self.cuda = library, library.cuda
        self.session, self.profiles = session, shapes
        self.inputs = [value.name for value in session.get_inputs()]
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, int]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = None if shared else "its own"
        self.ran: set[tuple[int, int]] = set()

    def method(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return False if name in self.library.refuses else getattr(self, name)(*arguments)

        return call

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert self.cuda.live[stream] == "stream"
        assert self.cuda.recording is None
        self.profile = profile
        return profile < len(self.profiles)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in (*self.inputs, OUTPUT)

    def set_device_memory(self, address: int, size: int) -> None:
        self.cuda.memory(address, size, "device")
        self.memory = "shared"

    def set_input_shape(self, name: str, shape: tuple[int, int]) -> bool:
        assert self.profile is not None
        profile = self.profiles[self.profile]
        self.shapes[name] = shape
        bounds = zip(profile.min, shape, profile.max, strict=True)
        return name in self.inputs and all(least <= size <= most for least, size, most in bounds)

    def get_tensor_shape(self, name: str) -> Any:
        assert name == OUTPUT
        return rtx.Dims((self.shapes[self.inputs[0]][0], self.session.get_outputs()[0].shape[1]))

    def execute_async_v3(self, stream: int) -> bool:
        assert self.cuda.live[stream] == "stream"
        assert set(self.shapes) == set(self.inputs), "not all shapes are set"
        assert set(self.addresses) == {*self.inputs, OUTPUT}, "not all addresses are set"
        assert self.memory, "no memory to compute in"
        (shape,) = set(self.shapes.values())
        if self.cuda.recording is not None and shape not in self.ran:
            return False  # the first run of a shape cannot be captured
        self.cuda.give(lambda: self._run(shape))
        return True

    def _run(self, shape: tuple[int, int]) -> None:
        assert set(self.shapes.values()) == {shape}, "this context was changed after it was captured"
        self.ran.add(shape)
        size = shape[0] * shape[1] * 8
        feeds = {}
        for name in self.inputs:
            self.cuda.memory(self.addresses[name], size, "device")
            feeds[name] = np.frombuffer(ctypes.string_at(self.addresses[name], size), np.int64).reshape(shape)
        (vectors,) = self.session.run(None, feeds)
        self.cuda.memory(self.addresses[OUTPUT], vectors.nbytes, "device")
        ctypes.memmove(self.addresses[OUTPUT], np.ascontiguousarray(vectors).ctypes.data, vectors.nbytes)


def installed(monkeypatch: Any, full: bool = False, cards: tuple[Any, ...] = ()) -> SimpleNamespace:
    """Put both stand-ins in place of the real modules; the driver reports ``cards``."""
    cuda = Cuda()
    library = TensorRT(cuda, full)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt" if full else "tensorrt_rtx_bindings", library)
    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: cards)
    return SimpleNamespace(cuda=cuda, library=library)
