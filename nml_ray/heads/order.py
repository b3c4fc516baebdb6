"""Which rows and which cached views a head is fed in each epoch: keyed draws, no state."""

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.draw import Draws, draw

Indices = NDArray[np.int64]


def epoch_rows(key_hashes: Draws, seed: int, epoch: int, batch: int) -> Indices:
    """The rows of one epoch in order, int64[S * batch]: a keyed sort of all N, cut to S = N // batch full batches.

    Draws carry the tag `heads`, the head seed, and the epoch counted from 0. `batch` is at most N.
    """
    order = np.argsort(draw("heads", seed, key_hashes, epoch)).astype(np.int64)
    return order[: len(order) // batch * batch]


def view_pair(key_hashes: Draws, seed: int, epoch: int, views: int) -> tuple[Indices, Indices]:
    """For each row an ordered pair of different views, each int64[N], all pairs equally likely; tag `views`."""
    drawn = (draw("views", seed, key_hashes, epoch) % np.uint64(views * (views - 1))).astype(np.int64)
    first, second = np.divmod(drawn, views - 1)
    return first, second + (second >= first)
