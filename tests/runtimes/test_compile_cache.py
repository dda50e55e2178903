"""Compiled models that are kept: found again where nothing changed, made anew where anything did."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import OutputError, SpecError
from m2d_export.runtimes.compile_cache import compiled_bytes

TEXTS = ["the cat is here", "a dog", "one two three"] * 40


def maker(made: list[bytes], content: bytes = b"code") -> Callable[[], bytes]:
    def make() -> bytes:
        made.append(content)
        return content

    return make


def test_what_is_kept_is_not_made_again_unless_something_it_depends_on_changed(tmp_path: Path) -> None:
    made: list[bytes] = []
    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        assert compiled_bytes(folder, {"sha256": ["a", "b"], "threads": 2}, maker(made)) == b"code"
    assert len(made) == 1
    for changed in ({"sha256": ["a", "c"], "threads": 2}, {"sha256": ["a", "b"], "threads": 1}):
        assert compiled_bytes(folder, changed, maker(made, b"other")) == b"other"
    assert len(made) == 3
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: whole[:40] + b"X" + whole[41:], lambda whole: b""]
)
def test_what_was_damaged_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    made: list[bytes] = []
    compiled_bytes(tmp_path, {}, maker(made, b"some code that is long enough"))
    [path] = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert compiled_bytes(tmp_path, {}, maker(made, b"some code that is long enough")).startswith(b"some")
    assert len(made) == 2


def test_a_process_that_finds_compiled_models_gives_the_same_vectors(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    vectors, kept = [], []
    for _ in range(2):
        with Encoder(bundle, 2, runtime="openvino", cache=tmp_path) as encoder:
            encoder.token_budget = 32  # many batches, so that the model is compiled for streams too
            vectors.append(np.concatenate([encoder.encode(TEXTS), encoder.encode(TEXTS[:1])]))
        kept.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    assert len(kept[0]) == 2
    assert kept[0] == kept[1]
    np.testing.assert_array_equal(*vectors)
    with Encoder(bundle, 1, runtime="openvino", cache=tmp_path) as encoder:
        encoder.encode(TEXTS[:1])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_written_or_used_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        compiled_bytes(tmp_path / "file", {}, maker([]))
    with pytest.raises(OutputError, match="cannot write"):  # nor read, whatever stands in its place
        compiled_bytes(tmp_path / "file" / "below", {}, maker([]))
    with pytest.raises(SpecError, match="onnxrt compiles nothing"):
        Encoder(bundle, 1, cache=tmp_path)
