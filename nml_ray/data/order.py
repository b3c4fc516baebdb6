"""Which sample is in which global batch: closed forms of (seed, epoch, step), the same for every number of workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.draw import Draws, draw, draw_one, key_hashes

Samples = NDArray[np.int64]
Places = NDArray[np.unsignedinteger]  # uint32, where that is enough: an order of 15 M samples is 60 MB


@dataclass(frozen=True)
class Lanes:
    """What `order: lanes` needs besides the keys.

    Attributes:
        shard_number: the shard of each sample, int[N], non-decreasing (samples in tar order within it).
        shard_names: base name with `.tar` of each shard.
        lanes: runs read side by side; None for the default.
        shuffle_block: samples of a lane that are sorted together.
    """

    shard_number: NDArray[np.integer]
    shard_names: Sequence[str]
    lanes: int | None = None
    shuffle_block: int = 4096


@dataclass(frozen=True)
class EpochOrder:
    """The samples of one epoch.

    Attributes:
        batches: samples of each step before they are repeated, uint32[S, batch / repeats] (uint64 beyond 2^32).
        dropped: samples that the epoch does not feed, of the same type.
        batch_size: samples of a global batch.
        repeats: copies of each sample in its batch.
        microbatch: samples of a microbatch; divides the batch.
    """

    batches: Places
    dropped: Places
    batch_size: int
    repeats: int
    microbatch: int

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.batches)

    def batch(self, step: int) -> Samples:
        """Samples by place in the batch of a step: int64[B]; copy j of sample i is at place i * repeats + j."""
        return np.repeat(self.batches[step], self.repeats).astype(np.int64)

    def copies(self) -> Samples:
        """Which copy (the field `repeat` of a draw) stands at each place of a batch: int64[B]."""
        return np.arange(self.batch_size, dtype=np.int64) % self.repeats

    def microbatches(self, step: int) -> Samples:
        """The batch of a step cut into microbatches: int64[M, microbatch]."""
        return self.batch(step).reshape(-1, self.microbatch)


def epoch_order(
    key_hash: Draws,
    *,
    seed: int,
    epoch: int,
    batch: int,
    repeats: int = 1,
    microbatch: int | None = None,
    lanes: Lanes | None = None,
) -> EpochOrder:
    """The order of one epoch over N good samples: `full`, or `lanes` where given.

    Args:
        key_hash: uint64[N].
        seed: of the order, 0 .. 2^64-1.
        epoch: from 0.
        batch: global batch B; an epoch has floor(N / B) steps.
        repeats: copies of each sample within its batch (repeated augmentation); divides B.
        microbatch: divides B; default `default_microbatch(B)`.
        lanes: layout of the shards, for `order: lanes`.

    Raises:
        UserError: sizes that do not fit each other (see `check_sizes`).
    """
    count = lanes.lanes if lanes else None
    check_sizes(len(key_hash), batch, repeats, microbatch, count)
    kept = batch // repeats
    if lanes is None:
        order = np.argsort(draw("order", seed, key_hash, epoch)).astype(_type(len(key_hash)))
        whole = len(order) // kept * kept
        batches, rest = order[:whole].reshape(-1, kept), order[whole:]
    else:
        batches, rest = _lanes_order(key_hash, lanes, seed, epoch, kept)
    steps, _ = epoch_sizes(len(key_hash), batch, repeats)
    dropped = np.concatenate([batches[steps:].reshape(-1), rest])
    return EpochOrder(batches[:steps], dropped, batch, repeats, microbatch or default_microbatch(batch))


def epoch_sizes(samples: int, batch: int, repeats: int = 1) -> tuple[int, int]:
    """Steps of an epoch over so many good samples, and how many of them it drops."""
    steps = samples // batch
    return steps, samples - steps * (batch // repeats)


def _type(samples: int) -> type[np.unsignedinteger]:
    return np.uint32 if samples <= 2**32 else np.uint64


def _lanes_order(key_hash: Draws, layout: Lanes, seed: int, epoch: int, batch: int) -> tuple[Places, Places]:
    """Batches [S, batch] and the samples left over."""
    samples = len(key_hash)
    lanes = layout.lanes or default_lanes(batch)
    bounds = np.searchsorted(layout.shard_number, np.arange(len(layout.shard_names) + 1))
    shards = np.argsort(draw("shards", seed, key_hashes(layout.shard_names), epoch))
    stream = np.concatenate([np.arange(bounds[s], bounds[s + 1], dtype=_type(samples)) for s in shards])
    stream = np.roll(stream, -(draw_one("rotate", seed, "", epoch) % samples))
    steps = samples // batch
    runs = stream[: steps * batch].reshape(lanes, -1)
    batches = np.empty((steps, lanes, batch // lanes), stream.dtype)
    for lane, run in enumerate(runs):
        batches[:, lane] = _stretches(run, key_hash, layout.shuffle_block, seed, epoch).reshape(steps, -1)
    return batches.reshape(steps, batch), stream[steps * batch :].copy()


def _stretches(run: Places, key_hash: Draws, block: int, seed: int, epoch: int) -> Places:
    """A lane's samples, each stretch of `block` of them (the last one is shorter) sorted by draw."""
    draws = draw("order", seed, key_hash[run], epoch)
    whole = len(run) // block * block
    parts = []
    for part, width in ((slice(0, whole), block), (slice(whole, None), len(run) - whole)):
        if width and len(run[part]):
            order = np.argsort(draws[part].reshape(-1, width), axis=1)
            parts.append(np.take_along_axis(run[part].reshape(-1, width), order, axis=1).reshape(-1))
    return np.concatenate(parts)


def check_sizes(
    samples: int, batch: int, repeats: int = 1, microbatch: int | None = None, lanes: int | None = None
) -> None:
    """Refuses sizes with which no epoch can be made.

    Raises:
        UserError: fewer samples than a batch; repeats, microbatch or lanes that do not divide what they must.
    """
    if samples < batch:
        raise UserError(
            f"{samples} good samples are fewer than one batch of {batch}",
            where="batch",
            expected=f"a batch of at most {samples}",
        )
    if batch % repeats:
        raise UserError(
            f"repeats {repeats} does not divide the batch of {batch}",
            where="repeats",
            expected="a divisor of the batch",
        )
    if microbatch is not None and batch % microbatch:
        raise UserError(
            f"{microbatch} does not divide the batch of {batch}",
            where="microbatch",
            expected=f"a divisor of the batch, such as {largest_divisor(batch, microbatch)}",
        )
    kept = batch // repeats
    if lanes is not None and kept % lanes:
        raise UserError(
            f"{lanes} lanes do not divide the {kept} samples of a batch",
            where="order.lanes",
            expected=f"a divisor, such as {largest_divisor(kept, lanes)}",
        )


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most the limit."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def default_microbatch(batch: int) -> int:
    """The largest divisor of the batch up to 256."""
    return largest_divisor(batch, 256)


def default_lanes(batch: int) -> int:
    """The largest divisor of the batch (before repeats) up to 64."""
    return largest_divisor(batch, 64)


def worker_microbatches(microbatches: int, worker: int, workers: int) -> range:
    """The microbatches of a batch that one of `workers` workers computes: those m with m mod workers = worker."""
    return range(worker, microbatches, workers)


def validation_order(samples: int, batch: int, rank: int, ranks: int) -> tuple[Samples, NDArray[np.float32]]:
    """What one rank evaluates: sample i goes to rank i mod ranks, every rank in the same number of batches.

    Returns:
        Samples int64[batches, batch] and weights float32 of that shape; places that pad the end hold sample 0 at
        weight 0.
    """
    batches = ceil(ceil(samples / ranks) / batch)
    order = np.zeros(batches * batch, dtype=np.int64)
    weights = np.zeros(batches * batch, dtype=np.float32)
    own = np.arange(rank, samples, ranks, dtype=np.int64)
    order[: len(own)] = own
    weights[: len(own)] = 1
    return order.reshape(batches, batch), weights.reshape(batches, batch)


def distinct_classes(labels: NDArray[np.int64], order: EpochOrder, batches: int = 32) -> tuple[float, float]:
    """Mean number of different classes in a batch: in this order (over evenly spaced batches), and in a full shuffle.

    The second is the expectation sum_c 1 - (1 - N_c/N)^P for batches of P different samples. A first number below
    80 % of the second means shards sorted by class.
    """
    steps = np.unique(np.linspace(0, order.steps - 1, min(batches, order.steps)).astype(np.int64))
    found = float(np.mean([len(np.unique(labels[order.batches[step]])) for step in steps]))
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return found, float(np.sum(1 - (1 - share) ** order.batches.shape[1]))
