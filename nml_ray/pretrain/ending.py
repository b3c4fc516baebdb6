"""Arms that end alone, and the step from which the others go on when the workers of an attempt are started again.

Word of an end is <attempt>/ended.json, on the object store too where the storage is on one. It is there before any
checkpoint of a later step is. It counts for its attempt alone: what made the arm end may be mended before the next.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from nml_ray.pretrain.arrival import resumable
from nml_ray.pretrain.resume import latest_common
from nml_ray.pretrain.world import World
from nml_ray.storage import twin
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.mirror import mirror_of

_ENDED = "ended.json"


def tell_end(attempt: Path, step: int, reason: str) -> None:
    """Leave word that the arm ended in a step.

    Raises:
        UserError: the object store cannot be reached.
    """
    write_json(attempt / _ENDED, {"step": step, "reason": reason})
    twin.tell(attempt / _ENDED)


def end_of(attempt: Path) -> str:
    """Why the arm ended in this attempt; "" where it has not.

    Raises:
        UserError: the object store cannot be reached.
    """
    left = read_json(attempt / _ENDED)
    if left is None and (mirror := mirror_of(attempt)):
        left = twin.read_json(mirror, attempt / _ENDED)
    return left["reason"] if left else ""


def agreed_start(attempts: Sequence[Sequence[Path]], world: World) -> tuple[int, list[str]]:
    """The latest step that all arms have which have not ended, and of each arm why it ended, "" where it goes on.

    Args:
        attempts: of each arm, newest first.
        world: takes part; rank 0's look counts: an orphan of a killed run may leave something before the others look.

    Raises:
        UserError: the object store cannot be reached.
    """
    ends = [end_of(own[0]) for own in attempts]
    step = latest_common([resumable(own) for own, end in zip(attempts, ends, strict=True) if not end])
    found = torch.tensor([step, *map(bool, ends)])
    step, *ended = world.sum_(found if world.rank == 0 else torch.zeros_like(found)).tolist()
    return step, [(end or "it ended") if so else "" for so, end in zip(ended, ends, strict=True)]
