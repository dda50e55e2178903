"""The part of CUDA that engines need, by ``cuda.bindings`` and without torch: memory, one stream, graphs."""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.errors import RuntimeUnavailable
from m2d_export.host.extras import require
from m2d_export.runtimes.runtime import Closing


class Cuda(Closing):
    """Memory and one stream of the first GPU, freed by ``close``, the last made first.

    Every status is checked: RuntimeUnavailable names the call, and what CUDA says of it. ``extra`` is what installs the
    bindings.
    """

    def __init__(self, extra: str) -> None:
        self._api = require("cuda.bindings.runtime", extra)
        self._owned = ExitStack()
        (self.stream,) = self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)
        self._owned.callback(self._call, "cudaStreamDestroy", self.stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """What a function of CUDA gives beside its status."""
        status, *values = getattr(self._api, name)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            _, said = self._api.cudaGetErrorString(status)
            raise RuntimeUnavailable(f"{name} failed: {said.decode()} ({status.name}, {int(status)})")
        return tuple(values)

    def memory(self, size: int) -> int:
        """The address of ``size`` bytes on the GPU."""
        (address,) = self._call("cudaMalloc", max(size, 1))
        self._owned.callback(self._call, "cudaFree", address)
        return int(address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes of the host that the GPU reads and writes by itself."""
        (address,) = self._call("cudaMallocHost", max(size, 1))
        self._owned.callback(self._call, "cudaFreeHost", address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def copy_to(self, address: int, array: NDArray[Any]) -> None:
        """Copy pinned ``array`` to the GPU, in the order of the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def copy_from(self, address: int, array: NDArray[Any]) -> None:
        """Copy from the GPU into pinned ``array``, in the order of the stream: ``wait`` before it is read."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def wait(self) -> None:
        """Wait until all that the stream was given is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def captured(self, work: Callable[[], None]) -> Any:
        """What ``work`` gives the stream, as a graph to launch; nothing of it runs yet."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads may go on
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:
            self._api.cudaStreamEndCapture(self.stream)  # it only says again that the capture has failed
            raise
        (graph,) = self._call("cudaStreamEndCapture", self.stream)
        try:
            (ready,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return ready

    def launch(self, ready: Any) -> None:
        """Give the stream a captured graph."""
        self._call("cudaGraphLaunch", ready, self.stream)

    def free_graph(self, ready: Any) -> None:
        """Free a captured graph."""
        self._call("cudaGraphExecDestroy", ready)

    def close(self) -> None:
        """Free all of it; a second time frees nothing."""
        self._owned.close()
