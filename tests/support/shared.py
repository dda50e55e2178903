"""Expensive files that are made once per test run, and cores that the workers of pytest-xdist share."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Make = Callable[[Path], object]  # writes into the folder that it is given
Once = Callable[[str, Make], Path]


def made_once(root: Path, name: str, make: Make) -> Path:
    """The folder ``name`` in ``root``, filled by ``make`` unless another process has filled it.

    A process waits while another one makes the folder. What a failed ``make`` left is removed by the next one.
    """
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with on_share_of_cores():
                make(folder)
            done.touch()
    return folder


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this run share."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    return root


# Threads of one worker that wait for cores of another one make a build take twice as long.


def share_of_cores() -> set[int]:
    """The cores of this worker: all where there is only one."""
    cores = os.sched_getaffinity(0)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return {core for core in cores if core % count == worker} or cores


@contextmanager
def on_share_of_cores() -> Iterator[None]:
    """Keep this thread, and the programs that it starts, on the cores of this worker."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, share_of_cores())
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def limit_threads_of_torch() -> None:
    """Give torch as many threads as this worker has cores. Other libraries keep theirs, because tests check them."""
    if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("OMP_NUM_THREADS", str(len(share_of_cores())))
