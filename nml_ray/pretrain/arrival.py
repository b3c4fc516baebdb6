"""What a worker needs from an object store before it trains, and what of a finished arm goes again. No torch here.

There a checkpoint is the bundle checkpoints/step-000000420, a part of the feeding log fed/rank-0-000000420. What is on
this machine alone does not count: workers on others must go on from the same step. Nothing happens on local storage.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.resume import checkpoint_name, checkpoints, committed, step_of
from nml_ray.storage.artifact import Attempt, bring
from nml_ray.storage.twin import BEST, CHECKPOINTS, FED, bring_bundles, twin_of

_PART = re.compile(r"fed/rank-\d+-(\d+)")


def resumable(attempts: Sequence[Path]) -> dict[int, Path]:
    """An arm's checkpoints by step, as `resume.checkpoints`, from the storage that all machines see."""
    if twin_of(attempts[0]) is None:
        return checkpoints(attempts)
    found: dict[int, Path] = {}
    for attempt in attempts:
        for checkpoint in _committed(attempt):
            found.setdefault(step_of(checkpoint), checkpoint)
    return found


def _committed(attempt: Path) -> list[Path]:
    bundles = twin_of(attempt)
    names = bundles.names(CHECKPOINTS) if bundles else []
    return [attempt / name for name in names]


def arrive(plan: GroupPlan) -> None:
    """Bring the images that the plan's paths name.

    Raises:
        UserError: the object store cannot be reached.
    """
    for place in filter(None, (plan.data, plan.validation, plan.zero_shot)):
        bring(Path(place))


def bring_start(attempts: Sequence[Path], step: int, rank: int) -> None:
    """Bring what an arm goes on from: its checkpoint of a step, the best ones up to it, its own log.

    Args:
        attempts: of the arm, newest first.
        step: on which all workers agree; 0 to begin.
        rank: 0 sets aside what workers of this attempt uploaded beyond the step.

    Raises:
        UserError: the object store cannot be reached.
    """
    if twin_of(attempts[0]) is None:
        return
    holding = resumable(attempts).get(step)
    for attempt in attempts:
        attempt.mkdir(parents=True, exist_ok=True)
        _drop_what_is_only_here(attempt)
        bring_bundles(attempt, BEST, lambda name: int(name.rpartition("-")[2]) <= step)
    if holding:
        bring_bundles(holding.parents[1], CHECKPOINTS + checkpoint_name(step))
    if rank == 0:
        _set_replayed_aside(attempts[0], step)
    bring_bundles(attempts[0], FED, lambda name: _counts(name, step))


def _counts(name: str, start: int) -> bool:
    part = _PART.fullmatch(name)
    return part is not None and int(part[1]) <= start


def _drop_what_is_only_here(attempt: Path) -> None:
    there = {path.name for path in _committed(attempt)}
    for checkpoint in committed(attempt):
        if checkpoint.name not in there:
            shutil.rmtree(checkpoint, ignore_errors=True)  # another rank of this machine may do the same


def _set_replayed_aside(attempt: Path, start: int) -> None:
    """As `feeding.set_replayed_aside`, for what this attempt's workers had uploaded before they were started again."""
    bundles = twin_of(attempt)
    assert bundles is not None
    bundles.retire([name for name in bundles.names(CHECKPOINTS) if step_of(Path(name)) > start])
    names = bundles.names(FED)
    aside = f"{FED}replayed-{1 + len({name.split('/')[1] for name in names if '/replayed-' in name})}/"
    for name in names:
        part = _PART.fullmatch(name)
        if part and int(part[1]) > start:
            new = aside + name.removeprefix(FED)
            bundles.rename(name, new, {f"{name}.arrow": f"{new}.arrow"})


def forget(attempt: Attempt) -> None:
    """Remove the checkpoints of a finished arm from the object store, those of the attempts before it too."""
    for path in (attempt.path, *attempt.earlier):
        if bundles := twin_of(path):
            bundles.retire([*bundles.names(CHECKPOINTS), *bundles.names(BEST)])
