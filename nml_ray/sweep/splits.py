"""The splits of extracted features as a task sees them: cut from train, thinned to a fraction, labels as numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.features.store import SUFFIX, read_shard, read_split
from nml_ray.storage.digest import canonical_json
from nml_ray.tasks import parts

PLAIN: Mapping[str, Any] = {}
"""The task of features whose splits are as they lie, judged by accuracy.

Keys of a task, all optional: `metric`; `cuts` and `seed` (see `tasks.parts.cut`); `ood`: by split of another domain the
labels of train that its own stand for, or None (see `tasks.subset`); `values`: by split the number that each label
means, for a regression.
"""


@dataclass(frozen=True)
class Split:
    """Features [N, D], or views of them [V, N, D]; labels int64[N], of a regression float64[N]; hashes uint64[N]."""

    values: NDArray[Any]
    labels: NDArray[Any]
    hashes: Draws

    def take(self, rows: NDArray[Any]) -> "Split":
        """Some of its rows."""
        return Split(self.values[..., rows, :], self.labels[rows], self.hashes[rows])


def read(directory: Path, split: str, task: Mapping[str, Any] = PLAIN, share: str = "1") -> Split:
    """A split of extracted features; of train the `share` of its samples.

    Raises:
        UserError: it cannot be read; samples without a label.
    """
    facts = {name: task[name] for name in ("cuts", "seed", "values") if name in task}
    whole = _read(str(directory), split, canonical_json(facts))
    if split != "train" or share == "1":
        return whole
    labels = whole.labels if whole.labels.dtype.kind != "f" else np.zeros(len(whole.labels), np.int64)
    return whole.take(parts.fraction(labels, whole.hashes, share))


@lru_cache(maxsize=4)
def _read(directory: str, split: str, facts: str) -> Split:
    """A split of one artifact, kept for the next trial of this process."""
    task = json.loads(facts)
    cuts = task.get("cuts", {})
    where = "train" if split in cuts else split
    features = read_split(Path(directory), where)
    views = features.views if split == "train" else None
    found = Split(features.values if views is None else views, features.labels, key_hashes(features.keys))
    _refuse_unlabelled(found.labels, f"{directory}, {where}")
    if cuts and where == "train":
        strata = np.zeros_like(found.labels) if "values" in task else found.labels
        found = found.take(parts.cut(strata, found.hashes, cuts, task.get("seed", 0))[split])
    if "values" in task:
        found = Split(found.values, np.array(task["values"][where], np.float64)[found.labels], found.hashes)
    return found


def labels(directory: Path, split: str, task: Mapping[str, Any] = PLAIN) -> NDArray[Any]:
    """The labels of a split as they are stored, int64[N], without its features in memory; those of a cut as `read`.

    Raises:
        UserError: as `read`.
    """
    paths = sorted((directory / split).glob(f"*{SUFFIX}"))
    if split in task.get("cuts", {}) or not paths:
        return read(directory, split, task).labels
    found = np.concatenate([read_shard(path).labels for path in paths])
    _refuse_unlabelled(found, f"{directory}, {split}")
    return found


def _refuse_unlabelled(found: NDArray[Any], where: str) -> None:
    if unlabelled := int(np.count_nonzero(found < 0)):
        raise UserError(
            f"{unlabelled} of {len(found)} samples have no label",
            where=where,
            expected="a label each: index or shard the images with their labels",
        )


def check(directory: Path, task: Mapping[str, Any], name: str) -> None:
    """Refuse what no head can be fitted to, or chosen on, before any worker starts.

    Raises:
        UserError: a split cannot be read, has no samples, or train has one class.
    """
    for split in ("train", "validation"):
        found = read(directory, split, task)
        if not len(found.labels):
            raise UserError(f"no samples for {split}", where=name, expected="a set of its own, or another cut")
        distinct = np.unique(found.labels)
        if split == "train" and len(distinct) < 2:
            kind = "value" if distinct.dtype.kind == "f" else "class"
            raise UserError(
                f"one {kind} ({distinct[0]}) in all {len(found.labels)} samples of train",
                where=name,
                expected=f"at least 2 {kind}{'es' if kind == 'class' else 's'}",
            )
