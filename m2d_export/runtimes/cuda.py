"""Call the functions of CUDA that engines need: memory, one stream, graphs. The package is ``cuda.bindings``."""

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
    """Memory and one stream of the first GPU. ``close`` frees them in reverse order.

    If a call fails, RuntimeUnavailable names the call and CUDA's reason. ``extra`` is the extra of this package that
    installs the bindings.
    """

    def __init__(self, extra: str) -> None:
        self._api = require("cuda.bindings.runtime", extra)
        self._owned = ExitStack()
        (self.stream,) = self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)
        self._owned.callback(self._call, "cudaStreamDestroy", self.stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call a function of CUDA. Returns its results without the status."""
        status, *values = getattr(self._api, name)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            _, reason = self._api.cudaGetErrorString(status)
            raise RuntimeUnavailable(f"{name} failed: {reason.decode()} ({status.name}, {int(status)})")
        return tuple(values)

    def memory(self, size: int) -> int:
        """Allocate ``size`` bytes on the GPU, and return their address."""
        (address,) = self._call("cudaMalloc", max(size, 1))
        self._owned.callback(self._call, "cudaFree", address)
        return int(address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate ``size`` bytes of pinned memory: memory of the host that the GPU can read and write."""
        (address,) = self._call("cudaMallocHost", max(size, 1))
        self._owned.callback(self._call, "cudaFreeHost", address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def copy_to(self, address: int, array: NDArray[Any]) -> None:
        """Copy ``array``, in pinned memory, to the GPU. The copy waits for earlier work of the stream."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def copy_from(self, address: int, array: NDArray[Any]) -> None:
        """Copy from the GPU to ``array``, in pinned memory. The copy waits for earlier work of the stream.

        Call ``wait`` before you read ``array``.
        """
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self.stream)

    def wait(self) -> None:
        """Wait until the stream has no more work."""
        self._call("cudaStreamSynchronize", self.stream)

    def captured(self, work: Callable[[], None]) -> Any:
        """Record the CUDA calls of ``work`` as a graph for ``launch``. The GPU does not run them yet."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal  # other threads can use CUDA
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:
            self._api.cudaStreamEndCapture(self.stream)  # its status is ignored: it only says that the capture failed
            raise
        (graph,) = self._call("cudaStreamEndCapture", self.stream)
        try:
            (ready,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return ready

    def launch(self, ready: Any) -> None:
        """Run a captured graph in the stream."""
        self._call("cudaGraphLaunch", ready, self.stream)

    def free_graph(self, ready: Any) -> None:
        """Free a captured graph."""
        self._call("cudaGraphExecDestroy", ready)

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        self._owned.close()
