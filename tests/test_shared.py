"""Files that are made once per test run."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.shared import made_once


def test_a_folder_is_made_once_however_many_ask_for_it(tmp_path: Path) -> None:
    made: list[Path] = []
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: made_once(tmp_path, "name", made.append), range(8)))
    assert set(folders) == {tmp_path / "name"} == set(made)
    assert len(made) == 1


def test_what_a_failure_leaves_is_removed_before_the_folder_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("no more room")

    with pytest.raises(OSError, match="no more room"):
        made_once(tmp_path, "name", fail)
    folder = made_once(tmp_path, "name", lambda folder: (folder / "whole").write_text(""))
    assert [path.name for path in folder.iterdir()] == ["whole"]
