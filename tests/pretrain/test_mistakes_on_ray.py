"""A mistake of the user's ends a run under Ray Train once and clearly: no traceback, no retry, code 2; so does a
worker's own error that would come again, with code 1."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cli.options import open_job
from nml_ray.data.shards import write_shards
from nml_ray.pretrain.capacity import Workers
from nml_ray.pretrain.trainer import train_on_ray
from nml_ray.study.execute import execute
from nml_ray.study.progress import display
from tests.pretrain.conftest import CLASSES, tiny_samples

JOB = """
name: mistaken
data:
  shards: {{pretrain: {data}}}
noise: {{ratios: [0, 0.3]}}
pretrain:
  encoder: {{name: small_resnet, width: 4, channels: 1, size: 12}}
  batch: 32
  microbatch: 16
  epochs: 2
run:
  storage: {root}/runs
"""
SAID = "images could not be decoded"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def job(tmp_path) -> Path:
    """A job over samples of which one cannot be decoded; none may."""
    write_shards(tiny_samples(203, (7,)), tmp_path / "data", samples_per_shard=60, classes=CLASSES)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(data=tmp_path / "data", root=tmp_path))
    return path


def holes(job: Path) -> list[list[tuple]]:
    """What each arm's attempt says of undecodable images: a run that was tried again says it again."""
    files = sorted((job.parent / "runs/pretrain").glob("*/attempt-*/holes-*.jsonl"))
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[(one["step"], one["place"]) for one in told] for told in lines]


def mistake(job: Path, *settings: str) -> str:
    """What a run says of the one mistake of the user's by which all of it failed."""
    outcome = execute(open_job(str(job), settings, None), display(), target="pretrain").outcome
    assert outcome.refused
    (reason,) = {failure.reason for failure in outcome.failures.values()}
    return reason


@pytest.mark.usefixtures("shared_ray")
def test_more_workers_than_fit_are_refused_and_not_left_pending(job):
    assert re.search(r"run\.workers: 2: the cluster has room for 1 of 2 worker", mistake(job, "run.workers=2"))
    assert re.search(
        r"run\.workers: \[1, 2\]: .* room for 0 of 1 .*\(nodes: 1 with 2 CPUs\)",
        mistake(job, "run.workers=[1,2]", "run.decode_threads=2"),
    )
    assert re.search(r"room for 0 of 1 .* need 2 CPUs and 1 GPU", mistake(job, "run.device=cuda"))
    assert re.search(r"run\.workers: 2: .* room for 1 of 2", mistake(job, "run.workers=2", "run.arms=sweep"))
    assert not list((job.parent / "runs").glob("ray/*"))


@pytest.mark.usefixtures("shared_ray")
def test_a_worker_that_finds_a_mistake_ends_the_run_once(job):
    assert re.search(SAID, mistake(job))
    assert [len(told) for told in holes(job)] == [1, 1]


@pytest.mark.usefixtures("shared_ray")
def test_a_mistake_in_a_trial_is_the_users_too(job):
    assert re.search(SAID, mistake(job, "run.arms=sweep"))
    assert [len(told) for told in holes(job)] == [1, 1]


@pytest.mark.usefixtures("shared_ray")
def test_an_error_that_would_come_again_ends_the_run_once(make_plan, tmp_path):
    """BatchNorm refuses a single image whose map is of one pixel; a job is refused before, here nobody asks."""
    plan = replace(make_plan(microbatch=1), decode_threads=1)  # the shared Ray has 2 CPUs
    outcomes = train_on_ray(plan, Workers(), str(tmp_path / "ray"))
    assert [outcome.name for outcome in outcomes] == [arm.name for arm in plan.arms]
    for outcome in outcomes:
        assert outcome.error.startswith("ValueError: Expected more than 1 value per channel when training")
        assert "in train_group" in outcome.trace


@pytest.mark.slow
def test_two_workers_end_together_with_code_2(job):
    command = [sys.executable, "-m", "nml_ray", "run", str(job), "--until", "pretrain"]
    settings = ["--set", "run.workers=2", "--set", "run.cpus=4"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert SAID in done.stderr and "Traceback" not in done.stderr
    assert [len(told) for told in holes(job)] == [1, 1]
