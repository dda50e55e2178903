"""Limits of containers, read from files as Linux shows them: version 1 and 2, nested, with and without a namespace."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from m2d_export.host.cgroups import cpu_quota, memory_limit
from m2d_export.host.machine import cores, memory_bytes

ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
V2 = "29 22 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 31 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 31 0:31 {top} /sys/fs/cgroup/memory rw master:9 - cgroup cgroup rw,memory"
OTHERS = """22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /mnt rw - tmpfs  rw
30 22 0:7 / /x rw - cgroup none rw,name=systemd"""
Tree = Callable[[str, str, Mapping[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A root folder with /proc/self/cgroup, /proc/self/mountinfo, and files below /sys/fs/cgroup."""

    def tree(groups: str, mounts: str, files: Mapping[str, str]) -> Path:
        written = {"proc/self/cgroup": groups, "proc/self/mountinfo": f"{OTHERS}\n{mounts}\n"}
        written |= {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
        for name, content in written.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return tree


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("20000 10000", 2),
        ("1000 1000000", 1),
        ("max 100000", None),
        ("", None),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(tree: Tree, limit: str, expected: int | None) -> None:
    root = tree("0::/\n", V2.format(top="/"), {"cpu.max": f"{limit}\n"})
    assert cpu_quota(root) == expected
    assert cores(root) == min(ALLOWED, expected or ALLOWED)


@pytest.mark.parametrize(("quota", "expected"), [(50000, 1), (250000, 3), (-1, None), (0, None)])
def test_a_quota_of_version_1_is_in_two_files(tree: Tree, quota: int, expected: int | None) -> None:
    files = {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": str(quota), "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n"}
    root = tree("4:cpu,cpuacct:/docker/a\n5:memory:/docker/b\n0::/x\n", V1_CPU.format(top="/"), files)
    assert cpu_quota(root) == expected


@pytest.mark.parametrize("strictest", ["", "a/", "a/b/"])
def test_the_least_limit_on_the_way_to_the_top_counts(tree: Tree, strictest: str) -> None:
    files = {f"{group}cpu.max": "800000 100000" for group in ("", "a/", "a/b/")} | {f"{strictest}cpu.max": "1 2"}
    files |= {f"{group}memory.max": "max" for group in ("", "a/", "a/b/")} | {f"{strictest}memory.max": "123456789"}
    files |= {"a/b/c/cpu.max": "1 100", "d/memory.max": "1"}  # not on the way
    root = tree("0::/a/b\n", V2.format(top="/"), files)
    assert cpu_quota(root) == 1
    assert memory_limit(root) == memory_bytes(root) == 123456789


@pytest.mark.parametrize(
    ("group", "top"),
    [
        ("/docker/a", "/docker/a"),  # version 1 without a namespace: the mount begins at the group
        ("/../../kubepods/a", "/"),  # a group above the namespace
        ("/elsewhere/a", "/docker/a"),
        ("/", "/.."),
    ],
)
def test_a_group_that_is_not_below_the_mount_is_the_mount_itself(tree: Tree, group: str, top: str) -> None:
    mounts = "\n".join(mount.format(top=top) for mount in (V1_CPU, V1_MEMORY))
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "1000000",
    }
    root = tree(f"7:cpuacct,cpu:{group}\n8:memory:{group}\n", mounts, files)
    assert (cpu_quota(root), memory_limit(root)) == (1, 1000000)


def test_the_largest_number_of_version_1_is_no_limit_on_memory(tree: Tree, tmp_path: Path) -> None:
    root = tree("8:memory:/\n", V1_MEMORY.format(top="/"), {"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert memory_bytes(root) == memory_bytes(tmp_path / "nothing")


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is memory_limit(tmp_path) is None
    assert cores(tmp_path) == ALLOWED


def test_both_versions_at_once_are_read(tree: Tree) -> None:
    mounts = f"{V1_CPU.format(top='/')}\n{V2.format(top='/').replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}"
    root = tree("1:cpu,cpuacct:/\n0::/\n", mounts, {"unified/cpu.max": "100000 100000"})
    assert cpu_quota(root) == 1


NO_LIMITS = ["", "max", "-1", "0", "9" * 400, "9" * 5000, "1.5", "many 100000", "\0", "5 0", "1 2 3"]


@pytest.mark.parametrize("content", NO_LIMITS)
def test_a_file_with_anything_else_is_no_limit(tree: Tree, content: str) -> None:
    root = tree("0::/\n", V2.format(top="/"), {"cpu.max": content, "memory.max": content})
    assert cores(root) == ALLOWED
    assert memory_bytes(root) > 0


def test_numbers_of_any_size_are_divided(tree: Tree) -> None:
    assert cpu_quota(tree("0::/\n", V2.format(top="/"), {"cpu.max": "1 " + "9" * 400})) == 1
    assert cores(tree("0::/\n", V2.format(top="/"), {"cpu.max": "9" * 400 + " 1"})) == ALLOWED


@pytest.mark.parametrize("mounts", ["x", "- cgroup2", "30 23 0:26 / - cgroup2 cgroup2 rw"])
def test_a_line_of_mounts_that_is_too_short_is_left_out(tree: Tree, mounts: str) -> None:
    assert cpu_quota(tree("nonsense\n0::/\n", mounts, {})) is None
