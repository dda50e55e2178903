"""The pipeline: it publishes a whole bundle or nothing, whatever happens on the way, and never harms what is there."""

import errno
import functools
import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from m2d_export import Bundle, Encoder, graphs, parity
from m2d_export import build as pipeline
from m2d_export.batching import Batch
from m2d_export.build import Plan, Report
from m2d_export.bundle import MANIFEST
from m2d_export.checkpoint import load_checkpoint
from m2d_export.errors import DiskFullError, M2DError, OutputError, ParityError, SpecError
from m2d_export.exits import ExitEncoder
from m2d_export.files import STAGING, remove_stale
from m2d_export.spec import Precision
from tests.conftest import heed_signals

STEPS = (  # of a build of one exit
    "loading the checkpoint",
    "exporting all exits once",
    "cutting one fp32 graph per exit",
    "writing fp32 graphs and their shared weights",
    "running the reference",
    "parity of layer 1, fp32",
    "writing the manifest",
    "publishing",
)
PROBES = 4
load_once = functools.cache(load_checkpoint)
TEXTS = ["A man is playing a guitar.", "", "The cat sat on the mat. " * 9]


def tree(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Everything under a path, itself included: its mode, and its content, or where a link points."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = path.lstat().st_mode, content
    return found


def staging(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{STAGING}*"))


def sound(target: Path) -> bool:
    return Bundle.open(target).problems() == []


# Builds in processes of their own, so that they can be killed. One server process imports everything and exports once;
# each build runs in a fork of it.


def build(
    checkpoint: Path,
    target: Path,
    force: bool = False,
    layers: Sequence[int] | None = (1,),
    report: Report = lambda step: None,
) -> None:
    planned = pipeline.plan(str(checkpoint), target, layers=layers, force=force, report=report)
    pipeline.build(planned, force=force, report=report)


def serve(connection: Connection, checkpoint: Path, exported: Path) -> None:
    """Export ``checkpoint`` to ``exported``, then run each task in a fork: answers its exit code and its error."""
    torch.set_num_threads(1)  # thread pools do not survive a fork
    loaded = load_checkpoint(str(checkpoint))
    exits = ExitEncoder(loaded, range(1, loaded.depth + 1)).eval()
    model = graphs.model_from_exits(exits, loaded.width, loaded.text.max_tokens)
    ir.save(model, exported)
    # What every fork would do alike, done once; and a few probe texts only.
    pipeline.load_checkpoint = lambda *arguments: loaded
    graphs.model_from_exits = lambda *arguments: model
    parity.PROBES = parity.PROBES[:PROBES]
    connection.send((0, "ready"))
    while task := connection.recv():
        function, arguments = task
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            message, code = "", 0
            try:
                function(checkpoint, *arguments)
            except M2DError as error:
                message, code = f"{type(error).__name__}: {error}", error.exit_code
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException as error:
                message, code = repr(error), 99
            os.write(writing, message.encode())
            os._exit(code)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            message = pipe.read()
        connection.send((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message))


class Forge:
    """The server process. It starts exporting at once, and is waited for when it is needed."""

    def __init__(self, checkpoint: Path, exported: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, checkpoint, exported), daemon=True)
        self._process.start()
        theirs.close()
        self._exported, self._ready = exported, False

    def _answer(self) -> tuple[int, str]:
        assert self._connection.poll(300), "the server process does not answer"
        code, message = self._connection.recv()
        return code, message

    def exported(self) -> Path:
        """The file of the one graph with all exits."""
        if not self._ready:
            self._answer()
            self._ready = True
        return self._exported

    def run(self, function: Callable[..., None], *arguments: Any) -> tuple[int, str]:
        """Exit code, negative for a signal, and error of ``function(checkpoint, *arguments)`` in a new process."""
        self.exported()
        self._connection.send((function, arguments))
        return self._answer()

    def close(self) -> None:
        self.exported()
        self._connection.send(None)
        self._process.join(30)


@pytest.fixture(scope="module")
def forge(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Forge]:
    forge = Forge(checkpoint, tmp_path_factory.mktemp("exported") / "all.onnx")
    request.getfixturevalue("bundle")  # if there is none yet, it is built while the server exports
    yield forge
    forge.close()


# Builds in this process, from what the server has exported.


@pytest.fixture
def plan(forge: Forge, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """``build.plan`` with the target ``new.m2d``; what it plans builds without exporting, and with few probe texts."""
    monkeypatch.setattr(pipeline, "load_checkpoint", load_once)
    monkeypatch.setattr(parity, "PROBES", parity.PROBES[:PROBES])
    monkeypatch.setattr(graphs, "model_from_exits", lambda *arguments: ir.load(forge.exported()))
    return lambda **options: pipeline.plan(str(checkpoint), **{"target": tmp_path / "new.m2d", **options})


@pytest.fixture
def old(copied_bundle: Path) -> Path:
    """A published bundle to replace."""
    return copied_bundle


# What is built


def test_two_builds_in_one_process_give_the_same_bytes(plan: Callable[..., Plan], tmp_path: Path) -> None:
    one, other = (pipeline.build(plan(target=tmp_path / name, layers=[1])).root for name in ("one", "other"))
    assert tree(one) == tree(other)


def test_a_build_reports_every_step_as_it_begins(plan: Callable[..., Plan]) -> None:
    steps: list[str] = []
    pipeline.build(plan(layers=[1], report=steps.append), report=steps.append)
    assert tuple(steps) == STEPS


def test_a_second_export_in_another_process_gives_the_same_bundle(forge: Forge, bundle: Bundle, tmp_path: Path) -> None:
    assert forge.run(build, tmp_path / "again.m2d", False, None) == (0, "")
    again = Bundle.open(tmp_path / "again.m2d")
    first, second = tree(bundle.root), tree(again.root)
    del first[MANIFEST], second[MANIFEST]
    assert second == first
    unmeasured = [replace(entry, parity={}) for entry in bundle.manifest.variants]  # which threads may alter
    assert [replace(entry, parity={}) for entry in again.manifest.variants] == unmeasured
    assert replace(again.manifest, variants=bundle.manifest.variants) == bundle.manifest


def test_a_bundle_is_private_until_it_is_published(plan: Callable[..., Plan]) -> None:
    modes: dict[str, list[int]] = {}
    planned = plan(layers=[1])

    def look(step: str) -> None:
        modes[step] = [stat.S_IMODE(path.stat().st_mode) for path in staging(planned.target)]
        assert not planned.target.exists()

    pipeline.build(planned, report=look)
    assert modes == {step: [] if step == STEPS[1] else [0o700] for step in STEPS[1:]}
    assert stat.S_IMODE(planned.target.stat().st_mode) == 0o755
    assert staging(planned.target) == []


def test_layers_and_dims_are_those_asked_for(plan: Callable[..., Plan]) -> None:
    built = pipeline.build(plan(layers=[3, 1, 1], dims=[8, 48]))
    assert (built.grid.layers, built.grid.dims) == ((1, 3), (48, 8))
    assert sorted(path.name for path in (built.root / "graphs").iterdir()) == [
        "layer-01.fp32.onnx",
        "layer-03.fp32.onnx",
        "weights.fp32.bin",
    ]


@pytest.mark.parametrize("options", [{"layers": [0]}, {"layers": [4]}, {"layers": []}, {"dims": [65]}, {"dims": [0]}])
def test_layers_and_dims_that_do_not_exist_are_refused_by_the_plan(
    plan: Callable[..., Plan], options: dict[str, list[int]]
) -> None:
    with pytest.raises(SpecError):
        plan(**options)


def test_folders_on_the_way_to_the_target_are_made(plan: Callable[..., Plan], tmp_path: Path) -> None:
    assert sound(pipeline.build(plan(target=tmp_path / "not" / "yet" / "new.m2d")).root)


# The weights


def external(graph: Path) -> dict[str, Mapping[str, str]]:
    """Where each initializer of a graph that is not inside it lies."""
    model = onnx.load(graph, load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}


def test_all_weights_lie_in_one_file_beside_the_graphs(bundle: Bundle) -> None:
    folders = {Path(entry.path).parent for entry in bundle.manifest.variants}
    assert folders == {Path("graphs")}
    for entry in bundle.manifest.variants:
        assert {place["location"] for place in external(bundle.root / entry.path).values()} == {"weights.fp32.bin"}
        assert entry.weights == "graphs/weights.fp32.bin"


def test_every_distinct_tensor_is_stored_once_on_a_page_of_its_own(bundle: Bundle) -> None:
    found = [place for entry in bundle.manifest.variants for place in external(bundle.root / entry.path).values()]
    ranges = sorted({(int(place["offset"]), int(place["length"])) for place in found})
    data = (bundle.root / "graphs/weights.fp32.bin").read_bytes()
    digests = {hashlib.sha256(data[offset : offset + length]).digest() for offset, length in ranges}
    assert len(digests) == len(ranges) < len(found)
    end = 0
    for offset, length in ranges:
        assert offset == -(-end // 4096) * 4096
        end = offset + length
    assert end == len(data)


def test_initializers_of_one_name_are_one_tensor_in_every_exit(bundle: Bundle) -> None:
    shallow, middle, deep = (external(bundle.root / entry.path) for entry in bundle.manifest.variants)
    for one, other in ((shallow, middle), (shallow, deep), (middle, deep)):
        common = one.keys() & other.keys()
        assert len(common) > 10
        assert {name: one[name] for name in common} == {name: other[name] for name in common}
    assert middle.keys() < deep.keys()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_no_graph_names_a_folder_of_this_machine(bundle: Bundle, checkpoint: Path, layer: int) -> None:
    graph = (bundle.root / f"graphs/layer-0{layer}.fp32.onnx").read_bytes()
    folders = [str(folder.parent) for folder in (Path(__file__).parent, Path(sys.prefix), checkpoint, bundle.root)]
    assert [place for place in [*folders, "site-packages", ".py", "m2d_export"] if place.encode() in graph] == []


@pytest.mark.slow
def test_all_exits_together_are_hardly_larger_than_the_deepest_alone(minilm_bundle: Bundle) -> None:
    files, deepest = minilm_bundle.manifest.files, minilm_bundle.manifest.variants[-1]
    together = sum(entry.size for name, entry in files.items() if name.startswith("graphs/"))
    needed = {place["offset"]: int(place["length"]) for place in external(minilm_bundle.root / deepest.path).values()}
    assert together <= 1.03 * (files[deepest.path].size + sum(needed.values()))


# A target that exists


def occupy(target: Path, kind: str) -> None:
    if kind == "folder":
        (target / "inner").mkdir(parents=True)
        (target / "inner" / "thesis.tex").write_text("precious")
    elif kind == "empty folder":
        target.mkdir()
    elif kind == "folder with a folder for a manifest":
        (target / MANIFEST).mkdir(parents=True)
    elif kind == "file":
        target.write_text("precious")
    elif kind == "dangling link":
        target.symlink_to("nowhere")


KINDS = ("folder", "empty folder", "folder with a folder for a manifest", "file", "dangling link")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_bundle_is_never_replaced(
    plan: Callable[..., Plan], tmp_path: Path, kind: str, force: bool
) -> None:
    occupy(tmp_path / "new.m2d", kind)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"new\.m2d exists and is not a bundle: choose another path"):
        plan(force=force)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_link_to_a_bundle_is_never_replaced(
    plan: Callable[..., Plan], old: Path, tmp_path: Path, force: bool
) -> None:
    (tmp_path / "new.m2d").symlink_to(old)
    with pytest.raises(OutputError, match="is not a bundle"):
        plan(force=force)
    assert (tmp_path / "new.m2d").is_symlink()


def test_a_bundle_is_replaced_with_force_alone(plan: Callable[..., Plan], old: Path) -> None:
    before = tree(old)
    with pytest.raises(OutputError, match=r"copy\.m2d exists: use --force to replace it, or choose another path"):
        plan(target=old)
    assert tree(old) == before
    assert pipeline.build(plan(target=old, layers=[2], force=True), force=True).grid.layers == (2,)
    assert sound(old)
    assert staging(old) == []


@pytest.mark.parametrize(
    "target", ["x" * 300, "~no-such-user/../file/new.m2d", "file/new.m2d"], ids=lambda name: name[:9]
)
def test_a_target_that_cannot_be_is_an_output_error(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}"):
        pipeline.build(plan(target=target))


def test_an_open_encoder_outlives_the_replacement_of_its_bundle(plan: Callable[..., Plan], old: Path) -> None:
    with Encoder(Bundle.open(old)) as serving:
        before = serving.encode(TEXTS)
        built = pipeline.build(plan(target=old, layers=[1], force=True), force=True)
        assert np.array_equal(serving.encode(TEXTS), before)
        with Encoder(Bundle.open(old)) as fresh:
            assert fresh.cell.layer == 1
            assert not np.allclose(fresh.encode(TEXTS), before, atol=1e-3)
    assert Bundle.open(old).id == built.id


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_appears_at_the_target_during_a_build_is_never_replaced(plan: Callable[..., Plan], kind: str) -> None:
    planned = plan(layers=[1], force=True)
    appeared: list[object] = []

    def appear(step: str) -> None:
        if step == "publishing":
            occupy(planned.target, kind)
            appeared.append(tree(planned.target))

    with pytest.raises(OutputError, match="is not a bundle"):
        pipeline.build(planned, force=True, report=appear)
    assert [tree(planned.target)] == appeared
    assert staging(planned.target) == []


def test_of_two_builds_of_one_target_the_first_to_publish_wins(plan: Callable[..., Plan]) -> None:
    slow, fast = plan(layers=[1]), plan(layers=[2])
    published: list[Bundle] = []

    def overtake(step: str) -> None:
        if step == "publishing":
            published.append(pipeline.build(fast))

    with pytest.raises(OutputError, match=r"exists|meanwhile"):
        pipeline.build(slow, report=overtake)
    assert Bundle.open(slow.target).id == published[0].id
    assert sound(slow.target)
    assert staging(slow.target) == []


# The parity gate


def corrupted(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., ir.Model]:
    """``graphs.graph_from_model``, but ``change`` is made to one weight of layer 2."""
    cut_as_it_is = graphs.graph_from_model

    def cut(model: ir.Model, layer: int, *arguments: Any) -> ir.Model:
        graph = cut_as_it_is(model, layer, *arguments)
        if layer == 2:
            weight = next(value for value in graph.graph.initializers.values() if value.const_value.nbytes > 4096)
            weight.const_value = ir.tensor(change(weight.const_value.numpy().copy()), name=weight.name)
        return graph

    return cut


CORRUPTIONS = {
    "scaled": (lambda weight: weight * np.float32(1.1), "cosine to the reference"),
    "NaN": (lambda weight: weight * np.float32("nan"), "it, or the reference, gives NaN or infinity"),
}


@pytest.mark.parametrize(("change", "reason"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_one_exit_that_fails_parity_keeps_the_bundle_from_being_published(
    plan: Callable[..., Plan],
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    monkeypatch.setattr(graphs, "graph_from_model", corrupted(change))
    before = tree(old.parent)
    for planned, force in ((plan(layers=[1, 2, 3]), False), (plan(target=old, layers=[1, 2], force=True), True)):
        with pytest.raises(ParityError, match=f"not published.*layer 2, fp32: {reason}") as caught:
            pipeline.build(planned, force=force)
        assert "layer 1" not in str(caught.value)
        assert "layer 3" not in str(caught.value)
    assert tree(old.parent) == before  # neither a new bundle, nor staging, nor a change to the old one


class Returns:
    """A runtime that gives what ``vectors`` says, whatever it is asked."""

    name = provider = "stub"

    def __init__(self, vector: np.ndarray) -> None:
        self._vector = vector

    def vectors(self, batch: Batch) -> np.ndarray:
        return np.tile(self._vector, (len(batch.rows), 1))


@pytest.mark.parametrize(
    ("vector", "failure"),
    [
        (np.linspace(-1, 1, 64, dtype=np.float32), "its output is constant"),
        (np.full(64, np.nan, dtype=np.float32), "NaN or infinity"),
        (np.full(64, np.inf, dtype=np.float32), "NaN or infinity"),
        (np.zeros(64, dtype=np.float32), "cosine to the reference is 0"),
    ],
    ids=["constant", "NaN", "infinite", "zero"],
)
def test_a_degenerate_output_fails_parity_even_where_the_reference_has_it_too(
    plan: Callable[..., Plan], bundle: Bundle, vector: np.ndarray, failure: str
) -> None:
    tokens = parity.probe_tokens(plan().checkpoint, bundle.tokenizer)
    reference = np.tile(vector, (len(tokens), 1))
    found = parity.compare(Returns(vector), reference, bundle.tokenizer, tokens, dims=[64, 32])
    assert any(failure in problem for problem in found.failures(Precision.FP32))


# A disk that is full, or fails


def test_too_small_a_disk_is_refused_before_the_work(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(DiskFullError, match=r"new\.m2d needs about 1 MB while it is built, and 0 MB are free there"):
        plan()
    assert list(tmp_path.iterdir()) == []


def test_the_room_is_that_of_every_precision_and_engine(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr("m2d_export.build.check_room", lambda target, room: needed.append(room))
    weights = plan().weight_bytes
    plan(precisions=["fp32", "fp16", "int8"])
    assert needed == [2 * weights, 2 * weights + weights + weights // 2]
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    plan(engines=["trt-rtx"])
    assert 3 * weights < needed[-1] < 2 * weights + 3 * weights  # an engine of each of three exits, the deepest whole


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFullError), (errno.EIO, OutputError)])
def test_a_failing_disk_leaves_the_old_bundle_and_no_staging(
    plan: Callable[..., Plan], old: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[OutputError]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    before, planned = tree(old), plan(target=old, layers=[1], force=True)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=f"write {old}.*{os.strerror(code)}"):
        pipeline.build(planned, force=True)
    assert tree(old) == before
    assert staging(old) == []


def limit_file_size(checkpoint: Path, target: Path, at_step: str, size: int) -> None:
    def limit(step: str) -> None:
        if step == at_step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    build(checkpoint, target, force=True, report=limit, layers=None)


@pytest.mark.parametrize(
    ("step", "size"),
    [("writing fp32 graphs and their shared weights", 100_000), ("writing the manifest", 1000)],
    ids=["weights", "manifest"],
)
def test_a_file_that_cannot_be_written_whole_leaves_the_old_bundle_and_no_staging(
    forge: Forge, old: Path, step: str, size: int
) -> None:
    before = tree(old)
    code, message = forge.run(limit_file_size, old, step, size)
    assert code == 2
    assert message.startswith(f"DiskFullError: no room left to write {old} (File too large): free some space")
    assert tree(old) == before
    assert staging(old) == []


# A build that is killed


def die_at(checkpoint: Path, target: Path, force: bool, at_step: str) -> None:
    def die(step: str) -> None:
        if step == at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    build(checkpoint, target, force, report=die)


def die_after_the_exchange(checkpoint: Path, target: Path) -> None:
    shutil.rmtree = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)  # what removes the old bundle
    build(checkpoint, target, force=True)


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_build_leaves_no_target_and_the_next_one_succeeds(forge: Forge, tmp_path: Path, step: str) -> None:
    target = tmp_path / "new.m2d"
    assert forge.run(die_at, target, False, step) == (-signal.SIGKILL, "")
    assert not target.exists()
    assert len(staging(target)) == (step in STEPS[2:])
    assert forge.run(build, target) == (0, "")
    assert sound(target)
    assert staging(target) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_replacement_leaves_the_old_bundle_and_the_next_one_succeeds(
    forge: Forge, old: Path, step: str
) -> None:
    before = tree(old)
    assert forge.run(die_at, old, True, step) == (-signal.SIGKILL, "")
    assert tree(old) == before
    assert forge.run(build, old, True) == (0, "")
    assert Bundle.open(old).grid.layers == (1,)
    assert sound(old)
    assert staging(old) == []


def test_a_build_killed_after_the_exchange_has_published(forge: Forge, old: Path) -> None:
    first = Bundle.open(old)
    assert forge.run(die_after_the_exchange, old) == (-signal.SIGKILL, "")
    assert Bundle.open(old).grid.layers == (1,)
    assert sound(old)
    assert [Bundle.open(path).id for path in staging(old)] == [first.id]
    assert remove_stale(old) == 1


def test_the_next_build_reports_what_a_killed_one_left(plan: Callable[..., Plan], forge: Forge) -> None:
    planned, steps = plan(layers=[1]), list[str]()
    forge.run(die_at, planned.target, False, "writing the manifest")
    pipeline.build(planned, report=steps.append)
    assert steps[0] == "removed 1 unfinished build(s) of new.m2d"


def test_a_build_leaves_the_staging_of_a_living_one_alone(plan: Callable[..., Plan]) -> None:
    planned = plan(layers=[1])
    removed: list[int] = []
    pipeline.build(planned, report=lambda step: removed.append(remove_stale(planned.target)))
    assert set(removed) == {0}
    assert sound(planned.target)


# A command that is interrupted


def interrupt(checkpoint: Path, target: Path, number: int) -> None:
    from m2d_export.cli import main

    save = graphs.save_graphs

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background of a shell ignores it

    def save_and_signal(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), number)

    graphs.save_graphs = save_and_signal
    sys.argv = ["m2d-export", "build", str(checkpoint), "-o", str(target), "--force"]
    main()


SIGNALS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}


@pytest.mark.parametrize(("number", "code"), SIGNALS.values(), ids=SIGNALS)
def test_an_interrupted_command_cleans_up_and_says_so_by_its_code(
    forge: Forge, old: Path, number: int, code: int
) -> None:
    before = tree(old)
    assert forge.run(interrupt, old, number) == (code, "")
    assert tree(old) == before
    assert staging(old) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS.values(), ids=SIGNALS)
def test_the_installed_command_line_can_be_interrupted(checkpoint: Path, old: Path, number: int, code: int) -> None:
    before = tree(old)
    command = [sys.executable, "-m", "m2d_export", "build", str(checkpoint), "-o", str(old), "--force"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals) as process:
        while not staging(old) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert tree(old) == before
    assert staging(old) == []
