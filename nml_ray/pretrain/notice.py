"""How a run in training is told that its workers are about to end, so that it makes a checkpoint first.

Before a resize the Train controller leaves word in the attempt, on the object store too if the storage is on one, and
waits for the checkpoint; so does the driver before it stops.
"""

from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

from nml_ray.pretrain.arrival import resumable
from nml_ray.pretrain.ending import end_of
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.twin import tell, told, twin_of

LOOK_EVERY = 0.5  # seconds between two looks of rank 0
AGAIN_AFTER = 5.0  # seconds from one checkpoint that is asked for to the next
POLL_SECONDS, POLL_REMOTE = 0.1, 2.0
_ASKED = ".checkpoint-wanted.json"


class Notice:
    """Asked by rank 0 after each step, inside a Ray Train worker: whether a checkpoint is wanted now."""

    def __init__(self, attempt: Path) -> None:
        self._asked, self._next = attempt / _ASKED, 0.0

    def __call__(self) -> bool:
        now = monotonic()
        if now < self._next:
            return False
        wanted = is_asked(self._asked.parent)
        self._next = now + (AGAIN_AFTER if wanted else LOOK_EVERY)
        return wanted


def is_asked(attempt: Path) -> bool:
    """Whether `ask` waits for a checkpoint; on an object store it may be some seconds until this is known."""
    said = read_json(attempt / _ASKED) or told(attempt / _ASKED)
    return bool(said and said["wanted"])


def newest(attempts: Sequence[Path]) -> int:
    """The step of the newest checkpoint that the arms of a group could go on from together, wherever they run; 0 for
    none. `attempts` are the arms' own; those that have ended alone do not count."""
    return min((max(resumable([attempt]), default=0) for attempt in attempts if not end_of(attempt)), default=0)


def ask(attempts: Sequence[Path], seconds: float) -> bool:
    """Have the workers of a running group make a checkpoint, and wait for it; False where none came in time."""
    before, until = newest(attempts), monotonic() + seconds
    poll = POLL_REMOTE if twin_of(attempts[0]) else POLL_SECONDS
    _say(attempts[0], True)
    try:
        while newest(attempts) <= before:
            if monotonic() >= until:
                return False
            sleep(poll)
    finally:
        _say(attempts[0], False)
    return True


def _say(attempt: Path, wanted: bool) -> None:
    write_json(attempt / _ASKED, {"wanted": wanted}, durable=False)
    tell(attempt / _ASKED)
