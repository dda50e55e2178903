"""Describe the machine and the versions of packages; results and builds depend on them."""

import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from m2d_export.host.cgroups import ROOT, cpu_quota, memory_limit
from m2d_export.host.gpu import gpus

# Instruction sets that decide which kernels a library runs. In a cloud, a processor's name may say only "AMD EPYC".
KERNEL_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
MAX_THREADS = 1024  # of a runtime; a processor has fewer cores, and more threads take long to start
INT8_FLAGS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
PACKAGES = (
    *("m2d-export", "numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "transformers"),
    *("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "bm25s"),
)


def cores(root: Path = ROOT) -> int:
    """The number of cores that this process may use: that of its CPU affinity, or its container's quota if smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    return min(allowed, cpu_quota(root) or allowed)


def memory_bytes(root: Path = ROOT) -> int:
    """The bytes of memory that this process may use: those of the machine, or its container's limit if smaller."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(installed, memory_limit(root) or installed)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each of ``packages``; a package that is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, Any]:
    """What every record says of this machine: processor, cores, memory in GB, system, GPUs, Python and versions."""
    cards = [gpu.name for gpu in gpus()]
    return {
        "cpu": _cpu_name() + (f" ({listed})" if (listed := ", ".join(kernel_flags())) else ""),
        "cores": cores(),
        "memory_gb": max(1, round(memory_bytes() / 1e9)),
        "system": platform.system(),
        **({"gpu": ", ".join(cards)} if cards else {}),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
    }


def cores_and_processor() -> str:
    """The number of cores that this process may use, and the processor, in words."""
    here = machine()
    return f"{here['cores']} core{'s' if here['cores'] != 1 else ''} of {here['cpu']}"


def processor() -> str:
    """The processor's name and all its instruction sets, as one line."""
    return " ".join([_cpu_name(), *sorted(flags())])


def flags() -> set[str]:
    """The processor's instruction sets; empty if the system does not list them."""
    return {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}  # the field's name on x86, then on ARM


def kernel_flags() -> list[str]:
    """The instruction sets that decide which kernels run; empty if the system does not list them."""
    found = flags()
    return [flag for flag in KERNEL_FLAGS if flag in found]


def multiplies_int8() -> bool | None:
    """Whether the processor has int8 dot products (VNNI or similar); None if its instruction sets are unknown."""
    found = flags()
    return bool(found & INT8_FLAGS) if found else None


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's /proc/cpuinfo; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
