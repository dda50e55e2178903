"""What dead processes left is removed; what a living one may be making is not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2d_export.host.files import output_file
from m2d_export.host.folders import staged_directory
from m2d_export.host.staging import ELSEWHERE, STAGING, remove_stale, staging_path
from tests.host.outputs import content, dead_process, folder, living_process, names


@pytest.mark.parametrize("name", ["tiny.m2d", "[a-z]*?.m2d", "名" * 85, "a" * 255])
def test_only_what_a_dead_process_left_of_the_same_target_is_removed(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    left = staging_path(target).name[: -len(living_process())]
    dead = folder(tmp_path / f"{left}{dead_process()}", "half")
    (tmp_path / f"{left}{dead_process()}").write_text("half of a file")
    kept = [
        folder(tmp_path / f"{STAGING}other.m2d-{dead_process()}", "half"),
        folder(tmp_path / f"{left}1-{dead_process()}", "half"),  # of a target with a longer name
        folder(tmp_path / f"{left}backup", "mine"),
    ]
    with staged_directory(target) as living:
        assert names(tmp_path) == sorted(path.name for path in [*kept, living])
        assert remove_stale(target) == 0
    assert not dead.exists()


def test_a_file_leaves_nothing_of_a_dead_process_either(tmp_path: Path) -> None:
    (tmp_path / f"{STAGING}out.npy-{dead_process()}").write_text("half")
    with output_file(tmp_path / "out.npy") as file:
        file.write(b"new")
    assert names(tmp_path) == ["out.npy"]


def test_a_process_that_got_the_number_of_a_dead_one_does_not_keep_its_output(tmp_path: Path) -> None:
    number, _, rest = living_process().split("-", 2)
    folder(tmp_path / f"{STAGING}target-{number}-1-{rest}", "half")
    assert remove_stale(tmp_path / "target") == 1


def test_a_process_that_only_waits_for_its_parent_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its code
        start = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        rest = living_process().split("-", 2)[2]
        folder(tmp_path / f"{STAGING}target-{child.pid}-{start}-{rest}", "half")
        assert remove_stale(tmp_path / "target") == 1


def test_another_machine_has_a_day_for_each_change(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / f"{STAGING}target-1-1-00000000-00000000", "half")
    old = time.time() - ELSEWHERE - 60
    for path in (elsewhere / "inner", elsewhere):
        os.utime(path, (old, old))
    assert remove_stale(tmp_path / "target") == 0  # the file in it is new
    os.utime(elsewhere / "inner" / "file", (old, old))
    assert remove_stale(tmp_path / "target") == 1


def test_a_link_named_like_stale_staging_is_not_followed(tmp_path: Path) -> None:
    precious = folder(tmp_path / "precious", "kept")
    (tmp_path / f"{STAGING}target-{dead_process()}").symlink_to(precious)
    assert remove_stale(tmp_path / "target") == 0
    assert content(precious) == "kept"
