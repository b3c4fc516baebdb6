"""SIGKILL of the driver in the middle of each stage, then running again, ends in the same report numbers."""

import json
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks.kills import finish, kill, start, wait_for
from nml_ray.storage.artifact import read_progress
from tests.small_icons import small_icons

JOB = Path(__file__).parents[1] / "jobs/demo.yaml"
SETTINGS = (
    "threads=1",
    "pretrain.encoder.width=4",
    "pretrain.epochs=3",
    "pretrain.batch=128",
    "noise.ratios=[0,0.3]",
    "heads.seeds=[0]",
    "run.cpus=2",
    "run.checkpoint_steps=2",
)
NUMBERS = ("scores.csv", "spectra.csv", "curves.csv", "measures.csv", "paper_table.csv")

pytestmark = [pytest.mark.kill, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    settings = [small_icons(tmp_path_factory.mktemp("icons")), *SETTINGS]
    options = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "nml_ray", "run", str(JOB), *options]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> dict[str, str]:
    storage = tmp_path_factory.mktemp("undisturbed")
    run([*command, "--inline"], storage)
    return numbers(storage)


def run(command: list[str], storage: Path) -> None:
    finish(start(command, storage), storage)


def numbers(storage: Path) -> dict[str, str]:
    return {name: (storage / "studies/demo" / name).read_text() for name in NUMBERS}


def in_the_middle(storage: Path, kind: str) -> bool:
    """An unfinished attempt of this kind has done a part of its work, or has begun where it does not say."""
    for attempt in (storage / kind).glob("*/attempt-*"):
        if (attempt.parent / "record.json").exists():
            continue
        said = read_progress(attempt)
        if kind in ("ledger", "spectrum", "report") or (said and 0 < said.done < said.total):
            return True
    return False


def kill_in(command: list[str], storage: Path, kind: str) -> list[psutil.Process] | None:
    """Start the command and kill its process inside a stage; what it leaves behind, or None where the stage was over
    before it was seen."""
    process = start(command, storage)
    if wait_for(process, partial(in_the_middle, storage, kind)):
        return kill(process)
    assert process.returncode == 0
    return None


def test_killed_in_every_stage_without_ray(command, undisturbed, tmp_path):
    killed = [
        kind
        for kind in ("ledger", "pretrain", "extract", "spectrum", "heads", "report")
        if kill_in([*command, "--inline", "--until", kind], tmp_path, kind) is not None
    ]
    assert {"pretrain", "heads", "report"} <= set(killed)
    run([*command, "--inline"], tmp_path)
    assert numbers(tmp_path) == undisturbed


def test_killed_in_every_ray_stage(command, undisturbed, tmp_path):
    stages = ("pretrain", "extract", "heads")
    left = {kind: kill_in([*command, "--until", kind], tmp_path, kind) for kind in stages}
    print("killed in", [kind for kind, processes in left.items() if processes is not None])
    assert any(processes is not None for processes in left.values()), "no stage was caught at work"
    run(command, tmp_path)
    assert numbers(tmp_path) == undisturbed
    _, alive = psutil.wait_procs([process for found in left.values() for process in found or ()], timeout=90)
    assert not alive, "Ray's processes outlive a killed driver"


def test_killed_while_sharding(tmp_path):
    command = [sys.executable, "-m", "nml_ray", "run", str(JOB), "--inline", "--until", "shards"]
    run(command, tmp_path / "undisturbed")
    assert kill_in(command, tmp_path / "killed", "shards") is not None
    run(command, tmp_path / "killed")
    digests = [
        {
            path.parent.name: json.loads(path.read_bytes())["digest"]
            for path in (tmp_path / name / "shards").glob("*/attempt-*/*/dataset.json")
        }
        for name in ("undisturbed", "killed")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 5
