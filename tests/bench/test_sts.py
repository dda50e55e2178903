"""Graded pairs from every kind of file, and the files that are refused."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from m2d_export.bench.sts import TOY_LABEL, Pairs, load_pairs
from m2d_export.errors import DataError, InputError, RuntimeUnavailable

ROWS = [("a cat", "a dog", 2.5), ("a cat", "the cat, sitting", 4.0), ("no", "yes", 0.0)]


def rows_of(pairs: Pairs) -> list[tuple[str, str, float]]:
    """The pairs as they were written."""
    texts = [(pairs.texts[left], pairs.texts[right]) for left, right in zip(pairs.left, pairs.right, strict=True)]
    return [(*both, float(score)) for both, score in zip(texts, pairs.scores, strict=True)]


def write(folder: Path, name: str, text: str | bytes) -> str:
    """Write a file without any change of line ends."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.csv", 'sentence1,sentence2,score\na cat,a dog,2.5\na cat,"the cat, sitting",4\nno,yes,0\n', None),
        ("no header.csv", 'a cat,a dog,2.5\na cat,"the cat, sitting",4\nno,yes,0', None),
        (
            "other names.csv",
            'left,right,grade\na cat,a dog,2.5\na cat,"the cat, sitting",4\nno,yes,0\n',
            "left right grade".split(),
        ),
        (
            "crlf.csv",
            'sentence1,sentence2,score\r\na cat,a dog,2.5\r\na cat,"the cat, sitting",4\r\nno,yes,0\r\n',
            None,
        ),
        ("bom.csv", '\ufeffa cat,a dog,2.5\na cat,"the cat, sitting",4\nno,yes,0\n', None),
        (
            "bom, headed.csv",
            '\ufeffscore,sentence1,sentence2\n2.5,a cat,a dog\n4,a cat,"the cat, sitting"\n0,no,yes',
            None,
        ),
        ("blank.csv", '\na cat,a dog,2.5\n\na cat,"the cat, sitting",4\nno,yes,0\n\n', None),
        ("CAPS.CSV", 'Score,Sentence2,Sentence1\n2.5,a dog,a cat\n4,"the cat, sitting",a cat\n0,yes,no\n', None),
        ("named.csv", 'id,s,b,a\n9,2.5,a dog,a cat\n9,4,"the cat, sitting",a cat\n9,0,yes,no\n', ["a", "B", "s"]),
        ("placed.csv", '9,2.5,a dog,a cat\n9,4,"the cat, sitting",a cat\n9,0,yes,no\n', ["4", "3", "2"]),
        ("a.tsv", "sentence1\tsentence2\tscore\na cat\ta dog\t2.5\na cat\tthe cat, sitting\t4\nno\tyes\t0\n", None),
        ("placed.tsv", "x\t2.5\ta cat\ta dog\nx\t4\ta cat\tthe cat, sitting\nx\t0\tno\tyes\n", list("342")),
    ],
)
def test_a_table_is_read_by_the_names_in_its_header_or_by_place(
    tmp_path: Path, name: str, text: str, columns: Sequence[str] | None
) -> None:
    pairs = load_pairs(write(tmp_path, name, text), columns)
    assert rows_of(pairs) == ROWS
    assert pairs.name == pairs.label == name
    assert pairs.texts == ("a cat", "a dog", "the cat, sitting", "no", "yes")  # each once


@pytest.mark.parametrize("columns", [None, ["left", "right", "grade"]])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_json_lines_are_read_by_name(tmp_path: Path, columns: list[str] | None, ends: str) -> None:
    names = columns or ["sentence1", "sentence2", "score"]
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"id": 7}) for row in ROWS]
    assert rows_of(load_pairs(write(tmp_path, "a.jsonl", ends.join([*lines, "", ""])), columns)) == ROWS


UNUSUAL = "line\u2028separator, next\x85line, form\x0cfeed, file\x1cseparator"


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    rows = [(UNUSUAL, "plain", 1.0), ("plain", "other", 2.0)]
    lines = "".join(
        json.dumps({"sentence1": a, "sentence2": b, "score": s}, ensure_ascii=False) + "\n" for a, b, s in rows
    )
    assert rows_of(load_pairs(write(tmp_path, "a.jsonl", lines))) == rows
    assert rows_of(load_pairs(write(tmp_path, "a.csv", f'"{UNUSUAL}",plain,1\nplain,other,2\n'))) == rows
    assert rows_of(load_pairs(write(tmp_path, "a.tsv", f"{UNUSUAL}\tplain\t1\nplain\tother\t2\n"))) == rows


def test_a_quoted_field_keeps_its_line_ends_and_its_quotes(tmp_path: Path) -> None:
    text = 'sentence1,sentence2,score\n"two\nlines","two\r\nlines",1\n"she said ""no""",\'tis,2\n'
    assert rows_of(load_pairs(write(tmp_path, "a.csv", text))) == [
        ("two\nlines", "two\r\nlines", 1.0),
        ('she said "no"', "'tis", 2.0),
    ]


def test_quotes_are_literal_in_tsv(tmp_path: Path) -> None:
    text = '"Stop," he said.\tHe said "stop".\t4\n"\tno\t1\n'
    assert rows_of(load_pairs(write(tmp_path, "a.tsv", text))) == [
        ('"Stop," he said.', 'He said "stop".', 4.0),
        ('"', "no", 1.0),
    ]


@pytest.mark.parametrize(
    ("name", "text", "columns", "value"),
    [
        ("a.csv", "", None, "a.csv is empty"),
        ("a.csv", "\n\n", None, "a.csv is empty"),
        ("a.csv", "sentence1,sentence2,score\n", None, "0 pair(s)"),
        ("a.csv", "sentence1,sentence2,score\na,b,1\n", None, "1 pair(s)"),
        ("a.csv", "a,b,1\nc,d,1\ne,f,1.0\n", None, "3 pair(s)"),
        (
            "a.csv",
            "sentence1,sentence2,score\na,b,1\nc,d,good\n",
            None,
            "a.csv, line 3: the score 'good'",
        ),
        ("a.csv", "sentence1,sentence2,score\na,b,\nc,d,1\n", None, "line 2: the score ''"),
        ("a.csv", "sentence1,sentence2,score\na,b,nan\n", None, "line 2: the score nan"),
        ("a.csv", "a,b,nan\nc,d,2\n", None, "line 1: the score nan"),
        ("a.csv", "a,b,1\nc,d,-inf\n", None, "line 2: the score -inf"),
        ("a.csv", '"x\ny",b,1\nc,d,bad\n', None, "line 3: the score 'bad'"),
        ("a.csv", "a,b,1\nc,d\n", None, "line 2: 2 columns, expected at least 3"),
        ("a.csv", 'a,b,1\n"c,d,2\ne,f,3\n', None, "a.csv, line 3"),  # a quote that is never closed
        ("a.csv", 'a,b,1\n"she said "no"",d,2\n', None, "a.csv, line 2"),
        ("a.csv", "a,b\nc,d\n", None, "got 2 column(s)"),
        (
            "a.csv",
            "id,a,b,s\n1,x,y,2\n",
            None,
            "line 1: the score 'b'",
        ),
        ("a.csv", "a,b,s\nx,y,2\n", ["a", "b", "grade"], "no column grade"),
        ("a.csv", "a,b,1\nc,d,2\n", ["1", "2", "9"], "line 1: 3 columns, expected at least 9"),
        ("a.csv", "a,b,1\nc,d,2\n", ["0", "1", "2"], "no column 0, 2"),
        ("a.csv", "a,b,1\nc,d,2\n", ["1", "2"], "three different columns"),
        ("a.csv", "a,b,1\nc,d,2\n", ["1", "2", "2"], "three different columns"),
        ("a.csv", "a,b,1\nc,d,2\n", ["1", "2", "3", "1"], "three different columns"),
        ("a.tsv", "a,b,1\nc,d,2\n", None, "a.tsv: expected two sentences and a score, got 1 column(s)"),
        ("a.csv", "\ufeffcaf\xe9,b,1".encode("utf-16"), None, "a.csv is not UTF-8 (byte 0)"),
        ("a.csv", b"caf\xe9,b,1\n", None, "a.csv is not UTF-8 (byte 3)"),
        ("a.txt", "a,b,1\nc,d,2\n", None, "a.txt"),
        ("a", "a,b,1\nc,d,2\n", None, "expected a .csv, .tsv or .jsonl file"),
        ("a.jsonl", "", None, "0 pair(s)"),
        ("a.jsonl", "\n{\n", None, "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[" * 100_000, None, "a.jsonl, line 1 is not JSON"),
        ("a.jsonl", '["a", "b", 1]\n', None, "line 1 has no sentence1, sentence2, score (it has list)"),
        ("a.jsonl", '{"a": "x", "b": "y", "score": 1}', None, "has no sentence1, sentence2 (it has a, b, score)"),
        ("a.jsonl", '{"sentence1": 5, "sentence2": "y", "score": 1}', None, "line 1: expected two strings"),
        ("a.jsonl", '{"sentence1": "x", "sentence2": null, "score": 1}', None, "expected two strings"),
        ("a.jsonl", '{"sentence1": "x", "sentence2": "y", "score": null}', None, "the score None"),
        ("a.jsonl", '{"sentence1": "x", "sentence2": "y", "score": [1]}', None, "the score [1]"),
        ("a.jsonl", '{"sentence1": "x", "sentence2": "y", "score": NaN}', None, "line 1: the score nan"),
        ("a.jsonl", f'{{"sentence1": "x", "sentence2": "y", "score": 1{"0" * 400}}}', None, "the score 1"),
    ],
)
def test_the_error_names_the_place_that_cannot_be_used(
    tmp_path: Path, name: str, text: str | bytes, columns: list[str] | None, value: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_pairs(write(tmp_path, name, text), columns)
    assert value in str(caught.value)


def test_a_lone_surrogate_in_json_is_refused_with_its_line(tmp_path: Path) -> None:
    text = '{"sentence1": "x", "sentence2": "y", "score": 1}\n{"sentence1": "x", "sentence2": "\\ud800", "score": 2}\n'
    with pytest.raises(InputError, match=r"a\.jsonl, line 2"):
        load_pairs(write(tmp_path, "a.jsonl", text))


@pytest.mark.parametrize(("name", "message"), [("none.csv", "No such file"), ("folder.csv", "Is a directory")])
def test_the_error_says_why_a_file_cannot_be_opened(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=f"{name} cannot be read: {message}"):
        load_pairs(str(tmp_path / name))


@pytest.mark.parametrize("source", ["toy", "stsb"])
def test_columns_are_refused_for_sets_that_have_their_own(source: str) -> None:
    with pytest.raises(DataError, match=f"{source} has its own columns"):
        load_pairs(source, ["a", "b", "c"])


def test_the_toy_set_is_200_pairs_of_distinct_sentences_graded_0_to_5() -> None:
    pairs = load_pairs("toy")
    assert len(pairs.scores) == len(pairs.left) == len(pairs.right) == 200
    assert len(pairs.texts) == len({text.casefold().strip() for text in pairs.texts}) == 400  # no sentence twice
    assert (pairs.scores.min(), pairs.scores.max()) == (0, 5)
    assert all(text.strip() == text and text for text in pairs.texts)
    assert (pairs.name, pairs.label) == ("toy", TOY_LABEL)
    assert "not comparable" in TOY_LABEL


def test_the_hub_set_is_read_by_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, split: str) -> list[dict[str, object]]:
        asked.append((name, split))
        return [{"sentence1": a, "sentence2": b, "score": s / 5} for a, b, s in ROWS]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    pairs = load_pairs("stsb")
    assert asked == [("sentence-transformers/stsb", "test")]
    assert rows_of(pairs) == [(a, b, s / 5) for a, b, s in ROWS]
    assert (pairs.name, pairs.label) == ("stsb", "STS-B test")


def test_without_the_hub_the_error_recommends_a_local_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DataError, match=r"ConnectionError.*--sts"):
        load_pairs("stsb")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeUnavailable, match=r"m2d-export\[hub\]"):
        load_pairs("stsb")


def test_a_first_row_without_a_numeric_score_is_not_taken_as_a_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the score 'x3'.*--columns"):
        load_pairs(write(tmp_path, "a.csv", "a cat,a dog,x3\nno,yes,0\nno,no,5\n"))


@pytest.mark.parametrize(
    ("name", "content", "sentences"),
    [
        ("a.csv", 'sentence1;sentence2;score\nA, b;c;3,5\n"x;y";z;1\n', ("A, b", "c", "x;y", "z")),
        ("b.csv", "A cat, here;dog;3,5\nq;r;1\n", ("A cat, here", "dog", "q", "r")),
        ("c.csv", 'a,b,3.5\nc;d,"e;f",1\n', ("a", "b", "c;d", "e;f")),
        ("d.tsv", '"He said ""hi"""\tfoo\t3,5\nbar\t"two\nlines"\t1\n', ('He said "hi"', "foo", "bar", "two\nlines")),
        ("e.tsv", '"a"\t"b"\t"3.5"\n"c"\t"d"\t"1"\n', ("a", "b", "c", "d")),
        ("f.tsv", '"Hello," he said\tfoo\t3.5\nx\t"Quoted"\t1\n', ('"Hello," he said', "foo", "x", '"Quoted"')),
        ("g.tsv", '"Hello"\tfoo\t3.5\nx\ty\t1\n', ('"Hello"', "foo", "x", "y")),
    ],
)
def test_tables_of_spreadsheets_are_read_and_literal_quotes_stay(
    tmp_path: Path, name: str, content: str, sentences: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)
    pairs = load_pairs(str(tmp_path / name))
    assert (pairs.texts, pairs.scores.tolist()) == (sentences, [3.5, 1.0])
