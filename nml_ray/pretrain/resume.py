"""Which committed checkpoints there are, and which arms can go on together from them. No torch here."""

from collections.abc import Sequence
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


def checkpoints(attempts: Sequence[Path]) -> dict[int, Path]:
    """An arm's checkpoints by step; `attempts` are its directories, newest first."""
    found: dict[int, Path] = {}
    for attempt in attempts:
        for checkpoint in committed(attempt):
            found.setdefault(step_of(checkpoint), checkpoint)
    return found


def common_resume(available: Sequence[dict[int, Path]]) -> tuple[int, list[Path]]:
    """The latest step that every arm has, and each arm's checkpoint of it; (0, []) where there is none."""
    shared = set.intersection(*(set(steps) for steps in available)) if available else set()
    if not shared:
        return 0, []
    step = max(shared)
    return step, [steps[step] for steps in available]


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
