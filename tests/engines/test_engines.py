"""TensorRT engines, built for real by TensorRT for RTX, which needs no GPU for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from m2d_export import Bundle, pipeline
from m2d_export import plan as planning
from m2d_export.bundle.disk import published_engine
from m2d_export.bundle.manifest import read_manifest
from m2d_export.cli import cli
from m2d_export.engines import builds as engine_builds
from m2d_export.engines.builds import EngineCache, EnginePlan, TypedGraph, build_engines, plan_engines
from m2d_export.engines.child import Job, engine_from_graph
from m2d_export.errors import ExportError
from m2d_export.host.gpu import Gpu
from m2d_export.host.kept import Kept
from m2d_export.precisions import WITH_ENGINES
from m2d_export.spec import EngineEntry, Precision
from tests.support.checkpoints import ARCHITECTURES, LAYERS, SHAPES

pytestmark = pytest.mark.slow

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")


CARD = Gpu("Made-up RTX", "sm89")
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "bundle-format.schema.json").read_text())


def typed_graphs(bundle: Bundle, folder: Path) -> list[TypedGraph]:
    """The graphs of ``bundle``, as copied to ``folder``."""
    return [
        TypedGraph(entry.layer, entry.precision, folder / entry.graph(), folder / entry.weights)
        for entry in bundle.manifest.variants
    ]


def cache_of(target: Path) -> EngineCache:
    return EngineCache(Kept(target), partial(published_engine, target))


@pytest.fixture
def again(engined: Bundle, tmp_path: Path) -> Callable[..., tuple[list[str], list[str], list[str]]]:
    """Build the engines of ``engined`` once more, beside a target; gives engines built, engines kept, failures."""
    staging = tmp_path / "staging"
    shutil.copytree(engined.root, staging, ignore=shutil.ignore_patterns("engines"))

    def build(target: Path, **changes: Any) -> tuple[list[str], list[str], list[str]]:
        said: list[str] = []
        timeout = changes.pop("timeout", 300.0)
        plan = replace(EnginePlan({"trt-rtx": rtx.__version__}, SHAPES, (), None), **changes)
        shutil.rmtree(staging / "engines", ignore_errors=True)
        _, failed = build_engines(plan, typed_graphs(engined, staging), staging, cache_of(target), said.append, timeout)
        built, kept = (
            [step.removeprefix(verb).partition(":")[0] for step in said if step.startswith(verb)]
            for verb in ("building the engine of ", "keeping the engine of ")
        )
        return built, kept, failed

    return build


ALL = [f"layer {layer}, {precision}, trt-rtx" for precision in ("fp32", "fp16") for layer in (1, 2)]


# What is built


def test_every_exit_has_an_engine_of_each_precision_that_hangs_on_its_graph(engined: Bundle) -> None:
    files = engined.manifest.files
    assert [(entry.layer, entry.precision) for entry in engined.manifest.engines] == [
        (layer, precision) for precision in ("fp32", "fp16") for layer in (1, 2)
    ]
    for entry in engined.manifest.engines:
        variant = engined.entry(entry.layer, entry.precision)
        assert entry.key.graph == files[variant.graph()].sha256
        assert entry.key.weights == files[variant.weights].sha256
        assert (entry.key.version, entry.key.shapes, entry.key.gpu) == (rtx.__version__, SHAPES, None)
        assert files[entry.path].size > 100_000
    assert len({files[entry.path].sha256 for entry in engined.manifest.engines}) == 4
    assert not list(engined.root.parent.glob(".m2d-*"))


def test_a_manifest_with_engines_survives_and_follows_the_schema(engined: Bundle, bundle: Bundle) -> None:
    written = engined.manifest.to_json()
    assert read_manifest(written) == engined.manifest
    jsonschema.validate(json.loads(written), SCHEMA)
    assert json.loads(bundle.manifest.to_json())["engines"] == []


def test_show_lists_engines_and_verify_checks_them(engined: Bundle, tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["show", str(engined.root)], env={"COLUMNS": "160"}).output
    assert f"trt-rtx {rtx.__version__}" in shown
    assert all(str(shapes) in shown for shapes in SHAPES)
    copy = Path(shutil.copytree(engined.root, tmp_path / "copy.m2d"))
    assert engined.problems() == []
    path = copy / engined.manifest.engines[0].path
    path.write_bytes(path.read_bytes()[:-1])
    done = CliRunner().invoke(cli, ["verify", str(copy)])
    assert done.exit_code == 1
    assert engined.manifest.engines[0].path in str(done.exception)


def built(bundle: Bundle, folder: Path, graphs: Sequence[tuple[int, Precision]]) -> Sequence[EngineEntry]:
    """The engines of some graphs of ``bundle``, each a layer in a precision, built into ``folder``."""
    text = bundle.manifest.text
    plan = plan_engines(["trt-rtx"], None, [], WITH_ENGINES, text.max_tokens)
    chosen = [item for item in typed_graphs(bundle, bundle.root) if (item.layer, item.precision) in graphs]
    (folder / "engines").mkdir()
    entries, failed = build_engines(plan, chosen, folder, cache_of(folder / "none.m2d"), lambda step: None)
    assert failed == []
    return entries


# Each architecture once and each precision three times: neither depends on the other.
EACH_ONCE = [(name, WITH_ENGINES[place % len(WITH_ENGINES)]) for place, name in enumerate(ARCHITECTURES)]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "precision"), EACH_ONCE)
def test_every_architecture_and_every_typed_precision_builds(
    architecture: str, precision: Precision, architecture_of: Callable[[str], tuple[Path, Bundle]], tmp_path: Path
) -> None:
    _, bundle = architecture_of(architecture)
    (entry,) = built(bundle, tmp_path, [(LAYERS, precision)])
    assert (tmp_path / entry.path).stat().st_size > 100_000


@pytest.mark.slow
def test_minilm_builds_in_float32(minilm_bundle: Bundle, tmp_path: Path) -> None:
    assert len(built(minilm_bundle, tmp_path, [(1, Precision.FP32)])) == 1


@pytest.mark.slow
def test_the_deepest_exit_of_minilm_builds_in_half(minilm_halves: Bundle, tmp_path: Path) -> None:
    assert len(built(minilm_halves, tmp_path, [(6, Precision.FP16)])) == 1


# What is not built again


def test_nothing_changed_builds_nothing(again: Callable[..., Any], engined: Bundle) -> None:
    assert again(engined.root) == ([], ALL, [])


def test_what_an_engine_hangs_on_builds_it_anew(again: Callable[..., Any], engined: Bundle) -> None:
    built, kept, failed = again(engined.root, shapes=SHAPES[:1], targets=("sm86", "sm89"))
    assert (built, kept, failed) == (ALL, [], [])


def test_a_damaged_engine_of_the_old_bundle_is_built_anew(
    again: Callable[..., Any], engined: Bundle, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(engined.root, tmp_path / "copy.m2d"))
    (copy / engined.manifest.engines[0].path).write_bytes(b"no engine")
    assert again(copy) == (ALL[:1], ALL[1:], [])


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from functools import partial
from m2d_export.bundle.disk import published_engine
from m2d_export.engines.builds import EngineCache, build_engines
from m2d_export.host.kept import Kept

def report(step):
    if step.startswith("building the engine of layer 2"):
        os.kill(os.getpid(), signal.SIGKILL)

plan, graphs, staging, target = pickle.loads(Path(sys.argv[1]).read_bytes())
build_engines(plan, graphs, staging, EngineCache(Kept(target), partial(published_engine, target)), report)
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_was(again: Callable[..., Any], engined: Bundle, tmp_path: Path) -> None:
    import pickle

    target = tmp_path / "new.m2d"
    plan = EnginePlan({"trt-rtx": rtx.__version__}, SHAPES, (), None)
    job, staging = tmp_path / "job.pickle", tmp_path / "staging"
    job.write_bytes(pickle.dumps((plan, typed_graphs(engined, staging), staging, target)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", KILLED, str(job)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert again(target) == (ALL[1:], ALL[:1], [])
    assert again(target) == ([], ALL, [])
    shelf = tmp_path / ".m2d-kept-new.m2d"
    for path in shelf.glob("*.engine"):  # cut short, or put there by someone: not taken
        path.write_bytes(b"cut short")
    assert again(target)[0] == ALL
    shelf.chmod(0o755)  # whoever may write here may run code
    kept = {path: path.stat().st_mtime_ns for path in shelf.iterdir()}
    for _ in range(2):
        assert again(target) == (ALL, [], [])
        assert len(list((tmp_path / "staging" / "engines").iterdir())) == len(ALL)
    assert {path: path.stat().st_mtime_ns for path in shelf.iterdir()} == kept


@pytest.mark.parametrize("private", [True, False])
def test_engines_of_the_full_library_hang_on_their_card_and_share_timings_in_private(
    again: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    jobs: list[Job] = []

    def made(job: Job, progress: Callable[[str], None]) -> None:
        jobs.append(job)
        job.output.parent.mkdir(exist_ok=True)
        job.output.write_bytes(b"a plan")

    monkeypatch.setattr(engine_builds, "run", made)
    shelf = tmp_path / ".m2d-kept-new.m2d"
    shelf.mkdir()
    shelf.chmod(0o700 if private else 0o750)
    full = [name.replace("trt-rtx", "trt") for name in ALL]
    changes: dict[str, Any] = {"versions": {"trt": "11.4.0"}, "gpu": CARD}
    assert again(tmp_path / "new.m2d", **changes) == (full, [], [])
    assert {(job.key.gpu, job.key.targets) for job in jobs} == {("Made-up RTX", ("sm89",))}
    assert {job.timings for job in jobs} == {shelf / "timings" if private else None}
    assert again(tmp_path / "new.m2d", **changes) == (([], full, []) if private else (full, [], []))
    other = changes | {"gpu": replace(CARD, capability="sm90")}
    assert again(tmp_path / "new.m2d", **other) == (full, [], [])


def slow_library(folder: Path, started: Path) -> dict[str, str]:
    """An environment with a library that takes a minute to import, and first writes down its process."""
    folder.mkdir()
    code = f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} ')\ntime.sleep(60)\n"
    (folder / "tensorrt_rtx_bindings.py").write_text(code)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


def runs(process: str) -> bool:
    """Whether a process is there, and not only its entry for whoever asks how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(what: Callable[[], bool]) -> bool:
    """Whether something comes true within half a minute."""
    deadline = time.monotonic() + 30
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


RUN = """
import pickle, sys
from pathlib import Path
from m2d_export.engines.builds import run

run(pickle.loads(Path(sys.argv[1]).read_bytes()), print)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the time-out alone ends it")
def test_a_killed_build_takes_the_child_that_builds_with_it(engined: Bundle, tmp_path: Path) -> None:
    import pickle

    job, started = tmp_path / "job.pickle", tmp_path / "started"
    job.write_bytes(pickle.dumps(job_of(engined, tmp_path)))
    environment = slow_library(tmp_path / "slow", started)
    with subprocess.Popen([sys.executable, "-c", RUN, str(job)], env=environment) as parent:
        assert wait_for(lambda: started.exists() and started.read_text().endswith(" "))
        child = started.read_text().strip()
        assert runs(child)
        parent.kill()
    assert wait_for(lambda: not runs(child))


def test_a_child_whose_time_is_up_ends_by_itself(engined: Bundle, tmp_path: Path) -> None:
    job = job_of(engined, tmp_path, timeout=0.1).to_json()
    command = [sys.executable, "-m", "m2d_export.engines.child"]
    environment = slow_library(tmp_path / "slow", tmp_path / "started")
    done = subprocess.run(command, input=job, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.SIGALRM, done.stderr


# What fails


def test_an_exit_that_fails_leaves_the_others(again: Callable[..., Any], tmp_path: Path, engined: Bundle) -> None:
    graph = tmp_path / "staging" / engined.entry(1, "fp16").graph()
    graph.write_bytes(unknown_operator(graph).read_bytes())
    built, _, failed = again(tmp_path / "new.m2d")
    assert built == ALL
    assert len(failed) == 1
    assert failed[0].startswith("layer 1, fp16, trt-rtx: trt-rtx cannot read layer-01.fp16.onnx: ")
    assert len(list((tmp_path / "staging" / "engines").iterdir())) == 3


def unknown_operator(graph: Path) -> Path:
    """The graph with an operator that no parser knows, in a node with a name."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type, node.name = "Softmix", "the_strange_one"
    path = graph.with_name("strange.onnx")
    onnx.save(model, path)
    return path


def job_of(bundle: Bundle, tmp_path: Path, **changes: Any) -> Job:
    entry = next(entry for entry in bundle.manifest.engines if (entry.layer, entry.precision) == (1, "fp16"))
    fields = {"graph": bundle.variant(1, "fp16").path, "key": entry.key, "matmuls": {"FLOAT16": 8, "FLOAT": 1}}
    return Job(**{**fields, "output": tmp_path / "out.engine", **changes})


def test_the_parser_has_its_own_words_and_names_the_node(engined: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(engined.root / "graphs", tmp_path / "graphs"))
    strange = unknown_operator(copy / "layer-01.fp16.onnx")
    with pytest.raises(ExportError, match=r"cannot read strange\.onnx: .+ \(node 'the_strange_one', Softmix\)") as said:
        engine_from_graph(rtx, job_of(engined, tmp_path, graph=strange), lambda phase: None)
    assert "\n" not in str(said.value)


def test_a_network_that_is_not_typed_as_the_graph_is_refused(engined: Bundle, tmp_path: Path) -> None:
    job = job_of(engined, tmp_path, graph=engined.variant(1, "fp32").path)
    with pytest.raises(ExportError, match=r"FLOAT16.* the network .*FLOAT'"):
        engine_from_graph(rtx, job, lambda phase: None)


def test_an_engine_that_takes_too_long_is_given_up(again: Callable[..., Any], tmp_path: Path) -> None:
    _, _, failed = again(tmp_path / "new.m2d", timeout=0.01)
    assert failed == [f"{name}: not built within 0.01 s" for name in ALL]


def test_a_library_that_crashes_takes_its_child_alone(
    again: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "crash"
    crashing.mkdir()
    (crashing / "tensorrt_rtx_bindings.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(crashing)
    _, _, failed = again(tmp_path / "new.m2d")
    assert all("its process ended with code -6: " in failure for failure in failed)
    assert len(failed) == 4


@pytest.mark.slow
def test_a_bundle_without_some_of_its_engines_is_published_and_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_builds, "run", lambda job, progress: "no luck")
    options: dict[str, Any] = {"layers": [1], "engines": ["trt-rtx"]}
    plan = planning.plan(str(checkpoint), tmp_path / "out.m2d", **options)
    with pytest.raises(ExportError, match=r"out\.m2d .*layer 1, fp32.*: no luck"):
        pipeline.build_planned(plan)
    assert Bundle.open(tmp_path / "out.m2d").problems() == []
