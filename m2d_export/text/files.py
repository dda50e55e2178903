"""Read texts: from the files of a user, and from the toy pairs that come with this package."""

import csv
import io
import logging
from importlib.resources import files
from pathlib import Path

from m2d_export.agreement import check_count
from m2d_export.host.files import read_text

log = logging.getLogger(__name__)
OTHER_FORMATS = (".csv", ".tsv", ".json", ".jsonl")  # in these formats, a line has columns or fields


def check_lines(name: str) -> None:
    """Log a warning if the name of a file says that its lines have columns or fields: they are read as plain text."""
    if name.lower().endswith(OTHER_FORMATS):
        log.warning("%s is read as plain text: a line is one text, with its separators, quotes and braces", name)


def read_texts(path: Path, purpose: str = "agreement") -> tuple[str, ...]:
    """Read the texts of a UTF-8 file, without blank lines and repeated texts. Errors name the ``purpose``.

    Raises DataError if the file cannot be read, is not UTF-8, or has fewer than 20 different texts.
    """
    check_lines(str(path))
    # str.splitlines is not used: it also splits at U+2028 and other characters that do not end a line.
    texts = tuple(dict.fromkeys(line.strip() for line in read_text(path).split("\n") if line.strip()))
    check_count(len(texts), str(path), purpose)
    return texts


def toy_csv() -> str:
    """Read the toy pairs as CSV with a header."""
    return files("m2d_export.text").joinpath("toy_sts.csv").read_text(encoding="utf-8")


def calibration_texts() -> tuple[str, ...]:
    """The left sentences of the toy pairs. They calibrate int8 if the user names no texts."""
    return _column("sentence1")


def held_out_texts() -> tuple[str, ...]:
    """The right sentences of the toy pairs that are not in ``calibration_texts``."""
    used = set(calibration_texts())
    return tuple(text for text in _column("sentence2") if text not in used)


def _column(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row[name] for row in csv.DictReader(io.StringIO(toy_csv()))))
