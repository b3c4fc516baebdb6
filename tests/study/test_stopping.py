"""SIGTERM: a run in training makes a checkpoint, stops, and goes on from there to the same bits."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.kills import wait_for
from nml_ray.pretrain.notice import is_asked
from nml_ray.pretrain.resume import checkpoints
from nml_ray.storage.artifact import Store, read_progress
from nml_ray.study import stopping
from nml_ray.study.stopping import Stopper
from tests.small_icons import small_icons

JOB = Path(__file__).parents[2] / "jobs/demo.yaml"
SETTINGS = (
    "threads=1",
    "pretrain.encoder.width=4",
    "pretrain.epochs=30",
    "pretrain.batch=128",
    "noise.ratios=[0,0.3]",
    "run.cpus=2",
    "run.checkpoint_steps=1000000",
)


class Shown:
    """A display that only keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    @contextmanager
    def stage(self, title, attempts):
        yield


def begun(root: Path, kind: str) -> Path:
    attempt = Store(root).attempt(kind, "0" * 16)
    attempt.progress(1, 10, "images")
    return attempt.path


def stopped_within(stopper: Stopper, path: Path) -> float:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait_in(stopper, path)
    return time.monotonic() - began


def wait_in(stopper: Stopper, path: Path) -> None:
    with stopper.listening(), stopper.stage("a stage", [path]):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)


def test_stages_without_checkpoints_end_at_once(tmp_path):
    shown = Shown()
    assert stopped_within(Stopper(shown), begun(tmp_path, "heads")) < 25
    assert shown.said == []


def test_no_checkpoint_in_time_is_told(tmp_path):
    shown = Shown()
    stopped_within(Stopper(shown, 0.3), begun(tmp_path, "pretrain"))
    assert [line.split(":")[0] for line in shown.said] == [
        "stopping, after a checkpoint (0 s at most)",
        "no checkpoint came in time",
    ]


def test_a_second_signal_does_not_wait_unless_it_comes_at_once(tmp_path, monkeypatch):
    path, asked = begun(tmp_path, "pretrain"), list[bool]()
    monkeypatch.setattr(stopping, "ONE_WISH", 0.2)

    def again() -> None:
        while not is_asked(path):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)  # the same wish, by another way
        time.sleep(0.3)
        asked.append(is_asked(path))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=again, daemon=True).start()
    assert stopped_within(Stopper(Shown(), 1000), path) < 25
    assert asked == [True]


def ended_by_sigterm(command: list[str], storage: Path) -> int:
    """Start a run, stop it in the middle of training, and return the step of its checkpoint."""
    process = subprocess.Popen([*command, "--storage", str(storage)], stderr=subprocess.PIPE, text=True)

    def trains() -> bool:
        told = [read_progress(attempt) for attempt in (storage / "pretrain").glob("*/attempt-*")]
        return len(told) == 2 and all(one and one.done > 500 for one in told)

    assert wait_for(process, trains)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "stopping, after a checkpoint" in errors and "no checkpoint came in time" not in errors
    steps = [checkpoints(sorted(arm.glob("attempt-*"))) for arm in (storage / "pretrain").iterdir()]
    (step,) = {max(found) for found in steps}
    return step


def weights(storage: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((storage / "pretrain").glob("*/*/encoder.safetensors"))]


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    settings = [small_icons(tmp_path_factory.mktemp("icons")), *SETTINGS]
    options = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "nml_ray", "run", str(JOB), "--until", "pretrain", *options]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory) -> list[bytes]:
    storage = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*command, "--inline", "--storage", str(storage)], check=True, stderr=subprocess.DEVNULL)
    return weights(storage)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_without_ray_stops_at_a_checkpoint(command, undisturbed, tmp_path):
    step = ended_by_sigterm([*command, "--inline"], tmp_path)
    subprocess.run([*command, "--inline", "--storage", str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    assert weights(tmp_path) == undisturbed != []
    assert {lineage[-1]["from_step"] for lineage in lineages(tmp_path)} == {step}


@pytest.mark.ray
@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_run_on_ray_stops_at_a_checkpoint(command, undisturbed, tmp_path):
    step = ended_by_sigterm(command, tmp_path)
    subprocess.run([*command, "--storage", str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    assert weights(tmp_path) == undisturbed != []
    assert {lineage[-1]["from_step"] for lineage in lineages(tmp_path)} == {step}


def lineages(storage: Path) -> list[list[dict]]:
    return [json.loads(path.read_bytes())["lineage"] for path in (storage / "pretrain").glob("*/record.json")]
