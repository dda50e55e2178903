"""The paths that a manifest may name."""

import json
from pathlib import Path

import jsonschema
import pytest

from m2d_export import Bundle
from m2d_export.bundle.manifest import MANIFEST
from tests.support.bundles import SCHEMA, refused, rewritten

UNSAFE_PATHS = {
    "parent": "../x",
    "absolute": "/etc/passwd",
    "parent within": "a/../../x",
    "parent at the end": "graphs/..",
    "drive": "C:\\x",
    "backslash": "graphs\\x",
    "stream": "x:y",
    "empty": "",
    "itself": ".",
    "itself within": "a/./b",
    "empty part": "a//b",
    "trailing slash": "graphs/",
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape sequence": "a\x1b[2Jb",
    "over-long": "x" * 1025,
}


@pytest.mark.parametrize("path", UNSAFE_PATHS.values(), ids=UNSAFE_PATHS)
def test_a_path_that_could_lead_out_of_the_bundle_is_refused(copied_bundle: Path, path: str) -> None:
    rewritten(copied_bundle, ("files", path), {"size": 1, "sha256": "0" * 64})
    assert "not a path inside a bundle" in refused(copied_bundle)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads((copied_bundle / MANIFEST).read_bytes()), SCHEMA)


@pytest.mark.parametrize(
    ("name", "other", "problem"),
    [("graphs/", "a/" * 300, "is missing"), ("layer-01", "x" * 300, "cannot be read: File name too long")],
    ids=["deep", "long"],
)
def test_a_path_that_leads_nowhere_is_a_problem(copied_bundle: Path, name: str, other: str, problem: str) -> None:
    manifest = (copied_bundle / MANIFEST).read_text(encoding="utf-8")
    (copied_bundle / MANIFEST).write_text(manifest.replace(name, other), encoding="utf-8")
    opened = Bundle.open(copied_bundle)
    [path, *_] = [path for path in opened.manifest.files if other in path]
    assert f"{path} {problem}" in opened.problems()


@pytest.mark.parametrize("twin", ["GRAPHS/Layer-01.FP32.onnx", "graphs/\uff4cayer-01.fp32.onnx", "Tokenizer.JSON"])
def test_names_that_some_systems_take_for_one_are_refused(copied_bundle: Path, twin: str) -> None:
    manifest = json.loads((copied_bundle / MANIFEST).read_text(encoding="utf-8"))
    folder = twin.rpartition("/")[0]
    manifest["files"][twin] = {"size": 1, "sha256": "0" * 64}
    manifest["files"][f"{folder}/w"] = {"size": 1, "sha256": "0" * 64}
    manifest["variants"].append({**manifest["variants"][0], "precision": "fp16", "graphs": {"default": twin}})
    manifest["variants"][-1]["weights"] = f"{folder}/w" if folder else "w"
    if not folder:
        manifest["files"]["w"] = manifest["files"].pop("/w")
    (copied_bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert "for one name" in refused(copied_bundle)
