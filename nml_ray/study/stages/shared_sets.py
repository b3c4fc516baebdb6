"""Features of a set that several extractions need are made once: passed on through storage, by what defines them.

An artifact of kind `set` says in its record which `extract` artifact, under which `split`, has the features of a shard
set under an encoder and settings. Another extraction links its files instead of making them. On an object store, where
a link is a copy, everyone makes their own.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nml_ray.features.config import ExtractSettings
from nml_ray.storage.artifact import Store
from nml_ray.storage.digest import digest_of
from nml_ray.storage.link import followed
from nml_ray.study.sources import dataset_identity
from nml_ray.study.stage import DIGEST_LENGTH
from nml_ray.study.task import Task

KIND = "set"


def take(task: Task, images: Path, splits: Sequence[str], store: Store) -> None:
    """Link into a task's attempt the features of those of its splits that another artifact has."""
    if store.mirror:
        return
    for split in splits:
        found = store.artifact(KIND, _digest(task, images, split))
        source = store.artifact("extract", found.record["extract"]) if found else None
        if found is None or source is None:
            continue
        target = task.attempt.path / split
        target.mkdir(exist_ok=True)
        # the sums last: with them a shard is there
        for file in sorted((source.path / found.record["split"]).glob("*"), key=lambda path: path.suffix == ".npz"):
            if not (target / file.name).exists():
                with suppress(FileNotFoundError):  # removed meanwhile: then it is made
                    os.link(file, target / file.name)


def offer(task: Task, images: Path, splits: Sequence[str], store: Store) -> None:
    """Say that a task's artifact, which is finished, has the features of its splits."""
    for split in () if store.mirror else splits:
        digest = _digest(task, images, split)
        if store.artifact(KIND, digest) is None:
            store.attempt(KIND, digest).finish(extract=task.attempt.digest, split=split)


def _digest(task: Task, images: Path, split: str) -> str:
    """Of all that defines the features of a split, whatever it is called: only `train` has several views."""
    settings, encoder = task.stage.settings, task.inputs["encoder"]
    extract = ExtractSettings.model_validate({**settings["extract"], "splits": None})
    own = extract if split == "train" else extract.model_copy(update={"views": 1})
    defined = {
        "version": task.stage.version,
        "encoder": f"{encoder.kind}/{encoder.digest}",
        "settings": {**settings, "extract": own.hashed()},
        "set": dataset_identity(split, followed(images / split), layout=True),
    }
    return digest_of(defined)[:DIGEST_LENGTH]
