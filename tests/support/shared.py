"""Expensive files that are made once per test run, whichever worker of pytest-xdist needs them first."""

import fcntl
import os
import shutil
import sys
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
            make(folder)
            done.touch()
    return folder


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this run share."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    root.mkdir(exist_ok=True)
    return root


def take_share_of_cores() -> None:
    """Keep this worker, and the programs that it starts, to its share of the cores.

    Otherwise the threads of one worker wait for cores that another one holds.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker and hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        share = {core for core in cores if core % count == int(worker.removeprefix("gw"))}
        os.sched_setaffinity(0, share or cores)


@contextmanager
def using_every_core() -> Iterator[None]:
    """Let this process use all cores of the machine while the block runs."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    share = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, share)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(len(share))  # runtimes set it for the whole process
