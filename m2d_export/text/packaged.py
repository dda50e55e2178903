"""Sentences in this package: toy pairs with scores, texts to calibrate int8 with, and texts to judge int8 on."""

import csv
import io
from importlib.resources import files


def toy_csv() -> str:
    """The toy pairs as CSV, with a header."""
    return files("m2d_export.text").joinpath("toy_sts.csv").read_text(encoding="utf-8")


def calibration_texts() -> tuple[str, ...]:
    """The left sentences of the toy pairs, which calibrate int8 if the user gives no texts."""
    return _column("sentence1")


def held_out_texts() -> tuple[str, ...]:
    """The right sentences of the toy pairs, without any that ``calibration_texts`` has."""
    used = set(calibration_texts())
    return tuple(text for text in _column("sentence2") if text not in used)


def _column(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row[name] for row in csv.DictReader(io.StringIO(toy_csv()))))
