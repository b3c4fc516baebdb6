"""The commands that make a task's shards from its files as they are distributed."""

import shlex
from pathlib import PurePosixPath

from nml_ray.tasks.config import MakeSettings, TaskSettings
from nml_ray.tasks.find import beside

TORCHVISION = "torchvision:"
DOWNLOADS = "DOWNLOADS"
"""Stands for the directory of downloads where none is named."""


def shard_arguments(make: MakeSettings, target: str, downloads: str = DOWNLOADS) -> list[str]:
    """The arguments of `nml-ray data shard` that make one set."""
    below = lambda path: str(PurePosixPath(downloads) / path)  # noqa: E731
    ready = make.source.startswith(TORCHVISION)
    found = [make.source if ready else below(make.source), target]
    found += ["--root", downloads] if ready else []
    options = {
        "--split": make.split,
        "--image-column": make.image_column,
        "--label-column": make.label_column,
        "--classes": below(make.classes) if make.classes else "",
    }
    found += [word for name, value in options.items() if value for word in (name, value)]
    return found + [word for column in make.text_columns for word in ("--text-column", column)]


def shard_command(task: TaskSettings, split: str, *, downloads: str = DOWNLOADS, task_data: str) -> str:
    """The command that makes one set of a task; "" where the task does not say."""
    one = task.sets()[split]
    if one.make is None:
        return ""
    return shlex.join(
        ["nml-ray", "data", "shard", *shard_arguments(one.make, beside(one.shards, task_data), downloads)]
    )
