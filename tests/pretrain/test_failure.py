"""A worker's error is told once where it would come again, and raised where new processes may do better."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.pretrain.failure import outcomes_of, train_or_tell
from nml_ray.pretrain.plan import ArmOutcome
from nml_ray.pretrain.world import World

WORKER = Path(__file__).with_name("failing_worker.py")


def failing(error: BaseException):
    def train():
        raise error

    return train


def test_an_error_that_would_come_again_is_the_outcome_of_every_arm(make_plan):
    plan = make_plan()
    returned = train_or_tell(failing(ValueError("Expected more than\n1 value")), plan, World())
    outcomes = outcomes_of(json.loads(json.dumps(returned)), plan.arms)
    assert [outcome.name for outcome in outcomes] == [arm.name for arm in plan.arms]
    assert {outcome.error for outcome in outcomes} == {"ValueError: Expected more than 1 value"}
    assert all("in train" in outcome.trace for outcome in outcomes)


def test_a_mistake_of_the_users_stays_one(make_plan):
    plan = make_plan()
    returned = train_or_tell(failing(UserError("no such file", where="data")), plan, World())
    with pytest.raises(UserError, match="data: no such file"):
        outcomes_of(returned, plan.arms)


def test_outcomes_pass_unchanged(make_plan):
    plan = make_plan()
    outcomes = [ArmOutcome("a", {"steps": 3}), ArmOutcome("b", {}, "loss is nan")]
    assert outcomes_of(train_or_tell(lambda: outcomes, plan, World()), plan.arms) == outcomes


@pytest.mark.parametrize(
    "error",
    [OSError("disk full"), MemoryError(), torch.distributed.DistBackendError("NCCL"), torch.AcceleratorError("ECC")],
)
def test_what_new_processes_may_mend_is_raised(make_plan, error):
    with pytest.raises(type(error)):
        train_or_tell(failing(error), make_plan(), World())


def multiplied() -> list[ArmOutcome]:
    torch.zeros(2) @ torch.zeros(3)
    return []


def test_a_shape_that_does_not_fit_comes_again(make_plan):
    returned = train_or_tell(multiplied, make_plan(), World())
    assert returned["reason"].startswith("RuntimeError")
    returned = train_or_tell(failing(torch.OutOfMemoryError("CUDA out of memory")), make_plan(), World())
    assert returned["reason"] == "OutOfMemoryError: CUDA out of memory"


def two_workers(plan, rendezvous: Path, how: str) -> list:
    plan = json.dumps(asdict(plan))
    command = [sys.executable, str(WORKER), str(rendezvous)]
    started = [subprocess.Popen([*command, rank, plan, how], stdout=subprocess.PIPE) for rank in ("0", "1")]
    said = [process.communicate()[0] for process in started]
    return [json.loads(line) if line else None for line in said]


@pytest.mark.long
def test_the_others_of_a_worker_that_fails_end_with_its_error(make_plan, tmp_path):
    first, second = two_workers(make_plan(), tmp_path / "meet", "error")
    assert first == second
    assert first["reason"] == "ValueError: odd at step 2" and "odd at step 2" in first["trace"]


@pytest.mark.long
def test_the_others_of_a_worker_that_dies_are_tried_again(make_plan, tmp_path):
    first, second = two_workers(make_plan(), tmp_path / "meet", "death")
    assert second is None
    assert list(first) == ["raised"]
