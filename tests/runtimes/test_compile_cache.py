"""The cache of compiled code: found again where nothing changed, compiled again where anything did."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import OutputError
from m2d_export.runtimes.compile_cache import compiled_bytes

TEXTS = ["the cat is here", "a dog", "one two three"] * 40


def compiler(compiled: list[bytes], code: bytes = b"code") -> Callable[[], bytes]:
    def compile_code() -> bytes:
        compiled.append(code)
        return code

    return compile_code


def test_code_is_compiled_again_only_where_something_it_depends_on_changed(tmp_path: Path) -> None:
    compiled: list[bytes] = []
    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        assert compiled_bytes(folder, {"sha256": ["a", "b"], "threads": 2}, compiler(compiled)) == b"code"
    assert len(compiled) == 1
    for changed in ({"sha256": ["a", "c"], "threads": 2}, {"sha256": ["a", "b"], "threads": 1}):
        assert compiled_bytes(folder, changed, compiler(compiled, b"other")) == b"other"
    assert len(compiled) == 3
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: whole[:40] + b"X" + whole[41:], lambda whole: b""]
)
def test_a_damaged_cache_file_is_compiled_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    compiled: list[bytes] = []
    compiled_bytes(tmp_path, {}, compiler(compiled, b"some code that is long enough"))
    [path] = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert compiled_bytes(tmp_path, {}, compiler(compiled, b"some code that is long enough")).startswith(b"some")
    assert len(compiled) == 2


def test_a_cached_model_gives_the_same_vectors_and_is_not_compiled_again(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    vectors, cached = [], []
    for _ in range(2):
        with Encoder(bundle, 2, runtime="openvino", cache=tmp_path) as encoder:
            encoder.token_budget = 32  # many batches, so that the model is compiled for streams too
            vectors.append(np.concatenate([encoder.encode(TEXTS), encoder.encode(TEXTS[:1])]))
        cached.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    assert len(cached[0]) == 2
    assert cached[0] == cached[1]
    np.testing.assert_array_equal(*vectors)
    with Encoder(bundle, 1, runtime="openvino", cache=tmp_path) as encoder:
        encoder.encode(TEXTS[:1])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cache_that_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=str(folder)):
            compiled_bytes(folder, {}, compiler([]))
