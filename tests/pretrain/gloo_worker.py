"""One worker of a data-parallel run, as a process of its own: python gloo_worker.py RENDEZVOUS RANK SIZE PLAN [STOP]

Rank 0 dies by SIGKILL once it has reported STOP images; the others then fail in their next collective. With
TELL_EVERY_STEP in the environment telemetry has a line for each step, with AWAIT_UPLOAD it dies only once the last arm
has a checkpoint on its object store. With BREAK_AT the last arm's weights are NaN from that step on, and it must end.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed

from nml_ray.pretrain import telemetry
from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.arrival import resumable
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.world import World


def main() -> None:
    rendezvous, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    plan = GroupPlan.from_data(json.loads(sys.argv[4]))
    if "TELL_EVERY_STEP" in os.environ:
        telemetry.EVERY_SECONDS = 0
    if at := int(os.environ.get("BREAK_AT", 0)):
        break_at(plan.arms[-1].name, at)
    stop = float(sys.argv[5]) if len(sys.argv) > 5 else float("inf")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )

    def report(done: float, total: float, unit: str) -> None:
        if done >= stop:
            while "AWAIT_UPLOAD" in os.environ and not resumable([Path(plan.arms[-1].attempt)]):
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)

    outcomes = train_group(plan, World(rank, size), report)
    errors = ["loss is nan" if at and arm is plan.arms[-1] else "" for arm in plan.arms]
    assert [outcome.error for outcome in outcomes] == errors
    for arm, outcome in zip(plan.arms, outcomes, strict=True) if rank == 0 else ():
        (Path(arm.attempt) / "facts.json").write_text(json.dumps(outcome.facts))
    torch.distributed.destroy_process_group()


def break_at(name: str, step: int) -> None:
    begin = BaseArm.begin_step

    def begin_step(arm: BaseArm) -> None:
        begin(arm)
        if arm.name == name and arm.optimiser.steps == step:
            torch.nn.init.constant_(arm.model.head.weight, float("nan"))

    setattr(BaseArm, "begin_step", begin_step)  # noqa: B010  # a method, to mypy


if __name__ == "__main__":
    main()
