"""A bundle is what its manifest says, or it is refused before any library reads of it."""

import copy
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from m2d_export import Bundle, Encoder
from m2d_export.bundle import MANIFEST, MAX_MANIFEST_BYTES, Manifest
from m2d_export.errors import BundleError, IntegrityError, M2DError, ManifestError
from m2d_export.show import summary
from m2d_export.spec import Origin, Pooling, TextSpec

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "bundle-format.schema.json").read_text(encoding="utf-8"))
WEIGHTS, TOKENIZER = "graphs/weights.fp32.bin", "tokenizer.json"
GRAPHS = {f"graphs/layer-0{layer}.fp32.onnx": layer for layer in (1, 2, 3)}
FILES = [*GRAPHS, WEIGHTS, TOKENIZER]
TEXTS = ["A man is playing a guitar.", "", "The cat sat on the mat. " * 9]

Edit = Callable[[dict[str, Any]], None]
DELETE: Any = object()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail, instead of hanging, where the block takes longer."""

    def late(number: int, frame: object) -> None:
        pytest.fail(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def put(data: Any, place: tuple[str | int, ...], value: Any) -> None:
    *parents, last = place
    for key in parents:
        data = data[key]
    if value is DELETE:
        del data[last]
    else:
        data[last] = value


def places(data: Any, *before: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where every value of a JSON document stands."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from places(value, *before, key)


def rewritten(bundle: Path, place: tuple[str | int, ...], value: Any) -> Path:
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    put(data, place, value)
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    return bundle


def refused(bundle: Path) -> str:
    """The message of the ManifestError that opening raises, in short time and one short line."""
    with within(5), pytest.raises(ManifestError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert str(bundle / MANIFEST) in message
    assert message.isprintable()
    assert len(message) < len(str(bundle)) + 500
    return message


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        pytest.fail("ONNX Runtime was given a file of an unsound bundle")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)


# The manifest, written and read


def test_a_manifest_survives_being_written_and_read(bundle: Bundle) -> None:
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
    assert (bundle.root / MANIFEST).read_text(encoding="utf-8") == bundle.manifest.to_json()


def test_an_unusual_manifest_survives_too(bundle: Bundle) -> None:
    unusual = replace(
        bundle.manifest,
        origin=Origin('отель/モデル "quoted"', "main", "f" * 64),
        pooling=Pooling(("cls", "mean"), include_prompt=False),
        text=TextSpec(2**62, 0, {"query": "query: ", "": "\t😀"}, "query", include_prompt=False),
        heads=(),
        normalize=False,
    )
    assert Manifest.from_json(unusual.to_json()) == unusual
    jsonschema.validate(json.loads(unusual.to_json()), SCHEMA)


def test_a_bundle_is_named_by_its_manifest(bundle: Bundle, copied_bundle: Path) -> None:
    assert Bundle.open(copied_bundle).id == bundle.id
    assert Bundle.open(rewritten(copied_bundle, ("normalize",), False)).id != bundle.id


def test_the_published_manifest_follows_the_published_schema(bundle: Bundle) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads((bundle.root / MANIFEST).read_bytes()), SCHEMA)


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
    variant = {"layer": "int", "precision": "str", "path": "str", "weights": "str", "parity": parity}
    packages = ("m2d-export", "onnx-ir", "onnxruntime", "onnxscript", "sentence-transformers", "torch", "transformers")
    assert shape(json.loads(bundle.manifest.to_json())) == {
        "format": "int",
        "origin": {"name": "str", "revision": "NoneType", "fingerprint": "str"},
        "architecture": "str",
        "grid": {"depth": "int", "width": "int", "layers": ["int"], "dims": ["int"], "trained_dims": ["int"]},
        "trained_layers": ["int"],
        "pooling": {"modes": ["str"], "include_prompt": "bool"},
        "heads": ["int"],
        "normalize": "bool",
        "text": {
            "max_tokens": "int",
            "pad_id": "int",
            "prompts": {"query": "str", "document": "str"},
            "default_prompt_name": "NoneType",
            "include_prompt": "bool",
        },
        "variants": [variant],
        "files": dict.fromkeys(FILES, file),
        "versions": dict.fromkeys(packages, "str"),
        "similarity": "str",
        "truncate_dim": "NoneType",
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
    "layer 0": (("variants", 0, "layer"), 0),
    "parity that is no object": (("variants", 0, "parity"), 0.9999),
    "parity without figures": (("variants", 0, "parity"), {}),
    "text for a figure": (("variants", 0, "parity", "cosine_min"), "1.0"),
    "fingerprint that is none": (("origin", "fingerprint"), "main"),
    "layer 0 trained": (("trained_layers",), [0, 1]),
    "head at layer 0": (("heads",), [0]),
    "no variants": (("variants",), []),
    "no layers": (("grid", "layers"), []),
    "layers twice": (("grid", "layers"), [1, 1]),
    "a long text for a number": (("grid", "width"), "x" * 1_000_000),
}
ONLY_THE_READER_SEES = {
    "a layer without a variant": (("variants", 2, "layer"), 2),
    "a variant of no layer": (("grid", "layers"), [1, 2]),
    "layer beyond the depth": (("grid", "layers"), [1, 2, 99]),
    "layers descending": (("grid", "layers"), [3, 2, 1]),
    "dim beyond the width": (("grid", "dims"), [65]),
    "whole number as a fraction": (("grid", "depth"), 3.0),
    "a graph that is no file of the bundle": (("variants", 0, "path"), "graphs/layer-09.fp32.onnx"),
    "weights that are no file of the bundle": (("variants", 0, "weights"), "/etc/passwd"),
    "lone surrogates": (("text", "prompts"), {"query": "\ud800"}),
    "NaN in a field that nobody reads": (("later",), math.nan),
    "an infinite figure": (("variants", 0, "parity", "cosine_min"), math.inf),
}
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


@pytest.mark.parametrize("path", UNSAFE_PATHS.values(), ids=UNSAFE_PATHS)
def test_a_path_that_could_lead_out_of_the_bundle_is_refused(copied_bundle: Path, path: str) -> None:
    rewritten(copied_bundle, ("files", path), {"size": 1, "sha256": "0" * 64})
    assert "not a path inside a bundle" in refused(copied_bundle)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads((copied_bundle / MANIFEST).read_bytes()), SCHEMA)


@pytest.mark.parametrize(
    ("path", "problem"),
    [("a/" * 300 + "x", "is missing"), ("x" * 300, "cannot be read: File name too long")],
    ids=["deep", "long"],
)
def test_a_path_that_leads_nowhere_is_a_problem(copied_bundle: Path, path: str, problem: str) -> None:
    opened = Bundle.open(rewritten(copied_bundle, ("files", path), {"size": 1, "sha256": "0" * 64}))
    assert opened.problems() == [f"{path} {problem}"]


def test_every_field_must_be_there(bundle: Bundle, tmp_path: Path) -> None:
    data = json.loads(bundle.manifest.to_json())
    optional = {("files", name) for name in FILES} | {("versions", name) for name in data["versions"]}
    optional |= {("text", "prompts", name) for name in data["text"]["prompts"]}
    optional |= {("variants", place, "parity", "invariance_cosine") for place in range(len(data["variants"]))}  # older
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
                use(Bundle(bundle.root, Manifest.from_json(json.dumps(changed)), bundle.id))
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


# A path that is no bundle


@pytest.mark.parametrize("path", ["/missing", "missing/with\0nul", "~no-such-user/missing"])
def test_a_path_without_a_bundle_says_how_to_build_one(path: str) -> None:
    with pytest.raises(BundleError, match=f"no bundle at {path}: build one with m2d-export build CHECKPOINT -o {path}"):
        Bundle.open(path)


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000], ids=["name", "path"])
def test_a_path_too_long_for_the_system_is_no_bundle(path: str) -> None:
    with pytest.raises(BundleError, match=r"cannot be read: File name too long"):
        Bundle.open(path)


def test_a_file_is_no_bundle(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*m2d-export build"):
        Bundle.open(bundle.root / TOKENIZER)


@pytest.mark.parametrize("kind", ["none", "folder", "FIFO", "link"])
def test_a_folder_without_a_regular_manifest_is_no_bundle(copied_bundle: Path, tmp_path: Path, kind: str) -> None:
    manifest = copied_bundle / MANIFEST
    moved = manifest.rename(tmp_path / "moved.json")
    if kind == "folder":
        manifest.mkdir()
    elif kind == "FIFO":
        os.mkfifo(manifest)
    elif kind == "link":
        manifest.symlink_to(moved)
    with within(5), pytest.raises(BundleError, match=r"manifest\.json.*not a bundle, or one that was never finished"):
        Bundle.open(copied_bundle)


# Files that are not what the manifest says


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_the_end(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def add_a_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file: Path) -> None:
    os.truncate(file, 0)


def swap_for_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def swap_for_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swap_for_a_link(file: Path) -> None:
    file.symlink_to(file.rename(file.parents[file.parent.name == "graphs"].with_suffix(f".{file.name}")))


def swap_for_a_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGES = {
    flip_a_bit: "has been altered",
    cut_the_end: r"has \d+ bytes, the manifest says \d+",
    add_a_byte: r"has \d+ bytes, the manifest says \d+",
    empty: r"has 0 bytes, the manifest says \d+",
    Path.unlink: "is missing",
    swap_for_a_folder: "is not a regular file",
    swap_for_a_fifo: "is not a regular file",
    swap_for_a_link: "symbolic link",
    swap_for_a_dangling_link: "symbolic link",
}


def test_every_file_of_a_bundle_is_damaged_below(bundle: Bundle) -> None:
    assert sorted(FILES) == sorted(bundle.manifest.files)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize(("damage", "problem"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_never_loaded(
    copied_bundle: Path, name: str, damage: Callable[[Path], None], problem: str
) -> None:
    damage(copied_bundle / name)
    opened = Bundle.open(copied_bundle)
    with within(5):
        [found] = opened.problems()
        assert re.match(f"{name} .*{problem}", found)
        with pytest.raises(IntegrityError, match=f"{copied_bundle / name} .*{problem}.*[Bb]uild"):
            opened.checked(name)
        with pytest.raises(IntegrityError, match=name):
            Encoder(opened, GRAPHS.get(name))


def test_damage_to_one_exit_leaves_the_others_usable(copied_bundle: Path) -> None:
    flip_a_bit(copied_bundle / "graphs/layer-03.fp32.onnx")
    with Encoder(Bundle.open(copied_bundle), layer=2) as encoder:
        assert encoder.encode(TEXTS).shape == (3, 64)


@pytest.mark.usefixtures("no_session")
def test_a_linked_folder_is_refused_with_all_that_lies_in_it(copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / "graphs").rename(tmp_path / "elsewhere")
    (copied_bundle / "graphs").symlink_to(tmp_path / "elsewhere")
    opened = Bundle.open(copied_bundle)
    problems = opened.problems()
    assert [problem.split()[0] for problem in problems] == [*sorted([*GRAPHS, WEIGHTS]), "graphs"]
    assert all("symbolic link" in problem for problem in problems[:-1])
    with pytest.raises(IntegrityError, match="symbolic link"):
        Encoder(opened)


@pytest.mark.usefixtures("no_session")
def test_a_file_that_cannot_be_read_is_an_integrity_error(copied_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("m2d_export.bundle.sha256_of", refuse)
    opened = Bundle.open(copied_bundle)
    assert opened.problems()[0] == "graphs/layer-01.fp32.onnx cannot be read: Permission denied"
    with pytest.raises(IntegrityError, match="cannot be read"):
        Encoder(opened)


def add_file(bundle: Path) -> str:
    (bundle / "graphs" / "model.plan").write_bytes(b"engine")
    return "graphs/model.plan"


def add_hidden_file(bundle: Path) -> str:
    (bundle / ".hidden").write_bytes(b"")
    return ".hidden"


def add_file_in_folder(bundle: Path) -> str:
    (bundle / "more").mkdir()
    (bundle / "more" / "weights.fp32.bin").write_bytes(b"")
    return "more/weights.fp32.bin"


def add_fifo(bundle: Path) -> str:
    os.mkfifo(bundle / "pipe")
    return "pipe"


def add_link_to_folder(bundle: Path) -> str:
    (bundle / "root").symlink_to("/")
    return "root"


EXTRAS = (add_file, add_hidden_file, add_file_in_folder, add_fifo, add_link_to_folder)


@pytest.mark.parametrize("add", EXTRAS, ids=lambda add: add.__name__)
def test_what_the_manifest_does_not_name_is_named_as_extra(copied_bundle: Path, add: Callable[[Path], str]) -> None:
    name = add(copied_bundle)
    with within(5):
        [problem] = Bundle.open(copied_bundle).problems()
    assert problem == f"{name} does not belong to the bundle: remove it"


# A sound bundle


def test_a_published_bundle_is_sound(bundle: Bundle) -> None:
    assert Bundle.open(bundle.root).problems() == []


def test_a_bundle_copied_elsewhere_gives_identical_vectors(bundle: Bundle, copied_bundle: Path) -> None:
    (moved := copied_bundle.parent / "a folder" / "мой bundle").parent.mkdir()
    shutil.move(copied_bundle, moved)
    with Encoder(bundle, layer=2, dim=32) as one, Encoder(Bundle.open(moved), layer=2, dim=32) as other:
        assert np.array_equal(one.encode(TEXTS), other.encode(TEXTS))


def test_a_bundle_behind_a_linked_folder_is_sound(copied_bundle: Path) -> None:
    (current := copied_bundle.parent / "current").symlink_to(copied_bundle)
    assert Bundle.open(current).problems() == []


def test_a_bundle_opens_and_encodes_without_the_libraries_that_built_it(bundle: Bundle, tmp_path: Path) -> None:
    program = f"""
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript"):
    sys.modules[name] = None
import numpy as np
from m2d_export import Bundle, Encoder
with Encoder(Bundle.open({str(bundle.root)!r}), layer=2, dim=32) as encoder:
    np.save("vectors.npy", encoder.encode({TEXTS!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=60)
    with Encoder(bundle, layer=2, dim=32) as encoder:
        assert np.array_equal(np.load(tmp_path / "vectors.npy"), encoder.encode(TEXTS))


@pytest.mark.parametrize("place", [("architecture",), ("origin", "name"), ("similarity",)], ids=str)
def test_what_is_shown_on_a_terminal_cannot_steer_it(copied_bundle: Path, place: tuple[str | int, ...]) -> None:
    rewritten(copied_bundle, place, "\x1b]0;owned\x07")
    with pytest.raises(ManifestError, match="printable"):
        Bundle.open(copied_bundle)
