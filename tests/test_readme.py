"""Every command of the README, as it stands there, in an empty directory; runs are made small and go without Ray."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from tests.newcomer import downloads
from tests.small_icons import small_icons

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (nml-ray .*)$", README, re.MULTILINE)]
SMALL = ("threads=1", "pretrain.epochs=1", "pretrain.encoder.width=2")
DEMO = ("pretrain.batch=128", "heads.seeds=[0]")
OWN = ("pretrain.batch=8",)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def newcomer(tmp_path, monkeypatch) -> str:
    """A directory with the job files, photos and a set as distributed; returns the small data for jobs on icons."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    downloads(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return small_icons(tmp_path / "icons")


def made_small(command: list[str], icons: str) -> list[str]:
    if command[0] == "doctor":
        return [*command, *(word for setting in OWN for word in ("--set", setting))]
    if command[0] not in ("run", "submit"):
        return command
    own = any(word.startswith("data=") for word in command)
    settings = (*SMALL, *(OWN if own else (icons, *DEMO)))
    options = [word for setting in settings for word in ("--set", setting)]
    return [*command, *options, *([] if "--inline" in command else ["--inline"])]


def test_every_command(newcomer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {command[0] for command in COMMANDS} >= {
        *("run", "plan", "init", "data", "doctor", "audit", "tasks"),
        *("submit", "list", "logs", "stop"),
    }
    for command in COMMANDS:
        code = call(made_small(command, newcomer))
        assert code == 0, f"nml-ray {shlex.join(command)}: {capsys.readouterr().err}"
    assert Path("runs/studies/demo/report.html").exists()
    assert Path("my-study/jobs/demo.yaml").exists() or Path("my-study/demo.yaml").exists()
