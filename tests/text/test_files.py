"""Files of texts, one text in each line."""

from pathlib import Path

import pytest

from m2d_export.errors import DataError
from m2d_export.text.files import read_texts


def test_texts_are_the_distinct_lines_without_blank_ones(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    lines = [f"text {number}" for number in range(20)]
    file.write_bytes("\ufeff\r\n".encode() + "\r\n\n  \n".join([*lines, lines[0], "a\u2028b"]).encode())
    assert read_texts(file) == (*lines, "a\u2028b")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "texts.txt"),
        (b"caf\xe9\n" * 30, "byte 3"),
        (b"", "0 distinct texts.*at least 20"),
        (b"one\ntwo\n" * 30, "texts.txt: 2 distinct texts"),
    ],
)
def test_a_file_without_enough_texts_is_refused(tmp_path: Path, content: bytes | None, named: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=named):
        read_texts(file)


@pytest.mark.parametrize(("name", "noted"), [("texts.txt", False), ("texts.csv", True), ("texts.JSONL", True)])
def test_a_file_that_has_columns_is_read_as_lines_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, noted: bool
) -> None:
    (tmp_path / name).write_text("".join(f"text {number}\n" for number in range(20)))
    assert len(read_texts(tmp_path / name)) == 20
    assert (name in caplog.text) is noted
