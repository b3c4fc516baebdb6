"""How a worker's error ends its run: told once where it would come again, raised where new processes may mend it."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.pretrain.plan import ArmOutcome, ArmPlan, GroupPlan
from nml_ray.pretrain.world import World
from nml_ray.storage.artifact import Attempt

LONGEST = 300  # characters of an error's text


def may_pass(error: BaseException) -> bool:
    """Whether new processes may do better: another worker is gone, storage, memory or a device failed.

    Everything else is Python's own work on the same bytes, and would come again.
    """
    from ray.exceptions import RayError
    from torch import AcceleratorError
    from torch.distributed import DistError

    from nml_ray.pretrain.claim import TakenOver

    if isinstance(error, OSError | MemoryError | RayError | AcceleratorError | DistError | TakenOver):
        return True
    # gloo's errors are RuntimeErrors like any other, but for where they are raised
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, RuntimeError) and any("torch/distributed/" in frame.filename for frame in frames)


def train_or_tell(train: Callable[[], Sequence[ArmOutcome]], plan: GroupPlan, world: World) -> dict[str, Any]:
    """What `train` comes to on one worker, as plain data that `outcomes_of` reads.

    Where there are several workers, all end with the error of the one that failed by itself.

    Raises:
        Exception: what `may_pass`; with several workers on GPUs also others, after they are told.
    """
    from torch.distributed import destroy_process_group

    first = Attempt(Path(plan.arms[0].attempt))
    if told := _told(first):  # what a worker of this attempt left before Ray started the group again
        return told
    try:
        return {"outcomes": [asdict(outcome) for outcome in train()]}
    except Exception as error:
        told = _told(first)
        if not told and may_pass(error):
            raise
        told = told or _words(error)
        if world.size > 1:
            first.fail(**told)
            if plan.device != "cpu":
                raise  # the other workers wait for this one in a collective; only its death frees them
            destroy_process_group()  # the others, who wait in a collective, then fail in it
        return told


def outcomes_of(returned: dict[str, Any], arms: Sequence[ArmPlan]) -> list[ArmOutcome]:
    """The arms' outcomes that a worker's `train_or_tell` stands for; an error of its own is that of every arm.

    Raises:
        UserError: the worker found a mistake of the user's.
    """
    if "outcomes" in returned:
        return [ArmOutcome(**outcome) for outcome in returned["outcomes"]]
    if not returned["trace"]:
        raise UserError(returned["reason"])
    return [ArmOutcome(arm.name, {}, returned["reason"], returned["trace"]) for arm in arms]


def _told(attempt: Attempt) -> dict[str, str]:
    return {"reason": attempt.failure, "trace": attempt.trace} if attempt.failure else {}


def _words(error: Exception) -> dict[str, str]:
    if isinstance(error, UserError):
        return {"reason": str(error), "trace": ""}
    text = " ".join(str(error).split())[:LONGEST]
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return {"reason": reason, "trace": "".join(traceback.format_exception(error))}
