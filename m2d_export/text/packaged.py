"""The sentences that come with this package: a toy set of graded pairs, and what int8 is calibrated and judged on."""

import csv
import io
from importlib.resources import files


def toy_csv() -> str:
    """The graded pairs as CSV, with a header."""
    return files("m2d_export.text").joinpath("toy_sts.csv").read_text(encoding="utf-8")


def calibration_texts() -> tuple[str, ...]:
    """What activation ranges are taken from where nobody gives texts: the left sentences of the toy set."""
    return _side("sentence1")


def held_out_texts() -> tuple[str, ...]:
    """What a quantized graph is judged on: the right sentences of the toy set, which it was not calibrated with."""
    left = set(calibration_texts())
    return tuple(text for text in _side("sentence2") if text not in left)


def _side(column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row[column] for row in csv.DictReader(io.StringIO(toy_csv()))))
