"""Load graded sentence pairs from a file, from the Hub or from this package."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from m2d_export.errors import DataError
from m2d_export.host.checks import json_lines
from m2d_export.host.extras import require
from m2d_export.host.files import expanded, read_text
from m2d_export.text.files import toy_csv
from m2d_export.text.tokenizer import check_text

TOY, STSB = "toy", "stsb"
TOY_LABEL = "toy set (200 pairs, not comparable with published scores)"
COLUMNS = ("sentence1", "sentence2", "score")
DELIMITERS = {".csv": ",;", ".tsv": "\t"}  # spreadsheets use semicolons if numbers have decimal commas
QUOTED = re.compile(r'(?:(?<=^)|(?<=\t))"(?:[^"]|"")*"(?=\t|\r?$)', re.MULTILINE)  # a quoted field of a TSV


@dataclass(frozen=True)
class Pairs:
    """Graded sentence pairs.

    ``texts`` has every sentence once. ``left`` and ``right`` (pairs,) are the places in ``texts`` of the two sentences
    of a pair. ``scores`` (pairs,) are the grades.
    """

    name: str
    label: str  # the name in tables
    texts: tuple[str, ...]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    scores: NDArray[np.float64]

    def sides(self) -> tuple[list[str], list[str]]:
        """The left and the right sentence of every pair; a sentence of two pairs is there twice."""
        left, right = ([self.texts[place] for place in side] for side in (self.left, self.right))
        return left, right


def load_pairs(source: str, columns: Sequence[str] | None = None) -> Pairs:
    """Load pairs: ``toy`` from this package, ``stsb`` from the Hub (the test split of STS-B), or a file.

    A file is CSV, TSV or JSONL. ``columns`` names the two sentence columns and the score column. If a CSV or TSV has no
    header, ``columns`` has the numbers of these columns, counted from 1. The default is sentence1, sentence2, score. If
    the first line of a CSV or TSV lacks these names, the default is the first three columns. Raises DataError or
    InputError. The message names the line that cannot be used.
    """
    if columns is not None and not len(columns) == len(set(columns)) == 3:
        raise DataError(f"expected three different columns, two sentences and a score, got {', '.join(columns)}")
    if columns is not None and source in (TOY, STSB):
        raise DataError(f"{source} has its own columns: give --columns only with a file of pairs")
    if source == TOY:
        return _pairs(TOY, TOY_LABEL, _table_rows(toy_csv(), ",", None, TOY))
    if source == STSB:
        return _pairs(STSB, "STS-B test", _hub_rows())
    path = expanded(source)
    if path.suffix.lower() not in (*DELIMITERS, ".jsonl"):
        raise DataError(f"expected a .csv, .tsv or .jsonl file, {TOY} or {STSB}, got {source}")
    text = read_text(path)  # line ends are not changed, because a quoted field can contain them
    if path.suffix.lower() == ".jsonl":
        return _pairs(
            path.name,
            path.name,
            (_row(record, columns or COLUMNS, where) for where, record in json_lines(text, source)),
        )
    return _pairs(path.name, path.name, _table_rows(text, DELIMITERS[path.suffix.lower()], columns, source))


def pairs_of(name: str, records: Iterable[Mapping[str, Any]], columns: Sequence[str], source: str) -> Pairs:
    """Make pairs from records that another library has read; error messages call the records ``source``."""
    return _pairs(name, name, (_row(record, columns, f"{source}, row {n}") for n, record in enumerate(records, 1)))


Row = tuple[str, str, float]  # two sentences and their score


def _table_rows(text: str, delimiters: str, columns: Sequence[str] | None, source: str) -> Iterator[Row]:
    """Yield the pairs of a table. Its delimiter is the first of ``delimiters`` that gives every row enough columns."""
    found, errors = [], []
    for delimiter in delimiters:
        try:
            rows = _split(text, delimiter, source)
            found.append((delimiter, rows, *_places(rows[0][1], columns, source)))
        except DataError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    full = (table for table in found if min(len(row) for _, row in table[1]) > max(table[2]))
    delimiter, rows, places, has_header = next(full, found[0])
    for number, row in rows[has_header:]:
        where = f"{source}, line {number}"
        if len(row) <= max(places):
            raise DataError(f"{where}: {len(row)} columns, expected at least {max(places) + 1}")
        first, second, score = (row[place] for place in places)
        yield first, second, _score(score if delimiter == "," else score.replace(",", "."), where)


def _split(text: str, delimiter: str, source: str) -> list[tuple[int, list[str]]]:
    """The rows of a table, and the number of the last line of each row; raises DataError if there are no rows."""
    has_quotes = delimiter != "\t" or _is_of_spreadsheet(text)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    csv.field_size_limit(1 << 30)
    # Without ``strict``, a quote that is never closed would turn the rest of the file into one field, without an error.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        where = f"{source}, line {reader.line_num}"
        raise DataError(
            f"{where} is not valid CSV ({error}): close every quote, and write a quote inside a quoted field twice"
        ) from error
    if not rows:
        raise DataError(f"{source} is empty: expected two sentences and a score in each line")
    return rows


def _is_of_spreadsheet(text: str) -> bool:
    """Whether a spreadsheet wrote a TSV. Spreadsheets put quotes around fields, and write quotes inside them twice.

    In published STS sets in TSV, a quote at the start or the end of a sentence is part of the sentence. A file that has
    quotes only around whole sentences can be of both kinds. It counts as a spreadsheet's if all sentences have quotes.
    """
    quoted = [found.group() for found in QUOTED.finditer(text)]
    rest = QUOTED.sub("", text)
    needed = any(re.search(r'["\t\n]', field[1:-1]) for field in quoted)
    return bool(quoted) and '"' not in rest and (needed or not re.search(r"[^\W\d_]", rest.partition("\n")[2]))


def _places(first: list[str], columns: Sequence[str] | None, source: str) -> tuple[tuple[int, ...], bool]:
    """The places of the two sentences and the score, and whether the ``first`` row is a header.

    The first row is a header if it has the names in ``columns``, or the default names. Otherwise it is a pair.
    """
    names = [name.strip().lower() for name in first]
    if columns is None and not set(COLUMNS) <= set(names):
        if len(first) < 3:
            raise DataError(f"{source}: expected two sentences and a score, got {len(first)} column(s)")
        try:
            float(first[2].replace(",", "."))
        except ValueError:
            raise DataError(
                f"{source}, line 1: the score {first[2]!r} is not a number. If this line is a header, choose "
                "its columns with --columns A,B,SCORE"
            ) from None
        return (0, 1, 2), False
    if columns is not None and all(name.isdecimal() and int(name) > 0 for name in columns):
        return tuple(int(name) - 1 for name in columns), False
    missing = [name for name in columns or COLUMNS if name.lower() not in names]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(missing)}: its first line is {', '.join(first)[:200]}. "
            "Choose columns with --columns A,B,SCORE"
        )
    return tuple(names.index(name.lower()) for name in columns or COLUMNS), True


def _row(record: Any, columns: Sequence[str], where: str) -> Row:
    missing = [name for name in columns if not isinstance(record, dict) or name not in record]
    if missing:
        known = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(
            f"{where} has no {', '.join(missing)} (it has {known}): choose columns with --columns A,B,SCORE"
        )
    first, second, score = (record[name] for name in columns)
    if not isinstance(first, str) or not isinstance(second, str):
        raise DataError(f"{where}: expected two strings as sentences, got {first!r:.60} and {second!r:.60}")
    for sentence in (first, second):
        check_text(sentence, where)  # JSON can contain lone surrogates, but UTF-8 cannot
    return first, second, _score(score, where)


def _hub_rows() -> Iterator[Row]:
    datasets = require("datasets", "hub")
    try:
        rows = datasets.load_dataset("sentence-transformers/stsb", split="test")
    except Exception as error:  # datasets and its dependencies raise errors of many types
        raise DataError(
            f"cannot load sentence-transformers/stsb from the Hub ({type(error).__name__}): use a local file with --sts"
        ) from error
    for row in rows:
        yield row["sentence1"], row["sentence2"], float(row["score"])


def _score(value: object, where: str) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: the score {value!r} is not a number") from None
    if not math.isfinite(score):
        raise DataError(f"{where}: the score {value} is not finite")
    return score


def _pairs(name: str, label: str, rows: Iterator[Row]) -> Pairs:
    place: dict[str, int] = {}
    left, right, scores = [], [], []
    for first, second, score in rows:
        left.append(place.setdefault(first, len(place)))
        right.append(place.setdefault(second, len(place)))
        scores.append(score)
    if len(set(scores)) < 2:
        raise DataError(
            f"{name} has {len(scores)} pair(s) with the same score: a rank correlation needs different scores"
        )
    return Pairs(name, label, tuple(place), np.array(left), np.array(right), np.array(scores))
