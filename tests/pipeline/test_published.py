"""What a build publishes: bytes, modes, layers, and weights that are stored once."""

import hashlib
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from m2d_export import Bundle, Cell, pipeline
from m2d_export.bundle.manifest import MANIFEST
from m2d_export.bundle.operators import OPERATORS
from m2d_export.deploy.cpp.project import write_project
from m2d_export.deploy.folder import write_folder
from m2d_export.deploy.triton.repository import write_repository
from m2d_export.errors import ExportError, SpecError
from m2d_export.plan import Plan
from tests.pipeline.forge import STEPS, Forge, build, sound, staging, tree

pytestmark = pytest.mark.slow


def test_two_builds_in_one_process_give_the_same_bytes(plan: Callable[..., Plan], tmp_path: Path) -> None:
    one, other = (pipeline.build_planned(plan(target=tmp_path / name, layers=[1])).root for name in ("one", "other"))
    assert tree(one) == tree(other)


def test_a_build_reports_every_step_as_it_begins(plan: Callable[..., Plan]) -> None:
    steps: list[str] = []
    pipeline.build_planned(plan(layers=[1], progress=steps.append), progress=steps.append)
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
    assert again.id == bundle.id


def test_a_bundle_is_private_until_it_is_published(plan: Callable[..., Plan]) -> None:
    modes: dict[str, list[int]] = {}
    planned = plan(layers=[1])

    def look(step: str) -> None:
        modes[step] = [stat.S_IMODE(path.stat().st_mode) for path in staging(planned.target)]
        assert not planned.target.exists()

    pipeline.build_planned(planned, progress=look)
    assert modes == {step: [0o700] for step in STEPS[1:]}
    assert stat.S_IMODE(planned.target.stat().st_mode) == 0o755
    assert staging(planned.target) == []


def test_layers_and_dims_are_those_asked_for(plan: Callable[..., Plan]) -> None:
    built = pipeline.build_planned(plan(layers=[3, 1, 1], dims=[8, 48]))
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
    assert sound(pipeline.build_planned(plan(target=tmp_path / "not" / "yet" / "new.m2d")).root)


# The weights


def external(graph: Path) -> dict[str, Mapping[str, str]]:
    """Where each initializer of a graph that is not inside it lies."""
    model = onnx.load(graph, load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}


def test_all_weights_lie_in_one_file_beside_the_graphs(bundle: Bundle) -> None:
    folders = {Path(entry.graph()).parent for entry in bundle.manifest.variants}
    assert folders == {Path("graphs")}
    for entry in bundle.manifest.variants:
        assert {place["location"] for place in external(bundle.root / entry.graph()).values()} == {"weights.fp32.bin"}
        assert entry.weights == "graphs/weights.fp32.bin"


def test_every_distinct_tensor_is_stored_once_on_a_page_of_its_own(bundle: Bundle) -> None:
    found = [place for entry in bundle.manifest.variants for place in external(bundle.root / entry.graph()).values()]
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
    shallow, middle, deep = (external(bundle.root / entry.graph()) for entry in bundle.manifest.variants)
    for one, other in ((shallow, middle), (shallow, deep), (middle, deep)):
        common = one.keys() & other.keys()
        assert len(common) > 10
        assert {name: one[name] for name in common} == {name: other[name] for name in common}
    assert middle.keys() < deep.keys()


def test_nothing_that_is_published_names_a_folder_of_this_machine(
    bundle: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    write_folder(bundle, Cell(1, 8), tmp_path / "cell")
    write_repository(bundle, [Cell(1, 8)], tmp_path / "triton")
    write_project(bundle, Cell(1, 8), tmp_path / "cpp", runtime="onnxrt")
    shutil.copytree(bundle.root, tmp_path / "bundle")
    places = [str(path.parent) for path in (Path(__file__).parents[1], Path(sys.prefix), checkpoint, bundle.root)]
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        data = file.read_bytes()
        words = ["site-packages", ".py", "m2d_export"] if file.suffix == ".onnx" else []
        assert [place for place in [*places, str(tmp_path), *words] if place.encode() in data] == [], file


def test_a_graph_that_no_reader_would_load_is_not_published(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(layers=[1])
    monkeypatch.delitem(OPERATORS, "Softmax")
    with pytest.raises(ExportError, match=r"layer-01\.fp32\.onnx.*Softmax"):
        pipeline.build_planned(planned)
    assert not planned.target.exists()
