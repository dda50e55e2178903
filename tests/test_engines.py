"""TensorRT engines, built for real by TensorRT for RTX, which needs no GPU for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import call, create_autospec

import jsonschema
import pytest
from click.testing import CliRunner

from m2d_export import Bundle, engine_builds
from m2d_export import build as pipeline
from m2d_export.bundle import Manifest
from m2d_export.cli import cli
from m2d_export.engine_builds import EnginePlan, build_engines, plan_engines
from m2d_export.engines import FLAGS, Job, check_targets, engine_from_graph, library, read_engine
from m2d_export.errors import ExportError, IntegrityError, ManifestError, RuntimeUnavailable, SpecError
from m2d_export.gpu import Gpu
from m2d_export.spec import EngineKey, Precision, default_shapes, parse_shapes
from tests.conftest import ARCHITECTURES, MAX_TOKENS, SHAPES, save_checkpoint

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")

CARD = Gpu("Made-up RTX", "sm89")
SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "bundle-format.schema.json").read_text())


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
        _, failed = build_engines(plan, staging, target, engined.manifest.variants, said.append, timeout)
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
        assert entry.key.graph == files[variant.path].sha256
        assert entry.key.weights == files[variant.weights].sha256
        assert (entry.key.version, entry.key.shapes, entry.key.gpu) == (rtx.__version__, SHAPES, None)
        assert files[entry.path].size > 100_000
    assert len({files[entry.path].sha256 for entry in engined.manifest.engines}) == 4
    assert not list(engined.root.parent.glob(".m2d-*"))


def test_a_manifest_with_engines_survives_and_follows_the_schema(engined: Bundle, bundle: Bundle) -> None:
    written = engined.manifest.to_json()
    assert Manifest.from_json(written) == engined.manifest
    jsonschema.validate(json.loads(written), SCHEMA)
    assert "engines" not in json.loads(bundle.manifest.to_json())


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


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_builds_in_both_precisions(architecture: str, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "made", architecture)
    options: dict[str, Any] = {"precisions": ["fp32", "fp16"], "engines": ["trt-rtx"], "shapes": SHAPES}
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "out.m2d", **options))
    assert len(bundle.manifest.engines) == 2 * 3
    assert bundle.problems() == []


@pytest.mark.slow
def test_all_exits_of_minilm_build_in_both_precisions(minilm: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.m2d"
    options: dict[str, Any] = {"precisions": ["fp32", "fp16"], "engines": ["trt-rtx"]}
    bundle = pipeline.build(pipeline.plan(str(minilm), target, **options))
    shown = CliRunner().invoke(cli, ["show", str(target)], env={"COLUMNS": "160"}).output
    assert shown.count(f"trt-rtx {rtx.__version__}") == len(bundle.manifest.engines) == 2 * 6
    assert len({entry.key.digest for entry in bundle.manifest.engines}) == 2 * 6
    assert CliRunner().invoke(cli, ["verify", str(target)]).output.startswith(f"{target} is sound: ")


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
from m2d_export.engine_builds import build_engines

def report(step):
    if step.startswith("building the engine of layer 2"):
        os.kill(os.getpid(), signal.SIGKILL)

plan, staging, target, variants = pickle.loads(Path(sys.argv[1]).read_bytes())
build_engines(plan, staging, target, variants, report)
"""


def test_a_killed_build_goes_on_where_it_was(again: Callable[..., Any], engined: Bundle, tmp_path: Path) -> None:
    import pickle

    target = tmp_path / "new.m2d"
    plan = EnginePlan({"trt-rtx": rtx.__version__}, SHAPES, (), None)
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((plan, tmp_path / "staging", target, engined.manifest.variants)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", KILLED, str(job)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert again(target) == (ALL[1:], ALL[:1], [])
    assert again(target) == ([], ALL, [])
    shelf = tmp_path / ".m2d-engines-new.m2d"
    for path in shelf.glob("*.sha256"):  # cut short, or put there by someone: not taken
        path.with_suffix("").write_bytes(b"cut short")
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
    shelf = tmp_path / ".m2d-engines-new.m2d"
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
from m2d_export.engine_builds import run

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
    command = [sys.executable, "-m", "m2d_export.engines"]
    environment = slow_library(tmp_path / "slow", tmp_path / "started")
    done = subprocess.run(command, input=job, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.SIGALRM, done.stderr


# What fails


def test_an_exit_that_fails_leaves_the_others(again: Callable[..., Any], tmp_path: Path, engined: Bundle) -> None:
    graph = tmp_path / "staging" / engined.entry(1, "fp16").path
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
    fields = {"graph": bundle.variant(1, "fp16").path, "key": entry.key, "products": {"FLOAT16": 8, "FLOAT": 1}}
    return Job(**{**fields, "output": tmp_path / "out.engine", **changes})


def test_the_parser_has_its_own_words_and_names_the_node(engined: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(engined.root / "graphs", tmp_path / "graphs"))
    strange = unknown_operator(copy / "layer-01.fp16.onnx")
    with pytest.raises(ExportError, match=r"cannot read strange\.onnx: .+ \(node 'the_strange_one', Softmix\)") as said:
        engine_from_graph(rtx, job_of(engined, tmp_path, graph=strange), lambda phase: None)
    assert "\n" not in str(said.value)


def test_a_network_that_is_not_typed_as_the_graph_is_refused(engined: Bundle, tmp_path: Path) -> None:
    job = job_of(engined, tmp_path, graph=engined.variant(1, "fp32").path)
    with pytest.raises(ExportError, match=r"as it is typed: products in the graph .*FLOAT16.* in the network .*FLOAT'"):
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


def test_a_bundle_without_some_of_its_engines_is_published_and_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_builds, "run", lambda job, progress: "no luck")
    options: dict[str, Any] = {"layers": [1], "engines": ["trt-rtx"]}
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", **options)
    with pytest.raises(ExportError, match=r"out\.m2d is published, all but these engines: layer 1, fp32.*: no luck"):
        pipeline.build(plan)
    assert Bundle.open(tmp_path / "out.m2d").problems() == []


# What is refused before it is loaded


def engine_of(bundle: Bundle) -> Any:
    (engine,) = bundle.variant(1, "fp16").engines
    return engine


def test_an_engine_is_read_where_all_of_it_fits(engined: Bundle) -> None:
    assert len(read_engine(engine_of(engined), rtx.__version__, CARD)) > 100_000


@pytest.mark.parametrize(
    ("changes", "version", "said"),
    [
        ({}, "1.8.0", f"built for library {rtx.__version__}, here is 1.8.0: build it again"),
        ({"gpu": "A100"}, rtx.__version__, "built for GPU A100, here is Made-up RTX: build it again"),
        (
            {"gpu": CARD.name, "targets": ("sm90",)},  # cards of one name may differ
            rtx.__version__,
            r"built for sm90, here is Made-up RTX \(sm89\): build it again$",
        ),
        (
            {"targets": ("sm80", "sm120")},
            rtx.__version__,
            r"built for sm80, sm120, here is Made-up RTX \(sm89\): build it again with --gpu sm89",
        ),
        (
            {"flags": ("strongly-typed",)},
            rtx.__version__,
            "built for flags strongly-typed, here is strongly-typed, no-tf32, detailed: build it again",
        ),
    ],
)
def test_a_foreign_engine_is_refused_with_both_sides(
    engined: Bundle, changes: dict[str, Any], version: str, said: str
) -> None:
    engine = engine_of(engined)
    with pytest.raises(RuntimeUnavailable, match=said):
        read_engine(replace(engine, key=replace(engine.key, **changes)), version, CARD)


@pytest.mark.parametrize("content", [b"", b"x" * 1000, None], ids=["truncated", "another", "missing"])
def test_a_file_that_is_not_the_manifests_engine_is_refused(
    engined: Bundle, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "some.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"some\.engine"):
        read_engine(replace(engine_of(engined), path=path), rtx.__version__, CARD)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda engine: engine["key"].update(graph="0" * 64), "was made from another graph than"),
        (lambda engine: engine["key"].update(weights="0" * 64), "was made from another graph than"),
        (lambda engine: engine.update(layer=3), "belongs to no variant"),
        (lambda engine: engine.update(path="engines/none"), "not among the files"),
        (lambda engine: engine["key"]["shapes"][0].update(least=[4, 4], best=[2, 8]), "must not fall"),
        (lambda engine: engine["key"]["shapes"][0].update(least=[4]), "expected batch and tokens"),
    ],
)
def test_a_manifest_whose_engines_do_not_fit_is_refused(
    engined: Bundle, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    written = json.loads(engined.manifest.to_json())
    change(written["engines"][0])
    with pytest.raises(ManifestError, match=said):
        Manifest.from_json(json.dumps(written))


# What is asked for and cannot be


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kinds": ["tensort"]}, SpecError, "no engines called 'tensort': there are trt, trt-rtx"),
        ({"kinds": [], "targets": ["sm86"]}, SpecError, "--shapes and --gpu are of engines"),
        ({"precisions": [Precision.INT8]}, SpecError, "engines are built of fp32, fp16, bf16 graphs"),
        ({"shapes": parse_shapes("1x1:1x8:1x64")}, SpecError, "go to 64 tokens, and this checkpoint reads 48"),
        ({"targets": ["sm90"]}, SpecError, f"'sm90' in trt-rtx {rtx.__version__}: it has sm75, sm80, sm86, sm89"),
        ({"kinds": ["trt"]}, RuntimeUnavailable, "--engine trt needs an NVIDIA GPU, .*: --engine trt-rtx builds"),
    ],
)
def test_what_no_engine_can_be_is_said_before_the_work(
    options: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_export.gpu.gpus", tuple)
    usual: dict[str, Any] = {"kinds": ["trt-rtx"], "shapes": None, "targets": [], "precisions": [Precision.FP16]}
    with pytest.raises(error, match=said):
        plan_engines(**(usual | options), max_tokens=MAX_TOKENS)


def test_gpu_of_an_engine_that_is_built_for_its_own_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="--gpu goes with --engine trt-rtx: trt builds for the GPU that it runs on"):
        plan_engines(["trt"], None, ["sm86"], [Precision.FP16], MAX_TOKENS)


def test_engines_of_the_full_library_are_planned_for_the_first_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.gpu.gpus", lambda: (CARD, Gpu("Another", "sm120")))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0"))
    planned = plan_engines(["trt"], SHAPES, [], [Precision.FP16], MAX_TOKENS)
    assert planned == EnginePlan({"trt": "11.4.0"}, SHAPES, (), CARD)


@pytest.mark.parametrize(("kind", "module"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx_bindings")])
def test_a_library_that_is_missing_names_its_extra(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=rf"{module} is not installed.*'m2d-export\[{kind}\]'"):
        library(kind)


@pytest.mark.parametrize(("version", "old"), [("10.11.0.33", True), ("10.12.0.36", False), ("11.4.0.106", False)])
def test_tensorrt_before_10_12_is_too_old(version: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    if old:
        with pytest.raises(RuntimeUnavailable, match=r"trt 10\.11\.0\.33 is too old: 10\.12 is the first"):
            library("trt")
    else:
        assert library("trt").__version__ == version


def test_targets_are_taken_once_and_in_order() -> None:
    assert check_targets(rtx, ["sm120", "sm86", "sm120"]) == ("sm86", "sm120")


def test_default_shapes_cover_every_length_once() -> None:
    for longest in (8, 32, 33, 256, 512, 8192):
        shapes = default_shapes(longest)
        assert shapes[0].least == (1, 1)
        assert shapes[-1].most[1] == longest
        assert all(right.least[1] == left.most[1] + 1 for left, right in pairwise(shapes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x1:8x16", "such as 1x1:8x16:32x64; got '1x1:8x16'"),
        ("1x1:8x16:32x64,", "got ''"),
        ("2x1:1x16:32x64", "batch must not fall"),
        ("1x32:8x16:32x64", "tokens must not fall"),
        ("0x1:8x16:32x64", "from 1"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_shapes(text)


# The full TensorRT, by a stand-in as strict as TensorRT 11

REMOVED = {  # in 11; what is called on a stand-in that lacks them would fail
    "BuilderFlag": "FP16 BF16 INT8 FP8 INT4 FP4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS",
    "Builder": "platform_has_fast_fp16 platform_has_fast_int8 build_engine",
    "IBuilderConfig": "int8_calibrator set_calibration_profile algorithm_selector quantization_flags",
    "ILayer": "precision set_output_type",
    "ICudaEngine": "get_binding_shape num_bindings",
    "IExecutionContext": "execute_async_v2 set_binding_shape",
}


def test_the_stand_in_lacks_what_tensorrt_11_has_removed() -> None:
    for name, members in REMOVED.items():
        assert not [member for member in members.split() if hasattr(getattr(rtx, name), member)], name
    assert not [name for name in ("IAlgorithmSelector", "IInt8EntropyCalibrator2") if hasattr(rtx, name)]


def stand_in(half_products: int) -> Any:
    """A module whose classes take only what the real bindings have."""
    network = create_autospec(rtx.INetworkDefinition, instance=True, spec_set=True)
    inputs = [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]
    network.num_inputs, network.num_layers = 2, half_products
    network.get_input.side_effect = inputs.__getitem__
    product = create_autospec(rtx.ILayer, instance=True, spec_set=True)
    product.type = rtx.LayerType.MATRIX_MULTIPLY
    product.get_output.return_value = SimpleNamespace(dtype=rtx.DataType.HALF)
    network.get_layer.return_value = product
    config = create_autospec(rtx.IBuilderConfig, instance=True, spec_set=True)
    config.get_timing_cache.return_value.serialize.return_value = b"timings"
    builder = create_autospec(rtx.Builder, instance=True, spec_set=True)
    builder.create_network.return_value, builder.create_builder_config.return_value = network, config
    profile = partial(create_autospec, rtx.IOptimizationProfile, instance=True, spec_set=True)
    builder.create_optimization_profile.side_effect = profile
    builder.build_serialized_network.return_value = b"a plan"
    parser = create_autospec(rtx.OnnxParser, instance=True, spec_set=True)
    parser.parse_from_file.return_value = True
    real = (
        *("ILogger", "IProgressMonitor", "NetworkDefinitionCreationFlag", "BuilderFlag", "LayerType"),
        "ProfilingVerbosity",
    )
    return SimpleNamespace(
        **{name: getattr(rtx, name) for name in real},
        Builder=lambda log: builder,
        OnnxParser=lambda network, log: parser,
        builder=builder,
        config=config,
        parser=parser,
        __version__="11.4.0.106",
    )


def full_job(tmp_path: Path) -> Job:
    key = EngineKey("trt", "11.4.0.106", "0" * 64, "0" * 64, SHAPES, ("sm90",), "NVIDIA H100", FLAGS)
    return Job(tmp_path / "some.onnx", key, {"FLOAT16": 3}, tmp_path / "out", tmp_path / "timings")


def test_the_full_tensorrt_is_built_by_the_same_function(tmp_path: Path) -> None:
    trt = stand_in(3)
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    typed = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # needed until 10.x, passed over by 11
    assert trt.builder.create_network.call_args == call(typed)
    assert trt.parser.parse_from_file.call_args == call(str(tmp_path / "some.onnx"))
    assert trt.config.clear_flag.call_args == call(rtx.BuilderFlag.TF32)
    assert trt.config.profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
    profiles = [made.args[0] for made in trt.config.add_optimization_profile.call_args_list]
    assert [profile.set_shape.call_args_list for profile in profiles] == [
        [call(name, shapes.least, shapes.best, shapes.most) for name in ("input_ids", "attention_mask")]
        for shapes in SHAPES
    ]
    assert not trt.config.set_compute_capability.called
    assert trt.config.create_timing_cache.call_args == call(b"")
    assert (tmp_path / "timings").read_bytes() == b"timings"
    engine_from_graph(trt, full_job(tmp_path), lambda phase: None)
    assert trt.config.create_timing_cache.call_args == call(b"timings")  # what one exit was timed at serves the next


def test_the_full_tensorrt_that_returns_nothing_is_an_error(tmp_path: Path) -> None:
    trt = stand_in(3)
    trt.builder.build_serialized_network.return_value = None
    with pytest.raises(ExportError, match=r"trt cannot build some\.onnx: unsaid"):
        engine_from_graph(trt, full_job(tmp_path), lambda phase: None)


def test_the_first_words_of_a_builder_that_fails_are_its_reason(tmp_path: Path) -> None:
    trt, logs = stand_in(3), []

    def fail(network: Any, config: Any) -> None:
        for said in ("no kernel\nfor a node", "no plan", "no engine", "sorry"):
            logs[0].log(rtx.ILogger.Severity.ERROR, said)

    trt.Builder = lambda log: logs.append(log) or trt.builder
    trt.builder.build_serialized_network.side_effect = fail
    with pytest.raises(ExportError, match=r"some\.onnx: no kernel for a node; no plan; no engine$"):
        engine_from_graph(trt, full_job(tmp_path), lambda phase: None)


@pytest.mark.parametrize("damaged", [False, True])
def test_timings_of_another_card_or_damaged_ones_are_begun_anew(damaged: bool, tmp_path: Path) -> None:
    trt, foreign, fresh = stand_in(3), object(), object()
    trt.config.create_timing_cache.side_effect = {b"foreign": None if damaged else foreign, b"": fresh}.__getitem__
    trt.config.set_timing_cache.side_effect = lambda cache, ignore_mismatch: cache is fresh
    (tmp_path / "timings").write_bytes(b"foreign")
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    assert trt.config.set_timing_cache.call_args == call(fresh, False)
    assert (tmp_path / "timings").read_bytes() == b"timings"


def test_a_builder_without_timings_builds_all_the_same(tmp_path: Path) -> None:
    trt = stand_in(3)
    trt.config.get_timing_cache.return_value = None
    assert engine_from_graph(trt, full_job(tmp_path), lambda phase: None) == b"a plan"
    assert not (tmp_path / "timings").exists()
