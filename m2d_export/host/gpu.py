"""List the GPUs of this machine with NVIDIA's driver; no Python package is needed."""

import ctypes
from dataclasses import dataclass

from m2d_export.errors import RuntimeUnavailable

DRIVER = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # members of CUdevice_attribute in cuda.h
NAME_BYTES = 128


@dataclass(frozen=True)
class Gpu:
    """A GPU and its compute capability, such as sm90."""

    name: str
    capability: str


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver shows to this process, in the driver's order; empty if there is no driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(driver, place) for place in range(count.value))


def _gpu(driver: ctypes.CDLL, place: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(NAME_BYTES)
    codes = [
        driver.cuDeviceGet(ctypes.byref(device), place),
        driver.cuDeviceGetName(name, NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device),
    ]
    if any(codes):
        raise RuntimeUnavailable(
            f"NVIDIA's driver reports no details of GPU {place} (error codes {codes}): check it with nvidia-smi"
        )
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")


def first_gpu(what: str, instead: str) -> Gpu:
    """The first GPU, for ``what``. If there is none, raises RuntimeUnavailable with the advice ``instead``."""
    found = gpus()
    if not found:
        raise RuntimeUnavailable(f"{what} needs an NVIDIA GPU, but this machine has none: {instead}")
    return found[0]
