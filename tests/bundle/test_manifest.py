"""A manifest, written and read, and refused where it says what it must not."""

import copy
import hashlib
import io
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from m2d_export import Bundle
from m2d_export.bundle.disk import MAX_MANIFEST_BYTES
from m2d_export.bundle.manifest import MANIFEST, read_manifest
from m2d_export.cli.show import summary
from m2d_export.errors import M2DError, ManifestError
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import HeadSpec, Origin, Pooling, Precision, TextSpec
from tests.support.bundles import DELETE, FILES, SCHEMA, TEXTS, TOKENIZER, WEIGHTS, places, put, refused, rewritten


def test_a_manifest_survives_being_written_and_read(bundle: Bundle) -> None:
    assert read_manifest(bundle.manifest.to_json()) == bundle.manifest
    assert (bundle.root / MANIFEST).read_text(encoding="utf-8") == bundle.manifest.to_json()


def test_an_unusual_manifest_survives_too(bundle: Bundle) -> None:
    unusual = replace(
        bundle.manifest,
        origin=Origin('отель/モデル "quoted"', "main", "f" * 64),
        pooling=Pooling(("cls", "mean"), include_prompt=False),
        config={"model_type": "bert"},
        text=TextSpec(2**62, 0, {"query": "query: ", "": "\t😀"}, "query", include_prompt=False),
        heads=(HeadSpec(2, (0, 2), (0,)),),
        normalize=False,
    )
    assert read_manifest(unusual.to_json()) == unusual
    jsonschema.validate(json.loads(unusual.to_json()), SCHEMA)


def test_a_bundle_is_named_by_what_it_gives_and_not_by_how_it_was_made(bundle: Bundle) -> None:
    data = json.loads(bundle.manifest.to_json())
    made = {("origin", "name"), ("origin", "revision"), ("versions",), ("calibration",)}
    made |= {("variants", place, "parity") for place in range(len(data["variants"]))}
    for place in places(data):
        if place in made or any(place[: len(other)] == other for other in made):
            continue
        changed = copy.deepcopy(data)
        found = changed
        for key in place:
            found = found[key]
        other = not found if isinstance(found, bool) else found + 1 if isinstance(found, int) else "0" * 64
        put(changed, place, other)
        try:
            assert read_manifest(json.dumps(changed)).id != bundle.id, place
        except ManifestError:
            continue
    elsewhere = replace(bundle.manifest, origin=replace(bundle.manifest.origin, name="moved", revision="main"))
    measured = tuple(replace(entry, parity={**entry.parity, "cosine_min": 0.5}) for entry in bundle.manifest.variants)
    assert replace(elsewhere, variants=measured, versions={"torch": "9"}, calibration="other texts").id == bundle.id


def test_the_id_is_the_sha256_of_the_format_page(bundle: Bundle) -> None:
    data = json.loads((bundle.root / MANIFEST).read_bytes())
    del data["origin"]["name"], data["origin"]["revision"], data["versions"], data["calibration"]
    for entry in data["variants"]:
        del entry["parity"]
    canonical = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(canonical).hexdigest() == bundle.id


def test_a_newer_format_says_to_update(copied_bundle: Path) -> None:
    assert "update m2d-export" in refused(rewritten(copied_bundle, ("format",), 2))
    assert "update" not in refused(rewritten(copied_bundle, ("format",), 0))


def test_the_published_manifest_follows_the_published_schema(bundle: Bundle) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads((bundle.root / MANIFEST).read_bytes()), SCHEMA)


def test_the_schema_knows_every_precision() -> None:
    assert SCHEMA["$defs"]["precision"]["enum"] == [*Precision] == [*PRECISIONS]


def test_the_manifest_has_the_structure_that_format_1_froze(bundle: Bundle) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shape(value[0])] if value else []
        return type(value).__name__

    file = {"size": "int", "sha256": "str"}
    figures = ("cosine_mean", "cosine_min", "distinction", "invariance", "invariance_cosine", "max_abs_diff")
    parity = {**dict.fromkeys(figures, "float"), "finite": "bool", "texts": "int"}
    variant = {"layer": "int", "precision": "str", "graphs": {"default": "str"}, "weights": "str", "parity": parity}
    packages = (
        "m2d-export",
        "onnx-ir",
        "onnxruntime",
        "onnxscript",
        "sentence-transformers",
        "torch",
        "transformers",
    )
    assert shape(json.loads(bundle.manifest.to_json())) == {
        "format": "int",
        "origin": {"name": "str", "revision": "NoneType", "fingerprint": "str"},
        "architecture": "str",
        "config": {"model_type": "str", **dict.fromkeys(("hidden_size", "num_attention_heads"), "int")},
        "grid": {"depth": "int", "width": "int", "layers": ["int"], "dims": ["int"], "trained_dims": ["int"]},
        "trained_layers": ["int"],
        "pooling": {"modes": ["str"], "include_prompt": "bool"},
        "heads": [{"layer": "int", "reads": ["int"], "mean": []}],
        "normalize": "bool",
        "text": {
            "max_tokens": "int",
            "pad_id": "int",
            "prompts": {"query": "str", "document": "str"},
            "default_prompt_name": "NoneType",
            "include_prompt": "bool",
            "vocabulary": "int",
        },
        "variants": [variant],
        "files": dict.fromkeys(FILES, file),
        "versions": dict.fromkeys(packages, "str"),
        "similarity": "str",
        "truncate_dim": "NoneType",
        "space": "str",
        "rotation": "NoneType",
        "calibration": "NoneType",
        "engines": [],
    }


# What a manifest must not say. The schema refuses all of it too, but for what JSON Schema cannot express.

BROKEN: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "unknown format": (("format",), 2),
    "text for the format": (("format",), "1"),
    "true for the format": (("format",), True),
    "no format": (("format",), DELETE),
    "true for a number": (("grid", "depth"), True),
    "fraction for a number": (("text", "max_tokens"), 48.5),
    "text for a number": (("text", "pad_id"), "1"),
    "number for a flag": (("normalize",), 1),
    "number for a text": (("architecture",), 7),
    "null for a text": (("origin", "name"), None),
    "text for a list": (("pooling", "modes"), "mean"),
    "object for a list": (("trained_layers",), {}),
    "empty text for a list": (("heads",), ""),
    "head that reads nothing": (("heads", 0, "reads"), []),
    "object for the variants": (("variants",), {}),
    "list for an object": (("files",), []),
    "list for the prompts": (("text", "prompts"), ["query: "]),
    "null for an object": (("grid",), None),
    "text for a file": (("files", WEIGHTS), "0" * 64),
    "negative size": (("files", WEIGHTS, "size"), -1),
    "size of 2**63": (("files", WEIGHTS, "size"), 2**63),
    "fractional size": (("files", WEIGHTS, "size"), 1.5),
    "sha256 of other length": (("files", WEIGHTS, "sha256"), "0" * 40),
    "sha256 in capitals": (("files", WEIGHTS, "sha256"), "A" * 64),
    "no tokenizer": (("files", TOKENIZER), DELETE),
    "unknown precision": (("variants", 0, "precision"), "fp7"),
    "parity that is no object": (("variants", 0, "parity"), 0.9999),
    "parity without figures": (("variants", 0, "parity"), {}),
    "text for a figure": (("variants", 0, "parity", "cosine_min"), "1.0"),
    "fingerprint that is none": (("origin", "fingerprint"), "main"),
    "layer -1": (("variants", 0, "layer"), -1),
    "layer -1 trained": (("trained_layers",), [-1, 1]),
    "head at layer 0": (("heads", 0, "layer"), 0),
    "no variants": (("variants",), []),
    "no layers": (("grid", "layers"), []),
    "null for a graph": (("variants", 0, "graphs", "onnxrt"), None),
    "no default graph": (("variants", 0, "graphs", "default"), DELETE),
    "list for the graphs": (("variants", 0, "graphs"), []),
    "layers twice": (("grid", "layers"), [1, 1]),
    "a long text for a number": (("grid", "width"), "x" * 1_000_000),
}
ONLY_THE_READER_SEES = {
    "head that reads a layer after its own": (("heads", 0, "reads"), [2]),
    "mean of a layer that the head does not read": (("heads", 0, "mean"), [0]),
    "a layer that the grid does not have": (("variants", 0, "layer"), 0),
    "the tokenizer as weights": (("variants", 0, "weights"), TOKENIZER),
    "a graph as weights": (("variants", 0, "weights"), "graphs/layer-01.fp32.onnx"),
    "weights as a graph": (("variants", 0, "graphs", "default"), WEIGHTS),
    "the tokenizer as a graph": (("variants", 0, "graphs", "default"), TOKENIZER),
    "one graph for two exits": (("variants", 0, "graphs", "default"), "graphs/layer-02.fp32.onnx"),
    "one graph for two runtimes": (("variants", 0, "graphs", "onnxrt"), "graphs/layer-01.fp32.onnx"),
    "one file of weights for two precisions": (("variants", 0, "precision"), "fp16"),
    "an exit twice": (("variants", 1, "layer"), 1),
    "a file that nothing uses": (("files", "graphs/more.onnx"), {"size": 1, "sha256": "0" * 64}),
    "the manifest as a file": (("files", MANIFEST), {"size": 1, "sha256": "0" * 64}),
    "a layer without a variant": (("variants", 2, "layer"), 2),
    "a variant of no layer": (("grid", "layers"), [1, 2]),
    "layer beyond the depth": (("grid", "layers"), [1, 2, 99]),
    "layers descending": (("grid", "layers"), [3, 2, 1]),
    "dim beyond the width": (("grid", "dims"), [65]),
    "a default prompt that is no prompt": (("text", "default_prompt_name"), "no such prompt"),
    "a default dim beyond the width": (("truncate_dim",), 65),
    "whole number as a fraction": (("grid", "depth"), 3.0),
    "a graph that is no file of the bundle": (("variants", 0, "graphs", "default"), "graphs/layer-09.fp32.onnx"),
    "weights that are no file of the bundle": (("variants", 0, "weights"), "/etc/passwd"),
    "a runtime's graph that is no file of the bundle": (
        ("variants", 0, "graphs", "onnxrt"),
        "graphs/layer-01.fp32.onnxrt.onnx",
    ),
    "lone surrogates": (("text", "prompts"), {"query": "\ud800"}),
    "NaN in a field that nobody reads": (("later",), math.nan),
    "an infinite figure": (("variants", 0, "parity", "cosine_min"), math.inf),
}


@pytest.mark.parametrize(("place", "value"), BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_is_refused_by_the_reader_and_by_the_schema(
    copied_bundle: Path, place: tuple[str | int, ...], value: Any
) -> None:
    refused(rewritten(copied_bundle, place, value))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads((copied_bundle / MANIFEST).read_bytes()), SCHEMA)


@pytest.mark.parametrize(("place", "value"), ONLY_THE_READER_SEES.values(), ids=ONLY_THE_READER_SEES)
def test_a_manifest_that_contradicts_itself_is_refused(
    copied_bundle: Path, place: tuple[str | int, ...], value: Any
) -> None:
    refused(rewritten(copied_bundle, place, value))


def test_every_field_must_be_there(bundle: Bundle, tmp_path: Path) -> None:
    data = json.loads(bundle.manifest.to_json())
    optional = {("files", name) for name in FILES} | {("versions", name) for name in data["versions"]}
    optional |= {("text", "prompts", name) for name in data["text"]["prompts"]}
    optional |= {("variants", place, "parity", "invariance_cosine") for place in range(len(data["variants"]))}  # older
    optional |= {("config", name) for name in data["config"] if name != "model_type"}
    fields = [place for place in places(data) if isinstance(place[-1], str) and place not in optional]
    assert len(fields) > 50
    for place in fields:
        lacking = copy.deepcopy(data)
        put(lacking, place, DELETE)
        (tmp_path / MANIFEST).write_text(json.dumps(lacking), encoding="utf-8")
        assert str(place[-1]) in refused(tmp_path)


def test_a_field_of_a_later_writer_is_passed_over(bundle: Bundle, copied_bundle: Path) -> None:
    rewritten(copied_bundle, ("later",), {"field": [1]})
    assert Bundle.open(copied_bundle).manifest == bundle.manifest


UNREADABLE = {
    "empty": b"",
    "not JSON": b"these are\nno\nbraces",
    "cut short": b'{"format": 1, "grid": {',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "NaN": b"NaN",
    "NaN inside": b'{"format": 1, "grid": NaN}',
    "infinity inside": b'{"format": -Infinity}',
    "two documents": b'{"format": 1}{"format": 1}',
    "invalid UTF-8": b'{"format": "\xff\xfe"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "deeply nested": b"[" * 1_000_000,
    "a number of a million digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
    "a text of a million letters": b'{"format": "' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_a_manifest_that_is_none_is_refused_in_one_short_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    refused(tmp_path)


def test_a_manifest_may_have_16_mebibytes_and_not_a_byte_more(copied_bundle: Path) -> None:
    data = (copied_bundle / MANIFEST).read_bytes()
    (copied_bundle / MANIFEST).write_bytes(data.ljust(MAX_MANIFEST_BYTES))
    Bundle.open(copied_bundle)
    (copied_bundle / MANIFEST).write_bytes(data.ljust(MAX_MANIFEST_BYTES + 1))
    assert "over 16 MiB" in refused(copied_bundle)


def use(bundle: Bundle) -> None:
    """Everything that is done with a bundle before a runtime loads of it."""
    bundle.problems()
    bundle.manifest.to_json().encode()
    Console(file=io.StringIO()).print(summary(bundle))
    bundle.tokenizer.encode(TEXTS)
    for layer in bundle.grid.layers:
        bundle.variant(layer)


NASTY = (
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    1.5,
    math.inf,
    math.nan,
    "",
    "x",
    "../x",
    "\ud800",
    "\0",
    [],
    [[]],
    {},
    {"x": 1},
)


def test_any_value_at_any_place_of_a_manifest_is_an_error_or_a_usable_bundle(bundle: Bundle) -> None:
    data = json.loads(bundle.manifest.to_json())
    for place in places(data):
        if place[0] == "variants" and place[1:2] > (0,):
            continue  # they are read as the first one is
        for value in NASTY:
            changed = copy.deepcopy(data)
            put(changed, place, value)
            try:
                use(Bundle(bundle.root, read_manifest(json.dumps(changed)), bundle.id))
            except M2DError:
                continue
            except Exception as error:
                pytest.fail(f"{value!r} at {place}: {error!r}")


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_to_a_manifest_is_an_error_or_a_usable_bundle(copied_bundle: Path, seed: int) -> None:
    original, generator, unharmed = (copied_bundle / MANIFEST).read_bytes(), random.Random(seed), 0
    for turn in range(100):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 1, 2, 5))):
            start = generator.randrange(len(data))
            end = start + generator.randrange(8)
            some = generator.choice(
                (b"", b"0", b"-", b'"', b"\\ud800", b"{", b"1e999", generator.randbytes(2), data[:99])
            )
            data[start:end] = some
        (copied_bundle / MANIFEST).write_bytes(data)
        try:
            use(Bundle.open(copied_bundle))
            unharmed += 1
        except M2DError:
            continue
        except Exception as error:
            pytest.fail(f"turn {turn} of seed {seed}: {error!r}")
    assert 0 < unharmed < 100


@pytest.mark.parametrize("place", [("architecture",), ("origin", "name"), ("similarity",)], ids=str)
def test_what_is_shown_on_a_terminal_cannot_steer_it(copied_bundle: Path, place: tuple[str | int, ...]) -> None:
    rewritten(copied_bundle, place, "\x1b]0;owned\x07")
    with pytest.raises(ManifestError, match="printable"):
        Bundle.open(copied_bundle)


@pytest.mark.parametrize(
    ("place", "value"),
    [(("rotation",), "a" * 64), (("files", "rotation.npy"), {"size": 1, "sha256": "a" * 64})],
)
def test_a_rotation_and_its_file_come_together(copied_bundle: Path, place: tuple[str, ...], value: Any) -> None:
    assert "rotation.npy" in refused(rewritten(copied_bundle, place, value))
