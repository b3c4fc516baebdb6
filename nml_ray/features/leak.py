"""Samples of train that are in a test set too, with which its scores would tell nothing of new data."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset

UNTESTED = ("train", "validation")
"""Splits that no head is measured on in the end."""


def refuse_leaks(sets: Mapping[str, Dataset]) -> None:
    """Refuse sets, by split, of which a test set shares samples with train: keys, and what they stand for, are equal.

    A key alone may agree by chance: `cat/1` in the folders of both.

    Raises:
        UserError: at the test set, with their number and the first.
    """
    for split, other in sets.items():
        if split not in UNTESTED and "train" in sets:
            refuse_shared(_shared(sets["train"], other), str(other.directory))


def refuse_shared(keys: Sequence[str], where: str) -> None:
    """Refuse a test set that has samples of train, by their keys. Raises `UserError` where there are any."""
    if keys:
        raise UserError(
            f"{len(keys)} sample{'s' * (len(keys) > 1)} of train, first '{min(keys)}'",
            where=where,
            expected="a test set that has none: leave them out of one of both",
        )


def _shared(train: Dataset, other: Dataset) -> list[str]:
    _, here, there = np.intersect1d(train.key_hash[train.good], other.key_hash[other.good], return_indices=True)
    ours, theirs = train.good[here], other.good[there]
    equal = pc.equal(_contents(train, ours), _contents(other, theirs)).to_numpy(zero_copy_only=False)
    return [other.key(int(number)) for number in theirs[equal]]


def _contents(dataset: Dataset, numbers: NDArray[np.signedinteger]) -> pa.Array:
    column = pa.chunked_array([chunk for table in dataset.tables for chunk in table["content"].chunks])
    return column.take(pa.array(numbers)).combine_chunks()
