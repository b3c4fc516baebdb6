"""Which samples a step of a whole run feeds: the epochs' orders, one after another, made when they are needed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.order import EpochOrder, Lanes, epoch_order


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one step: its epoch, sample numbers of the data set by place (int64[B]), and which copy of the
    sample stands there (int64[B], all 0 without repeated augmentation; the field `repeat` of a draw)."""

    epoch: int
    numbers: NDArray[np.int64]
    copies: NDArray[np.int64]


class Schedule:
    """Global batches by step, over the good samples of a data set. Only the two latest epochs are held."""

    def __init__(
        self, dataset: Dataset, settings: OrderSettings, seed: int, batch: int, microbatch: int | None
    ) -> None:
        self._good = dataset.good
        hashes = dataset.key_hash[self._good]
        lanes = None
        if settings.kind == "lanes":
            shards = dataset.shard_number[self._good]
            lanes = Lanes(shards, dataset.shard_names, settings.lanes, settings.shuffle_block)

        @lru_cache(maxsize=2)
        def order(epoch: int) -> EpochOrder:
            return epoch_order(hashes, seed=seed, epoch=epoch, batch=batch, microbatch=microbatch, lanes=lanes)

        self._order = order
        first = order(0)
        self.steps_per_epoch = first.steps
        self.microbatch = first.microbatch
        self.dropped_per_epoch = len(first.dropped)

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        return GlobalBatch(epoch, self._good[order.batch(place)], order.copies())
