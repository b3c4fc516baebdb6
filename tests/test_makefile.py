"""The Makefile: what its targets run, and when the installation installs what."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = (
    "help",
    "docs",
    "install",
    "demo",
    "lint",
    "test-fast",
    "test",
    "test-heavy",
    "test-clusters",
    "test-kills",
    "test-all",
    "lock",
    "clean",
    "distclean",
)


def make(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    drop = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "TORCH_INDEX", "PYTHON", "UV_INDEX_URL")
    inherited = {name: value for name, value in os.environ.items() if name not in drop}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )


def test_every_target_is_listed_and_can_be_planned():
    listed = re.findall(r"^(\S+)", make("help").stdout, re.MULTILINE)
    assert set(listed) == set(TARGETS)
    for target in TARGETS:
        planned = make("--dry-run", "--old-file=.venv/.installed", target)
        assert planned.returncode == 0, planned.stderr


def test_the_targets_run_what_they_promise():
    plans = {target: make("--dry-run", "--old-file=.venv/.installed", target).stdout for target in TARGETS}
    heavy = "browser or slow or kill or netns or slurm"
    assert "nml-ray run jobs/demo.yaml" in plans["demo"]
    assert f'-m "not (long or ray or {heavy})"' in plans["test-fast"]
    for rest in (f'-m "long and not (ray or {heavy})"', f'-m "ray and not ({heavy})"'):
        assert rest in plans["test"]
    clusters = "netns or slurm"
    for part in (f'-m "{clusters}"', f'-m "({heavy}) and not ({clusters})"'):
        assert part in plans["test-heavy"]
    for target in ("test-fast", "test", "test-all"):
        assert "ruff check" in plans[target]
        assert "mypy" in plans[target]
    for part in ("test", "test-heavy"):
        assert set(plans[part].splitlines()) <= set(plans["test-all"].splitlines())
    markers = {line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    assert markers == {"long", "ray", *heavy.split(" or ")}


FAKE_UV = f"""#!{sys.executable}
import os, pathlib, sys
arguments = sys.argv[1:]
with open("calls", "a") as log:
    print(*arguments, file=log)
if os.environ.get("FAIL_AT", "nothing") in arguments:
    sys.exit(1)
if arguments[0] == "venv":
    pathlib.Path(arguments[-1]).mkdir(exist_ok=True)
"""


class Clone:
    """A copy of what the installation reads, with a stand-in for uv that only notes how it is called.

    The real thing downloads gigabytes; what is tested here is when the Makefile installs what.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, path / name)
        (path / "bin").mkdir()
        (path / "bin/uv").write_text(FAKE_UV)
        (path / "bin/uv").chmod(0o755)

    def install(self, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """What `make install` says, and the calls of uv that it led to."""
        (self.path / "calls").write_text("")
        search = f"{self.path / 'bin'}:{os.environ['PATH']}"
        done = make("install", f"PYTHON={sys.executable}", *arguments, cwd=self.path, PATH=search, **environment)
        return done, (self.path / "calls").read_text().splitlines()

    @property
    def stamp(self) -> Path:
        return self.path / ".venv/.installed"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_installs_once_by_hash_and_again_when_the_lock_changed(clone):
    done, calls = clone.install()
    assert done.returncode == 0, done.stderr
    assert "GB to download" in done.stdout
    assert [call.split()[0] for call in calls] == ["venv", "pip", "pip", "pip"]
    assert "--require-hashes --no-deps -r requirements.lock" in calls[1]
    assert "--no-deps --no-build-isolation --editable ." in calls[2]
    assert clone.stamp.exists()

    assert clone.install()[1] == []
    newer = clone.stamp.stat().st_mtime + 1
    os.utime(clone.path / "requirements.lock", (newer, newer))
    assert len(clone.install()[1]) == 4


@pytest.mark.parametrize("failing", ["venv", "requirements.lock", ".", "check"])
def test_a_broken_installation_leaves_no_stamp_and_begins_anew(clone, failing):
    done, _ = clone.install(FAIL_AT=failing)
    assert done.returncode != 0
    assert not clone.stamp.exists()
    (clone.path / ".venv/half").write_text("")
    assert clone.install()[0].returncode == 0
    assert clone.stamp.exists()
    assert not (clone.path / ".venv/half").exists()


def test_torch_from_an_index_of_the_users(clone):
    index = "https://torch.example/cpu"
    done, calls = clone.install(f"TORCH_INDEX={index}")
    assert done.returncode == 0, done.stderr
    rest = (clone.path / ".venv/requirements.lock").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    left_out = {name for name in names if re.fullmatch(r"torch|torchvision|triton|(nvidia|cuda)-.*", name)}
    assert left_out > {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cudnn-cu13"}
    assert set(re.findall(r"^([a-z0-9-]+)==", rest, re.MULTILINE)) == names - left_out
    assert "-r .venv/requirements.lock" in calls[1]
    assert f"--index-url {index} torch==2.14.1 torchvision==0.29.1" in calls[2]

    assert clone.install()[1] == []  # remembered
    (clone.path / ".venv/other-build").write_text("")
    assert len(clone.install("TORCH_INDEX=")[1]) == 4
    assert not (clone.path / ".venv/other-build").exists()


def test_a_python_too_old_is_named(clone):
    done, calls = clone.install("PYTHON=false")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, and 'false' is not" in done.stderr
    assert (calls, (clone.path / ".venv").exists()) == ([], False)
