"""The data of a training: where splits come from, what their scores mean, and what is refused."""

import json
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
def test_a_folder_holds_its_splits_as_files(tmp_path: Path, kind: str) -> None:
    splits = {"train": made_up(TRAIN, 0), "dev": made_up(DEV, 1), "test": made_up(TEST, 2)}
    for name, rows in splits.items():
        WRITERS[kind](tmp_path / f"{name}.{kind}", rows)
    found = load_data(str(tmp_path))
    assert {name: sentences(split) for name, split in found.splits().items()} == splits
    assert (found.source, found.scale) == (str(tmp_path), (0.0, 1.0))


def test_splits_may_be_of_different_kinds_and_test_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", made_up(TRAIN, 0))
    write_parquet(tmp_path / "validation.parquet", made_up(DEV, 1))
    found = load_data(str(tmp_path))
    assert sentences(found.dev) == made_up(DEV, 1)
    assert found.test is None
    assert list(found.judged()) == ["dev"]
    assert list(found.splits()) == ["train", "dev"]


def test_columns_are_taken_by_name(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("dev", 1)):
        write(tmp_path / f"{name}.csv", made_up(8, seed), header="left,right,grade")
    found = load_data(str(tmp_path), ("right", "left", "grade"))
    assert sentences(found.train) == [(right, left, score) for left, right, score in made_up(8, 0)]


def of_the_hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Any]) -> None:
    monkeypatch.setattr(datasets, "load_dataset", answer)


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch, dev: str) -> None:
    splits = {"train": made_up(TRAIN, 0), dev: made_up(DEV, 1), "test": made_up(TEST, 2)}
    held = datasets.DatasetDict({name: datasets.Dataset.from_list(records(rows)) for name, rows in splits.items()})
    of_the_hub(monkeypatch, {"someone/pairs": held}.__getitem__)
    found = load_data("someone/pairs")
    assert [sentences(split) for split in found.splits().values()] == list(splits.values())
    assert found.source == "someone/pairs"


def test_what_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ConnectionError(f"cannot reach {name}\nand more of it")

    of_the_hub(monkeypatch, fail)
    with pytest.raises(DataError) as told:
        load_data("someone/pairs")
    message = "no folder someone/pairs here, and the Hub has not given it: cannot reach someone/pairs"
    assert str(told.value) == message


@pytest.mark.parametrize(
    ("given", "top", "scale"),
    [(None, 1, (0, 1)), (None, 5, (0, 5)), ((0.0, 10.0), 10, (0, 10)), ((-4.0, 4.0), 4, (-4, 4))],
)
def test_scores_come_to_lie_within_0_and_1(
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
    ("train", "dev", "message"),
    [
        (with_scores(FEW, 7.5), FEW, r"train\.csv run from 0 to 7\.5: say their range with --scale LOW,HIGH"),
        (with_scores(FEW, -0.5), FEW, r"train\.csv run from -0\.5 to 1: say their range"),
        (FEW, with_scores(FEW, 3, 2), r"dev\.csv, pair 1: score 3 is not within 0\.\.1 \(2 such\): say the right"),
        (with_scores(FEW, "nan"), FEW, r"train\.csv, line 2: the score is nan"),
        (with_scores(FEW, "inf"), FEW, r"train\.csv, line 2: the score is inf"),
        (with_scores(FEW, "good"), FEW, r"train\.csv, line 2: the score 'good' is not a number"),
        (FEW, with_scores(FEW, *[1] * 6), r"dev\.csv has 6 pair\(s\), all of one score"),
        ([], FEW, r"train\.csv has 0 pair\(s\)"),
    ],
)
def test_scores_that_cannot_be_learnt_from(tmp_path: Path, train: list[Any], dev: list[Any], message: str) -> None:
    write(tmp_path / "train.csv", train)
    write(tmp_path / "dev.csv", dev)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path))


def test_a_scale_that_is_given_is_held_against_all_splits(data: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv, pair 4: score 0\.75 is not within 0\.\.0\.5 \(10 such\)"):
        load_data(str(data), scale=(0.0, 0.5))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((7, "a cat", 0.5), "both sentences must be strings"),
        ((None, "a cat", 0.5), "both sentences must be strings"),
        (("a dog", "a cat", None), "the score None is not a number"),
        (("a dog", "a cat", float("nan")), "the score is nan"),
    ],
)
def test_values_of_the_wrong_kind(data: Path, kind: str, row: tuple[Any, ...], message: str) -> None:
    (data / "train.csv").unlink()
    # A column of Parquet has one type: the row stands for all of them where its first is no string.
    rows = [row, *FEW] if isinstance(row[0], str | None) else [(7, *good[1:]) for good in FEW]
    WRITERS[kind](data / f"train.{kind}", rows)
    with pytest.raises(DataError, match=rf"train\.{kind}, (line|row) 1: {message}"):
        load_data(str(data))


def test_a_sentence_that_no_utf8_can_hold(data: Path) -> None:
    (data / "train.csv").unlink()
    write_jsonl(data / "train.jsonl", [("a \ud800 cat", "a dog", 0.5), *FEW])
    with pytest.raises(InputError, match=r"train\.jsonl, line 1 holds a lone surrogate"):
        load_data(str(data))


@pytest.mark.parametrize("kind", WRITERS)
def test_no_score_column(tmp_path: Path, kind: str) -> None:
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
    with pytest.raises(DataError, match=r"train\.\w+, (line|row) 1.*--columns A,B,SCORE"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "has no train and no dev split: expected train, dev (or validation) and perhaps test, each a .csv, .tsv"),
        (("dev.csv", "test.csv"), "has no train split"),
        (("train.csv", "test.csv"), "has no dev split"),
        (("train.csv", "dev.csv", "train.tsv"), "holds train.csv and train.tsv: keep the one to take"),
        (("train.csv", "dev.csv", "validation.csv"), "holds dev.csv and validation.csv: keep the one to take"),
    ],
)
def test_splits_that_are_missing_or_there_twice(tmp_path: Path, present: tuple[str, ...], message: str) -> None:
    for name in present:
        write(tmp_path / name, FEW)
    with pytest.raises(DataError) as told:
        load_data(str(tmp_path))
    assert str(told.value).startswith(f"{tmp_path} {message}")


def test_an_empty_file_and_a_file_in_place_of_the_folder(data: Path) -> None:
    with pytest.raises(DataError, match=r"train\.csv is a file: give the folder that holds train, dev"):
        load_data(str(data / "train.csv"))
    (data / "dev.csv").write_text("")
    with pytest.raises(DataError, match=r"dev\.csv is empty"):
        load_data(str(data))


def test_a_parquet_file_that_is_none(data: Path) -> None:
    (data / "train.csv").rename(data / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as Parquet: .*") as told:
        load_data(str(data))
    assert "\n" not in str(told.value)


def test_pairs_that_train_holds_too_are_counted_in_either_order_and_once(tmp_path: Path) -> None:
    train = made_up(10, 0)
    left, right, score = train[3]
    write(tmp_path / "train.csv", train)
    write(tmp_path / "dev.csv", [(right, left, 0.1), train[4], train[4], *FEW])
    write(tmp_path / "test.csv", [(left, "an other one", score), *FEW])
    assert load_data(str(tmp_path)).overlap() == {"dev": 2, "test": 0}


def test_the_fingerprint_tells_data_apart_and_not_where_they_lie(data: Path, tmp_path: Path) -> None:
    same = write_data(tmp_path / "same")
    assert fingerprint(load_data(str(data))) == fingerprint(load_data(str(same)))
    rows = made_up(TRAIN, 0)
    for changed in (rows[::-1], [(*rows[0][:2], 0.3), *rows[1:]], [(rows[0][1], rows[0][0], rows[0][2]), *rows[1:]]):
        write(same / "train.csv", changed)
        assert fingerprint(load_data(str(data))) != fingerprint(load_data(str(same)))
