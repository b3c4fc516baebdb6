"""How an elastic run is told that its workers are about to end, so that it makes a checkpoint first.

Before a resize the Train controller puts a file into the attempt and waits for the checkpoint. Where Ray drains a node
(a spot machine is called back), the workers on it end some time later; until then there is one every few seconds.
"""

import time
from pathlib import Path
from time import monotonic

from nml_ray.pretrain.resume import committed

LOOK_EVERY = 0.5  # seconds between two looks of rank 0
AGAIN_AFTER = 5.0  # seconds from one checkpoint that is asked for to the next
POLL_SECONDS = 0.1
_ASKED = "checkpoint-wanted"


class Notice:
    """Asked by rank 0 after each step, inside a Ray Train worker: whether a checkpoint is wanted now."""

    def __init__(self, attempt: Path) -> None:
        self._asked, self._next = attempt / _ASKED, 0.0

    def __call__(self) -> bool:
        now = monotonic()
        if now < self._next:
            return False
        wanted = self._asked.exists() or _drains()
        self._next = now + (AGAIN_AFTER if wanted else LOOK_EVERY)
        return wanted


def _drains() -> bool:
    """Whether Ray is about to take one of the run's nodes away.

    `ray.train.get_preemption_info` says so too, but is a meeting of all workers through an actor.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def newest(attempt: Path) -> str:
    """The name of the newest committed checkpoint, or ""."""
    return committed(attempt)[-1].name if committed(attempt) else ""


def ask(first: Path, last: Path, seconds: float) -> bool:
    """Have the workers of a running group make a checkpoint, and wait for it; False where none came in time.

    `first` and `last` are the attempts of the group's first and last arm, which are committed in this order.
    """
    before, until = newest(last), monotonic() + seconds
    (first / _ASKED).touch()
    try:
        while newest(last) == before:
            if monotonic() >= until:
                return False
            time.sleep(POLL_SECONDS)
    finally:
        (first / _ASKED).unlink(missing_ok=True)
    return True
