"""Where a checkpoint lies: in a folder, or on the Hub."""

from collections.abc import Callable
from pathlib import Path

import pytest

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import CheckpointError

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "named"),
    [("./not-here", "Hub id"), ("a b c", "Hub id"), ("nobody/nothing", "the Hub did not provide it")],
)
def test_a_checkpoint_that_does_not_exist_is_refused(name: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=named) as caught:
        load_checkpoint(name)
    assert name in str(caught.value)


def test_a_file_is_not_a_checkpoint_and_a_folder_has_no_revisions(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="revision"):
        load_checkpoint(str(tmp_path), "main")


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_hub_checkpoint_is_one_snapshot_named_by_its_commit(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commit = "c0ffee" * 6 + "abcd"
    snapshot = make_checkpoint().rename(tmp_path / commit)
    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.py" not in allow_patterns
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = load_checkpoint("someone/encoder", revision)
    assert asked == [("someone/encoder", revision)]
    assert (loaded.origin.name, loaded.origin.revision) == ("someone/encoder", commit)
