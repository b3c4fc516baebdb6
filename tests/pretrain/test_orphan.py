"""Workers of a host that was cut off live on for a while: they spoil nothing that those in their place make."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nml_ray.data.loader import Microbatch
from nml_ray.pretrain import feeding
from nml_ray.pretrain.claim import Claim, TakenOver
from nml_ray.pretrain.failure import may_pass
from nml_ray.pretrain.feeding import FeedingLog, part_path
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.world import World
from tests.pretrain.killed_loop import train


class Orphan:
    """A run in a thread that stops for a while after some images, and is asked for a checkpoint at each step then."""

    def __init__(self, plan, images: int) -> None:
        self._images, self._stopped, self._goes_on = images, threading.Event(), threading.Event()
        self._run = ThreadPoolExecutor(1).submit(train_group, plan, World(), self._report, self._goes_on.is_set)
        assert self._stopped.wait(60)

    def _report(self, done, total, unit):
        if done >= self._images:
            self._stopped.set()
            assert self._goes_on.wait(60)

    def go_on(self):
        self._goes_on.set()
        return self._run.result(60)


def files(plan) -> dict[str, bytes]:
    attempt = Path(plan.arms[0].attempt)
    return {
        path.relative_to(attempt).as_posix(): path.read_bytes()
        for path in attempt.rglob("*")
        if path.is_file() and not any(part.startswith((".", "aside-")) for part in path.relative_to(attempt).parts)
    }


@pytest.mark.long
@pytest.mark.parametrize("images", [2 * 32, 7 * 32])
def test_it_leaves_the_attempt_to_the_workers_that_were_started_after_it(make_plan, images):
    plan = replace(make_plan(("0",)), checkpoint_steps=4)
    orphan = Orphan(plan, images)
    train(plan)
    made = files(plan)
    with pytest.raises(TakenOver):
        orphan.go_on()
    assert files(plan) == made


def test_new_processes_may_do_what_it_may_not():
    assert may_pass(TakenOver("another"))


def test_the_latest_claim_counts(tmp_path):
    first = Claim.stake(tmp_path, World())
    first.check()
    second = Claim.stake(tmp_path, World())
    second.check()
    with pytest.raises(TakenOver):
        first.check()


def test_its_log_and_theirs_are_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "PART", 4)
    logs = [FeedingLog([tmp_path], 0, str, [np.arange(64)]) for _ in range(2)]
    for step in range(6):
        for log in logs:
            log.add(step, [microbatch(step)])
    for log in logs:
        log.cut(6).finish()
    with pa.OSFile(str(part_path(tmp_path, 0, 6))) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == 24


def microbatch(step: int) -> Microbatch:
    numbers = np.arange(4 * step, 4 * step + 4)
    return Microbatch(
        places=np.arange(4),
        numbers=numbers,
        images=np.zeros((4, 2, 2, 1), np.uint8),
        weights=np.ones(4, np.float32),
        hashes=numbers.astype(np.uint64),
    )
