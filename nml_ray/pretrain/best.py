"""The checkpoint of the epoch with the best validation accuracy, kept beside those that come and go.

<attempt>/best/step-000000420/ has the files of the checkpoint of that step, as hard links where the storage has them,
but for the optimiser's state: nothing goes on from it.
"""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nml_ray.storage.atomic import sync_directory, sync_tree

BEST = "best"
UNUSED = shutil.ignore_patterns("optimiser.safetensors")
KEPT = 2  # while training: the run may have to go back to before the newest


def best_epoch(curves: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The curve with the highest finite validation accuracy, of equal ones the earliest; None without validation."""
    validated = [curve for curve in curves if _accuracy(curve) is not None]
    return max(validated, key=lambda curve: float(curve["validation_accuracy"]), default=None)


def _accuracy(curve: Mapping[str, Any]) -> float | None:
    accuracy = curve.get("validation_accuracy")
    return accuracy if accuracy is not None and math.isfinite(accuracy) else None


def keep_best(checkpoint: Path, attempt: Path) -> None:
    """Keep a committed checkpoint as the attempt's best; the best before it stays, older ones go."""
    kept = attempt / BEST / checkpoint.name
    if not kept.exists():
        aside = kept.with_name(f"aside-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(checkpoint, aside, ignore=UNUSED, copy_function=_link)
        sync_tree(aside)
        aside.rename(kept)
        sync_directory(kept.parent)
    for old in sorted(kept.parent.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def settle_best(attempt: Path, earlier: Sequence[Path], name: str) -> None:
    """Leave the attempt only the best checkpoint of that name, brought from an earlier attempt if one has it.

    `earlier` are newest first; `name` is "" where no epoch has been validated yet.
    """
    for path in (attempt / BEST).glob("*"):
        if path.name != name:
            shutil.rmtree(path)
    held = [path for path in (one / BEST / name for one in (attempt, *earlier)) if path.exists()] if name else []
    if held and held[0].parent.parent != attempt:
        keep_best(held[0], attempt)


def _link(source: str, target: str) -> None:
    """A hard link, or a copy on storage that has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
