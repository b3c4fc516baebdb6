"""Parts of a set of samples, drawn by key within each class: cuts for validation and test, and data fractions.

Draws carry the tags `cut-test`, `cut-validation` and `fraction`; a part does not depend on the order of the samples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.draw import Draws, draw, key_hashes, uniform
from nml_ray.data.ratio import rounded_count

Rows = NDArray[np.int64]


def cut(labels: NDArray[np.int64], hashes: Draws, cuts: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Rows]:
    """The rows of "train" and of each split that is cut from it.

    Args:
        labels: int64[N] of the whole set.
        hashes: uint64[N], the key hashes.
        cuts: by split, in order, {"share": exact decimal} or {"keep": samples of a class}.
        seed: of the draws.

    Returns:
        Ascending row numbers by split. A share takes floor(share * N + 1/2) of the N rows left, spread evenly over
        the classes, but of each class at most all but one.
    """
    left = np.arange(len(labels))
    parts: dict[str, Rows] = {}
    for split, how in cuts.items():
        rank, place = _ranked(f"cut-{split}", seed, labels[left], hashes[left])
        if "keep" in how:
            taken = rank >= how["keep"]
        else:
            most = np.flatnonzero(~_last_of_class(labels[left], rank))
            count = min(rounded_count(how["share"], len(left)), len(most))
            taken = np.zeros(len(left), bool)
            taken[most[np.lexsort((hashes[left][most], place[most]))[:count]]] = True
        parts[split], left = left[taken], left[~taken]
    return {"train": left, **parts}


def fraction(labels: NDArray[np.int64], hashes: Draws, share: str) -> Rows:
    """The rows of a data fraction, ascending: floor(share * N + 1/2) of them, but one of each class at least.

    Every class gives its share, and smaller fractions lie inside larger ones.

    Args:
        labels: int64[N].
        hashes: uint64[N], the key hashes.
        share: exact decimal above 0, at most 1.
    """
    if share == "1":
        return np.arange(len(labels))
    rank, place = _ranked("fraction", 0, labels, hashes)
    order = np.lexsort((hashes, place, rank > 0))  # the first of each class before all others
    count = max(rounded_count(share, len(labels)), len(np.unique(labels)))
    return np.sort(order[:count])


def _ranked(
    tag: str, seed: int, labels: NDArray[np.int64], hashes: Draws
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each sample's rank by draw within its class, and (rank + u) / (size of the class), u the class's own uniform."""
    draws = draw(tag, seed, hashes)
    classes, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.lexsort((draws, index))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, sizes)
    offset = uniform(draw(f"{tag}-class", seed, key_hashes(str(one) for one in classes.tolist())))
    return rank, (rank + offset[index]) / sizes[index]


def _last_of_class(labels: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.bool_]:
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return rank == sizes[index] - 1
