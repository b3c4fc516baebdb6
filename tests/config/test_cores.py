"""The cores that a process really has."""

from pathlib import Path

import pytest

from nml_ray.config.cores import Cores, cgroup_quota, whole_cores


def own(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text("\n".join(lines) + "\n")
    return file


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_tightest_quota_of_version_2(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    write(root / "a/b/cpu.max", "max 100000\n")
    write(root / "a/cpu.max", "150000 100000\n")
    write(root / "other/cpu.max", "1 100000\n")
    assert cgroup_quota(root, own(tmp_path, "0::/a/b")) == 1.5


def test_version_1(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    write(root / "cpu,cpuacct/x/cpu.cfs_quota_us", "400000\n")
    write(root / "cpu,cpuacct/x/cpu.cfs_period_us", "100000\n")
    write(root / "cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(root / "cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cgroup_quota(root, own(tmp_path, "4:memory:/x", "3:cpu,cpuacct:/x", "0::/")) == 4


def test_without_control_groups(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path, tmp_path / "none") is None
    assert cgroup_quota(tmp_path, own(tmp_path, "0::/a")) is None
    assert whole_cores() >= 1


@pytest.mark.parametrize(("quota", "usable"), [(None, 8), (1.5, 1.5), (64, 8)])
def test_the_smaller_of_affinity_and_quota(quota: float | None, usable: float) -> None:
    assert Cores(8, quota).usable == usable
