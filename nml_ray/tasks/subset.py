"""Test sets of other domains whose classes are not those that the head was fitted on: matched by name."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.data.class_names import are_numbers

Groups = Sequence[Sequence[int]]
"""For each label of a test set the labels of `train` that it stands for; none where its samples are left out."""


def groups_of(
    train: Sequence[str], other: Sequence[str], where: str, classes: Mapping[str, Sequence[str]] | None = None
) -> list[list[int]] | None:
    """The labels of `train` that each label of another set stands for; None where labels mean the same.

    Args:
        train: class names of the training set, in label order.
        other: class names of the other set, in label order.
        where: the other set, for messages.
        classes: names of train by name of the other set, where they differ.

    Raises:
        UserError: a class that the training set does not have; numbers where names are needed.
    """
    if classes is None:
        if are_numbers(train) or are_numbers(other):
            if len(other) > len(train):
                raise UserError(
                    f"{len(other)} classes", where=where, expected=f"at most the {len(train)} of the training set"
                )
            return None
        if tuple(other) == tuple(train):
            return None
    label = {name: number for number, name in enumerate(train)}
    label |= {str(number): number for number in range(len(train)) if str(number) not in label}  # digits are a label
    known = set(other)
    for name, wanted in (classes or {}).items():
        if name not in known and not are_numbers(other):
            nearest = nearest_name(name, other)
            raise UserError(f"no class '{name}' in this set", where=where, expected="its own names", nearest=nearest)
        _refuse_unknown(wanted, label, f"{where}, classes.{name}")
    if classes is None:
        _refuse_unknown(other, label, where)
    meant = [classes.get(name, ()) if classes is not None else (name,) for name in other]
    return [sorted(label[one] for one in names) for names in meant]


def _refuse_unknown(names: Sequence[str], label: Mapping[str, int], where: str) -> None:
    if unknown := [name for name in names if name not in label]:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"class '{unknown[0]}'{more} is none of the training set's",
            where=where,
            expected="classes of the training set, or `classes: {NAME: [NAMES OF TRAIN]}` that says which are meant",
            nearest=nearest_name(unknown[0], label),
        )


def kept(labels: NDArray[np.int64], groups: Groups) -> NDArray[np.bool_]:
    """Which samples [N] have a class that stands for any of train's."""
    return np.array([bool(group) for group in groups])[labels]


def predict(logits: NDArray[np.floating], classes: NDArray[np.int64], groups: Groups) -> NDArray[np.int64]:
    """The most likely label of the other set for each row, int64[N]: of a group its largest logit counts.

    Args:
        logits: [N, C].
        classes: the label of `train` of each column, int64[C]; a group of none of them is never predicted.
        groups: see `Groups`.
    """
    column = {int(label): place for place, label in enumerate(classes)}
    best = np.full((len(logits), len(groups)), -np.inf, logits.dtype)
    for label, group in enumerate(groups):
        if places := [column[one] for one in group if one in column]:
            best[:, label] = logits[:, places].max(axis=1)
    return best.argmax(axis=1)
