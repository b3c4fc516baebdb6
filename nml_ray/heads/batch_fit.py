"""Fitting many settings on one set of features as one program: the form for GPUs, where small steps cost launches.

A batch computes of each setting what `fit.fit` computes, in other groupings of the same sums, so results agree to the
rounding of the arithmetic and not to the bit. Nothing of one setting enters another's numbers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from nml_ray.data.draw import Draws
from nml_ray.heads.adamw import AdamW
from nml_ray.heads.batch_objective import Batches, Objective
from nml_ray.heads.batch_shape import Data, batches, even_parts, treated_alike, uses_pairs
from nml_ray.heads.config import HeadSetting
from nml_ray.heads.errors import HeadError
from nml_ray.heads.fit import learning_rate, standardisation, targets_of
from nml_ray.heads.fitted import FittedHead, Labels, Values
from nml_ray.heads.modules import Head
from nml_ray.heads.order import epoch_rows, view_pair
from nml_ray.heads.stack import Stack

Device = torch.device | str


@dataclass(frozen=True)
class Samples:
    """What heads are fitted on, as `fit.fit` takes it: features [N, D] or views [V, N, D], labels and hashes [N]."""

    features: Values
    labels: Labels | Values
    key_hashes: Draws

    @property
    def views(self) -> Values:
        """[V, N, D]."""
        return self.features if self.features.ndim == 3 else self.features[None]


@dataclass(frozen=True)
class Fit:
    """One of the fits that were asked for: its number, its head, and how many were trained together."""

    number: int
    head: FittedHead
    together: int


def fit_batches(
    settings: Sequence[HeadSetting], seeds: Sequence[int], samples: Samples, device: Device, free: int | None = None
) -> Iterator[Fit]:
    """Fit any settings, as many together as their shapes and the device's memory allow.

    Args:
        settings, seeds: of each fit.
        samples: what all of them are fitted on.
        device: where they are trained; on the CPU with as many threads as the process has.
        free: bytes that may be used; what is free on the device when None.

    Yields:
        Every fit once, batch by batch, its head on that device. One that `diverged` has no particular weights.

    Raises:
        HeadError: there are fewer than two rows.
        torch.OutOfMemoryError: one setting alone is too large.
    """
    views, labels = samples.views, samples.labels
    if len(labels) < 2:
        raise HeadError(f"{len(labels)} sample(s) to fit a head on", expected="at least 2")
    outputs = 1 if labels.dtype.kind == "f" else len(np.unique(labels))
    data = Data(len(labels), views.shape[2], outputs, len(views))

    def train(numbers: Sequence[int]) -> Iterator[FittedHead]:
        return fit_batch([settings[n] for n in numbers], [seeds[n] for n in numbers], samples, device)

    for numbers in batches(settings, data, free_bytes(device) if free is None else free):
        for part, heads in in_memory(numbers, train):
            for number, head in zip(part, heads, strict=True):
                yield Fit(number, head, len(part))


def fit_batch(
    settings: Sequence[HeadSetting], seeds: Sequence[int], samples: Samples, device: Device
) -> Iterator[FittedHead]:
    """Fit settings of one shape (`batch_shape.shape`) as one program.

    Returns:
        Their heads in order, on the device, each copied out of the batch when it is asked for.
    """
    views = samples.views
    classes, targets, unit = targets_of(settings[0], samples.labels)
    shift, scale = standardisation(views[0]) if any(setting.standardise for setting in settings) else (None, None)
    stack = Stack.born(settings, seeds, views.shape[2], 1 if unit else len(classes), device)

    def fitted(place: int, head: Head, losses: tuple[float, ...]) -> FittedHead:
        moments = (shift, scale) if settings[place].standardise else (None, None)
        return FittedHead(settings[place], classes, head, *moments, losses, unit)

    if not uses_pairs(settings[0], Data(len(targets), views.shape[2], 1, len(views))):
        views = views[:1]
    standardised = [setting.standardise for setting in settings]
    kinds = sorted(set(standardised))
    unfitted = [fitted(standardised.index(kind), stack.template, ()) for kind in kinds]
    bank = torch.stack([head.prepare(views) for head in unfitted]).to(device)
    which = torch.tensor([kinds.index(kind) for kind in standardised], device=device)
    batch = min(settings[0].batch, len(targets))
    orders = _orders(settings, seeds, samples.key_hashes, len(views), batch, device)
    epochs = (_steps(bank, which, targets.to(device), order, batch) for order in orders)
    history = optimise_batch(stack, settings, epochs, len(targets) // batch)
    del bank, epochs
    means = np.array([epoch.mean(axis=0) for epoch in history]).T
    ends = [tuple(map(float, takewhile(math.isfinite, each))) for each in means]
    return (fitted(place, stack.head(place), losses) for place, losses in enumerate(ends))


def optimise_batch(
    stack: Stack, settings: Sequence[HeadSetting], epochs: Iterable[Iterable[Batches]], steps_per_epoch: int
) -> list[NDArray[np.float64]]:
    """Train a stack in place, as `fit.optimise` trains each of its K heads.

    Neighbours with one learning rate, decay and warm-up are one call of AdamW's kernel.

    Returns:
        The total loss of every step before its update, one array [S, K] an epoch; not finite from where a head has
        diverged. The first epoch in which all heads have is the last.
    """
    parameters = list(stack.parameters.values())
    device, dim = parameters[0].device, stack.dim
    objective = Objective.of(settings, dim, device)
    runs = treated_alike(settings)
    optimisers = [
        AdamW([parameter.detach()[run] for parameter in parameters], settings[run.start].weight_decay) for run in runs
    ]
    total = settings[0].epochs * steps_per_epoch
    history: list[NDArray[np.float64]] = []
    for epoch in epochs:
        found = torch.full((steps_per_epoch, len(settings)), math.nan, dtype=torch.float64, device=device)
        for step, rows in enumerate(epoch):
            loss = objective(stack, rows)
            found[step] = loss.detach()
            loss.sum().backward()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            at = len(history) * steps_per_epoch + step
            with torch.no_grad():
                for run, optimiser in zip(runs, optimisers, strict=True):
                    rate = learning_rate(settings[run.start], at, total)
                    optimiser.update([gradient[run] for gradient in gradients], rate)
            del gradients
            for parameter in parameters:
                parameter.grad = None
        history.append(found.cpu().numpy())
        if not np.isfinite(history[-1]).all(axis=0).any():
            break
    return history


def in_memory(
    numbers: Sequence[int], train: Callable[[Sequence[int]], Iterator[FittedHead]]
) -> Iterator[tuple[Sequence[int], Iterator[FittedHead]]]:
    """The numbers trained together, or where that is too large for the device, in halves and their halves.

    Raises:
        torch.OutOfMemoryError: one alone is too large.
    """
    heads: Iterator[FittedHead] | None = None
    try:
        heads = train(numbers)
    except torch.OutOfMemoryError:
        if len(numbers) == 1:
            raise
    if heads is not None:  # the exception is gone here, and with it what its frames held
        yield numbers, heads
        return
    for half in even_parts(numbers, -(-len(numbers) // 2)):
        yield from in_memory(half, train)


def free_bytes(device: Device) -> int:
    """Memory of the device that nobody uses."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


@dataclass(frozen=True)
class _Order:
    """An epoch of K fits: the rows of its steps [K, S * B], and of a pair the two views that each row is taken from."""

    rows: Tensor
    first: Tensor | None
    second: Tensor | None


def _orders(
    settings: Sequence[HeadSetting],
    seeds: Sequence[int],
    key_hashes: Draws,
    views: int,
    batch: int,
    device: Device,
) -> Iterator[_Order]:
    distinct = sorted(set(seeds))
    own = torch.tensor([distinct.index(seed) for seed in seeds], device=device)

    def of_each(drawn: list[NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(np.stack(drawn)).to(device)[own]

    for epoch in range(settings[0].epochs):
        rows = [epoch_rows(key_hashes, seed, epoch, batch) for seed in distinct]
        if views == 1:
            yield _Order(of_each(rows), None, None)
            continue
        pairs = [view_pair(key_hashes, seed, epoch, views) for seed in distinct]
        first, second = (
            of_each([pair[place][chosen] for pair, chosen in zip(pairs, rows, strict=True)]) for place in (0, 1)
        )
        yield _Order(of_each(rows), first, second)


def _steps(bank: Tensor, which: Tensor, targets: Tensor, order: _Order, batch: int) -> Iterator[Batches]:
    """The steps of an epoch, gathered one by one from `bank` [standardised or not, V, N, D]; `which` [K] tells it."""
    which = which.unsqueeze(1)
    for start in range(0, order.rows.shape[1], batch):
        cut = slice(start, start + batch)
        rows = order.rows[:, cut]
        if order.first is None or order.second is None:
            yield Batches(bank[which, 0, rows], None, targets[rows])
        else:
            first, second = order.first[:, cut], order.second[:, cut]
            yield Batches(bank[which, first, rows], bank[which, second, rows], targets[rows])
