"""What an engine must be before it is loaded, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bundle.manifest import read_manifest
from m2d_export.engines.library import read_engine
from m2d_export.errors import IntegrityError, ManifestError, RuntimeUnavailable
from m2d_export.host.gpu import Gpu

pytestmark = pytest.mark.slow

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")


CARD = Gpu("Made-up RTX", "sm89")


def engine_of(bundle: Bundle) -> Any:
    (engine,) = bundle.variant(1, "fp16").engines
    return engine


def test_an_engine_is_read_where_all_of_it_fits(engined: Bundle) -> None:
    assert len(read_engine(engine_of(engined), rtx.__version__, CARD)) > 100_000


@pytest.mark.parametrize(
    ("changes", "version", "said"),
    [
        ({}, "1.8.0", f"library {rtx.__version__}.* 1.8.0"),
        ({"gpu": "A100"}, rtx.__version__, "GPU A100.* Made-up RTX"),
        (
            {"gpu": CARD.name, "targets": ("sm90",)},  # cards of one name may differ
            rtx.__version__,
            r"sm90,.* Made-up RTX \(sm89\): build it again$",
        ),
        (
            {"targets": ("sm80", "sm120")},
            rtx.__version__,
            r"sm80, sm120,.* Made-up RTX \(sm89\): .*--gpu sm89",
        ),
        (
            {"flags": ("strongly-typed",)},
            rtx.__version__,
            "flags strongly-typed, .*strongly-typed, no-tf32, detailed",
        ),
        ({"flags": ()}, rtx.__version__, "flags none, .*strongly-typed"),
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
        (lambda engine: engine["key"].update(graph="0" * 64), r"another graph than .*sha256 0{12}"),
        (lambda engine: engine["key"].update(weights="0" * 64), "another graph than .*0{12}"),
        (lambda engine: engine.update(layer=3), "no variant .*engines/"),
        (lambda engine: engine.update(path="engines/none"), "not among the files"),
        (lambda engine: engine["key"]["shapes"][0].update(min=[4, 4], opt=[2, 8]), "must not decrease"),
        (lambda engine: engine["key"]["shapes"][0].update(min=[4]), r"list of 2.*\[4\]"),
    ],
)
def test_a_manifest_whose_engines_do_not_fit_is_refused(
    engined: Bundle, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    written = json.loads(engined.manifest.to_json())
    change(written["engines"][0])
    with pytest.raises(ManifestError, match=said):
        read_manifest(json.dumps(written))
