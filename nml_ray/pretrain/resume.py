"""Which committed checkpoints there are, and which arms can go on together from them. No torch here."""

import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

FOLDER = "checkpoints"


def committed(attempt: Path) -> list[Path]:
    """The committed checkpoints of an attempt, oldest first."""
    return sorted((attempt / FOLDER).glob("step-*"))


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:09d}"


def step_of(checkpoint: Path) -> int:
    """Steps consumed when the checkpoint was made."""
    return int(checkpoint.name.removeprefix("step-"))


def retire(checkpoint: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that a kill leaves none of which a part is gone."""
    gone = checkpoint.with_name(f"gone-{checkpoint.name}")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):  # an orphan of its attempt has been quicker
        checkpoint.rename(gone)
        shutil.rmtree(gone)


def checkpoints(attempts: Sequence[Path]) -> dict[int, Path]:
    """An arm's checkpoints by step; `attempts` are its directories, newest first."""
    found: dict[int, Path] = {}
    for attempt in attempts:
        for checkpoint in committed(attempt):
            found.setdefault(step_of(checkpoint), checkpoint)
    return found


def latest_common(available: Sequence[Collection[int]]) -> int:
    """The latest step that every arm has; 0 where there is none."""
    shared = set.intersection(*map(set, available)) if available else set()
    return max(shared, default=0)


def companies(available: Sequence[set[int]]) -> list[list[int]]:
    """Cut arms (by number) into groups that can each go on from a step that all of its arms have.

    Arms that share a worker advance together; one that lags, because its loss was not finite or because it is new,
    must not take the others back. Each time the step that most of the arms left have makes a group, of equal ones the
    latest; those without any step begin together.
    """
    left = list(range(len(available)))
    groups = []
    while steps := [step for arm in left for step in available[arm]]:
        best = max(set(steps), key=lambda step: (steps.count(step), step))
        groups.append([arm for arm in left if best in available[arm]])
        left = [arm for arm in left if best not in available[arm]]
    return [*groups, left] if left else groups
