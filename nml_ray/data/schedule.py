"""Which samples a step of a whole run feeds: the epochs' orders, one after another, each made before it is needed."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.order import EpochOrder, Lanes, check_sizes, default_microbatch, epoch_order, epoch_sizes


@dataclass(frozen=True)
class GlobalBatch:
    """The samples of one step: its epoch, sample numbers of the data set by place (int64[B]), and which copy of the
    sample stands there (int64[B], all 0 without repeated augmentation; the field `repeat` of a draw)."""

    epoch: int
    numbers: NDArray[np.int64]
    copies: NDArray[np.int64]


class Schedule:
    """Global batches by step, over the good samples of a data set.

    While an epoch is fed, a thread makes the order of the next one; only these two are held. A jump makes the order of
    the epoch it leads to and no other.

    Args:
        dataset: whose good samples are fed.
        settings: kind of order.
        seed: of the order.
        batch: global batch B.
        microbatch: divides B; None for the default.
        repeats: copies of each sample within its batch.
        epochs: of the run, so that none is made beyond its end; None where that is not known.

    Raises:
        UserError: sizes with which no epoch can be made (see `check_sizes`).
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: OrderSettings,
        seed: int,
        batch: int,
        microbatch: int | None,
        repeats: int = 1,
        epochs: int | None = None,
    ) -> None:
        check_sizes(len(dataset.good), batch, repeats, microbatch, settings.lanes)
        self._dataset, self._settings, self._seed, self._epochs = dataset, settings, seed, epochs
        self.batch_size, self.repeats = batch, repeats
        self.microbatch = microbatch or default_microbatch(batch)
        self.steps_per_epoch, self.dropped_per_epoch = epoch_sizes(len(dataset.good), batch, repeats)
        every = len(dataset.good) == len(dataset)
        self._good = None if every else dataset.good
        self._hashes = dataset.key_hash if every else dataset.key_hash[dataset.good]
        self._copies = np.arange(batch, dtype=np.int64) % repeats
        self._orders: dict[int, Future[EpochOrder]] = {}
        self._lock = Lock()
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="order")

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        numbers = self.epoch(epoch).batch(place)
        chosen = numbers if self._good is None else self._good[numbers]
        return GlobalBatch(epoch, chosen.astype(np.int64, copy=False), self._copies)

    def epoch(self, epoch: int) -> EpochOrder:
        """The order of an epoch, over places in `dataset.good`; that of the next one is begun.

        Raises:
            MemoryError: there is no room for it; that of an epoch which was made ahead is told here as well.
        """
        with self._lock:
            for other in [other for other in self._orders if other not in (epoch, epoch + 1)]:
                self._orders.pop(other).cancel()
            if epoch not in self._orders:
                made: Future[EpochOrder] = Future()
                made.set_result(self._order(epoch))
                self._orders[epoch] = made  # only now: one that failed is made again when it is asked for again
            if epoch + 1 not in self._orders and (self._epochs is None or epoch + 1 < self._epochs):
                self._orders[epoch + 1] = self._maker.submit(self._order, epoch + 1)
            wanted = self._orders[epoch]
        return wanted.result()

    def planned(self, epoch: int) -> NDArray[np.unsignedinteger]:
        """Sample numbers of the data set in the order in which an epoch feeds them, each once: [S * B / repeats]."""
        order = self._order(epoch).batches.reshape(-1)
        return order if self._good is None else self._good[order].astype(order.dtype)

    def _order(self, epoch: int) -> EpochOrder:
        return epoch_order(
            self._hashes,
            seed=self._seed,
            epoch=epoch,
            batch=self.batch_size,
            repeats=self.repeats,
            microbatch=self.microbatch,
            lanes=self._lanes(),
        )

    def _lanes(self) -> Lanes | None:
        if self._settings.kind == "full":
            return None
        shards = self._dataset.shard_number
        good = shards if self._good is None else shards[self._good]
        return Lanes(good, self._dataset.shard_names, self._settings.lanes, self._settings.shuffle_block)
