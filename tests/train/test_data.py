"""The data of a training: splits from a folder or the Hub, the scale of their scores, and refusals."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from m2d_export.errors import DataError, InputError
from tests.support.trainings import DEV, TEST, TRAIN, Row, made_up, write, write_data
from train.data import fingerprint, load_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def records(rows: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(("sentence1", "sentence2", "score"), row, strict=True)) for row in rows]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records(rows)))
    return path


def write_parquet(path: Path, rows: list[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records(rows)), path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "csv": write,
    "tsv": write,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def sentences(split: Any) -> list[Row]:
    return [
        (split.texts[left], split.texts[right], score)
        for left, right, score in zip(split.left, split.right, split.scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_has_its_splits_as_files(tmp_path: Path, kind: str) -> None:
    splits = {"train": made_up(TRAIN, 0), "dev": made_up(DEV, 1), "test": made_up(TEST, 2)}
    for name, rows in splits.items():
        WRITERS[kind](tmp_path / f"{name}.{kind}", rows)
    found = load_data(str(tmp_path))
    assert {name: sentences(split) for name, split in found.splits().items()} == splits
    assert (found.source, found.scale) == (str(tmp_path), (0.0, 1.0))


def test_splits_may_be_files_of_different_types_and_test_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", made_up(TRAIN, 0))
    write_parquet(tmp_path / "validation.parquet", made_up(DEV, 1))
    found = load_data(str(tmp_path))
    assert sentences(found.dev) == made_up(DEV, 1)
    assert found.test is None
    assert list(found.held_out()) == ["dev"]
    assert list(found.splits()) == ["train", "dev"]


def test_columns_are_read_by_name(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("dev", 1)):
        write(tmp_path / f"{name}.csv", made_up(8, seed), header="left,right,grade")
    found = load_data(str(tmp_path), ("right", "left", "grade"))
    assert sentences(found.train) == [(right, left, score) for left, right, score in made_up(8, 0)]


def serve_from_hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Any]) -> None:
    monkeypatch.setattr(datasets, "load_dataset", answer)


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_a_data_set_from_the_hub(monkeypatch: pytest.MonkeyPatch, dev: str) -> None:
    splits = {"train": made_up(TRAIN, 0), dev: made_up(DEV, 1), "test": made_up(TEST, 2)}
    held = datasets.DatasetDict({name: datasets.Dataset.from_list(records(rows)) for name, rows in splits.items()})
    serve_from_hub(monkeypatch, {"someone/pairs": held}.__getitem__)
    found = load_data("someone/pairs")
    assert [sentences(split) for split in found.splits().values()] == list(splits.values())
    assert found.source == "someone/pairs"


def test_a_failure_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ConnectionError(f"cannot reach {name}\nand more of it")

    serve_from_hub(monkeypatch, fail)
    with pytest.raises(DataError) as raised:
        load_data("someone/pairs")
    assert str(raised.value).endswith(": cannot reach someone/pairs")


def test_two_names_of_one_split_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list(records(made_up(DEV, 1)))
    held = datasets.DatasetDict(train=rows, dev=rows, validation=rows)
    serve_from_hub(monkeypatch, {"someone/pairs": held}.__getitem__)
    with pytest.raises(DataError, match="dev and validation"):
        load_data("someone/pairs")


@pytest.mark.parametrize(
    ("given", "top", "scale"),
    [(None, 1, (0, 1)), (None, 5, (0, 5)), ((0.0, 10.0), 10, (0, 10)), ((-4.0, 4.0), 4, (-4, 4))],
)
def test_scores_are_scaled_to_0_to_1(
    tmp_path: Path, given: tuple[float, float] | None, top: float, scale: tuple[float, float]
) -> None:
    for name, seed in (("train", 0), ("dev", 1)):
        rows = [(left, right, scale[0] + score * (top - scale[0])) for left, right, score in made_up(12, seed)]
        write(tmp_path / f"{name}.csv", rows)
    found = load_data(str(tmp_path), scale=given)
    assert found.scale == scale
    np.testing.assert_allclose(found.train.scores, [row[2] for row in made_up(12, 0)], atol=1e-12)


def with_scores(rows: list[Row], *scores: Any) -> list[Any]:
    return [(*row[:2], score) for row, score in zip(rows, scores, strict=False)] + rows[len(scores) :]


FEW = made_up(6, 5)


@pytest.mark.parametrize(
    ("train", "dev", "parts"),
    [
        (with_scores(FEW, 7.5), FEW, ("train.csv", "0 to 7.5", "--scale LOW,HIGH")),
        (with_scores(FEW, -0.5), FEW, ("train.csv", "-0.5 to 1", "--scale LOW,HIGH")),
        (FEW, with_scores(FEW, 3, 2), ("dev.csv, pair 1:", "score 3 ", "0 to 1", "2 pairs", "--scale LOW,HIGH")),
        (with_scores(FEW, "nan"), FEW, ("train.csv, line 2:", "nan")),
        (with_scores(FEW, "inf"), FEW, ("train.csv, line 2:", "inf")),
        (with_scores(FEW, "good"), FEW, ("train.csv, line 2:", "'good'")),
        (FEW, with_scores(FEW, *[1] * 6), ("dev.csv", "6 pair(s)")),
        ([], FEW, ("train.csv", "0 pair(s)")),
    ],
)
def test_scores_that_cannot_be_used(tmp_path: Path, train: list[Any], dev: list[Any], parts: tuple[str, ...]) -> None:
    write(tmp_path / "train.csv", train)
    write(tmp_path / "dev.csv", dev)
    with pytest.raises(DataError) as raised:
        load_data(str(tmp_path))
    assert [part for part in parts if part not in str(raised.value)] == []


def test_the_given_scale_is_checked_in_every_split(data: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv, pair 4: .* 0\.75 .* 0 to 0\.5 \(10 pairs"):
        load_data(str(data), scale=(0.0, 0.5))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "value"),
    [
        ((7, "a cat", 0.5), "7"),
        ((None, "a cat", 0.5), "None"),
        (("a dog", "a cat", None), "None"),
        (("a dog", "a cat", float("nan")), "nan"),
    ],
)
def test_values_of_the_wrong_type(data: Path, kind: str, row: tuple[Any, ...], value: str) -> None:
    (data / "train.csv").unlink()
    # A Parquet column has one type: all its values are numbers if the first one is.
    rows = [row, *FEW] if isinstance(row[0], str | None) else [(7, *good[1:]) for good in FEW]
    WRITERS[kind](data / f"train.{kind}", rows)
    with pytest.raises(DataError, match=rf"train\.{kind}, (line|row) 1: .*{value}"):
        load_data(str(data))


def test_a_sentence_that_utf8_cannot_encode(data: Path) -> None:
    (data / "train.csv").unlink()
    write_jsonl(data / "train.jsonl", [("a \ud800 cat", "a dog", 0.5), *FEW])
    with pytest.raises(InputError, match=r"train\.jsonl, line 1"):
        load_data(str(data))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_score_column(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "dev.csv", FEW)
    path = tmp_path / f"train.{kind}"
    if kind in ("csv", "tsv"):
        write(path, FEW, header="sentence1,sentence2,grade")
    else:
        renamed = [{"grade" if key == "score" else key: value for key, value in row.items()} for row in records(FEW)]
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in renamed))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(renamed), path)
    with pytest.raises(DataError, match=r"train\.\w+.*--columns A,B,SCORE"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("present", "named"),
    [
        ((), "no train and no dev split"),
        (("dev.csv", "test.csv"), "no train split"),
        (("train.csv", "test.csv"), "no dev split"),
        (("train.csv", "dev.csv", "train.tsv"), "train.csv and train.tsv"),
        (("train.csv", "dev.csv", "validation.csv"), "dev.csv and validation.csv"),
    ],
)
def test_splits_that_are_missing_or_there_twice(tmp_path: Path, present: tuple[str, ...], named: str) -> None:
    for name in present:
        write(tmp_path / name, FEW)
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path))} .*{named}"):
        load_data(str(tmp_path))


def test_an_empty_file_and_a_file_instead_of_the_folder(data: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv is a file"):
        load_data(str(data / "train.csv"))
    (data / "dev.csv").write_text("")
    with pytest.raises(DataError, match=r"dev\.csv"):
        load_data(str(data))


def test_a_file_that_is_not_parquet(data: Path) -> None:
    (data / "train.csv").rename(data / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet") as raised:
        load_data(str(data))
    assert "\n" not in str(raised.value)


def test_pairs_that_are_in_train_too_are_counted_once_and_in_either_order(tmp_path: Path) -> None:
    train = made_up(10, 0)
    left, right, score = train[3]
    write(tmp_path / "train.csv", train)
    write(tmp_path / "dev.csv", [(right, left, 0.1), train[4], train[4], *FEW])
    write(tmp_path / "test.csv", [(left, "an other one", score), *FEW])
    assert load_data(str(tmp_path)).overlap() == {"dev": 2, "test": 0}


def test_the_fingerprint_depends_on_the_data_and_not_on_the_folder(data: Path, tmp_path: Path) -> None:
    same = write_data(tmp_path / "same")
    assert fingerprint(load_data(str(data))) == fingerprint(load_data(str(same)))
    rows = made_up(TRAIN, 0)
    for changed in (rows[::-1], [(*rows[0][:2], 0.3), *rows[1:]], [(rows[0][1], rows[0][0], rows[0][2]), *rows[1:]]):
        write(same / "train.csv", changed)
        assert fingerprint(load_data(str(data))) != fingerprint(load_data(str(same)))
