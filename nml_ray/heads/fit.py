"""Fitting one head on features in memory: one thread, one setting, no global random generator."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nml_ray.data.draw import Draws
from nml_ray.heads import losses
from nml_ray.heads.adamw import AdamW
from nml_ray.heads.config import HeadSetting, NMTune
from nml_ray.heads.errors import HeadError
from nml_ray.heads.fitted import FittedHead, Labels, Values
from nml_ray.heads.modules import Head, new_head
from nml_ray.heads.order import epoch_rows, view_pair
from nml_ray.heads.threads import single_thread


@dataclass(frozen=True)
class Epoch:
    """The rows of one epoch in order: features [n, D] of one view and, if two are used, of a second; targets [n].

    Targets are class numbers (int64), or for a regression the numbers themselves, standardised.
    """

    first: Tensor
    second: Tensor | None
    targets: Tensor


def fit(setting: HeadSetting, features: Values, labels: Labels | Values, key_hashes: Draws, seed: int) -> FittedHead:
    """Fit one head.

    Args:
        setting: the head and how it is optimised.
        features: float16, float32 or float64, [N, D] with N >= 2, or cached views of the same samples [V, N, D]; all
            but a `pair` of views use the first view. Values must be finite in the setting's dtype.
        labels: int64[N], any values; float[N] for a regression, which has one output and squared error in place of
            cross-entropy. Where N is below the setting's batch, all rows make one batch.
        key_hashes: uint64[N] (`data.draw.key_hashes`); with `seed` they decide the order and the drawn views.
        seed: initialisation, order and views.

    Returns:
        The fitted head; see `FittedHead.diverged` for fits whose loss left the finite numbers.

    Raises:
        HeadError: there are fewer than two rows.
    """
    views = features if features.ndim == 3 else features[None]
    if not (isinstance(setting, NMTune) and setting.views == "pair"):
        views = views[:1]
    if len(labels) < 2:
        raise HeadError(f"{len(labels)} sample(s) to fit a head on", expected="at least 2")
    classes, targets, unit = targets_of(setting, labels)
    with single_thread():
        shift, scale = standardisation(views[0]) if setting.standardise else (None, None)
        head = new_head(setting, views.shape[2], 1 if unit else len(classes), seed)
        fitted = FittedHead(setting, classes, head, shift, scale, (), unit)
        batch = min(setting.batch, len(targets))
        epochs = _epochs(setting, fitted.prepare(views), targets, key_hashes, seed)
        steps = optimise(head, setting, epochs, batch, len(targets) // batch)
        head.eval()
    means = [float(epoch.mean()) for epoch in steps]
    losses = tuple(mean for mean in means if math.isfinite(mean))
    return FittedHead(setting, classes, head, shift, scale, losses, unit)


def targets_of(setting: HeadSetting, labels: Labels | Values) -> tuple[Labels, Tensor, tuple[float, float] | None]:
    """Classes, targets [N], and of a regression the mean and deviation that its targets were standardised by."""
    if labels.dtype.kind != "f":
        classes, targets = np.unique(labels, return_inverse=True)
        return classes.astype(np.int64, copy=False), torch.from_numpy(targets), None
    mean, deviation = float(labels.mean(dtype=np.float64)), float(labels.std(dtype=np.float64)) or 1.0
    return (
        np.zeros(0, np.int64),
        torch.from_numpy(((labels - mean) / deviation).astype(setting.dtype)),
        (mean, deviation),
    )


def optimise(
    head: Head, setting: HeadSetting, epochs: Iterable[Epoch], batch: int, steps_per_epoch: int
) -> list[NDArray[np.float64]]:
    """Train `head` in place: AdamW with a learning rate set for each step, rows taken `batch` at a time in order.

    Returns:
        The total loss of every step before its update, one array a epoch. The first epoch with a loss that is not
        finite is the last.
    """
    total = setting.epochs * steps_per_epoch
    optimizer = AdamW(head.parameters(), setting.weight_decay)
    history: list[NDArray[np.float64]] = []
    head.train()
    for epoch in epochs:
        found = torch.full((steps_per_epoch,), math.nan, dtype=torch.float64)
        for step in range(steps_per_epoch):
            rows = slice(step * batch, (step + 1) * batch)
            second = None if epoch.second is None else epoch.second[rows]
            loss = objective(head, setting, epoch.first[rows], second, epoch.targets[rows])
            if loss is None:
                break
            found[step] = loss.detach()
            loss.backward()
            with torch.no_grad():
                optimizer.step(learning_rate(setting, len(history) * steps_per_epoch + step, total))
        history.append(found.numpy())
        if not np.isfinite(history[-1]).all():
            break
    return history


def objective(head: Head, setting: HeadSetting, first: Tensor, second: Tensor | None, targets: Tensor) -> Tensor | None:
    """The loss of one step: cross-entropy (squared error of a regression), and for NMTune the three weighted
    regularisers (paper, equation 6).

    Args:
        first: features [B, D] of one view; consistency holds Z against them.
        second: features of another view, or None. Both pass the head together, so that BatchNorm, cross-entropy,
            covariance and singular values see 2B rows; consistency takes Z of the second.
        targets: class indices [B], or numbers [B] in the head's dtype.

    Returns:
        A scalar, or None where the singular values of a Z that is not finite were asked for.
    """
    rows = first if second is None else torch.cat([first, second])
    z, logits = head(rows)
    wanted = targets if second is None else targets.repeat(2)
    if wanted.is_floating_point():
        loss = functional.mse_loss(logits[:, 0], wanted)
    else:
        loss = functional.cross_entropy(logits, wanted)
    if not isinstance(setting, NMTune):
        return loss
    if setting.mse_weight:
        matched = z if second is None else z[len(first) :]
        loss = loss + setting.mse_weight * losses.consistency(matched, first, setting.mse_norm)
    if setting.cov_weight:
        loss = loss + setting.cov_weight * losses.covariance(z)
    if setting.svd_weight:
        if not torch.isfinite(loss.detach()):
            return None
        loss = loss - setting.svd_weight * losses.singular_share(z, setting.top_k)
    return loss


def learning_rate(setting: HeadSetting, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine to zero over the remaining of `total` steps; `step` counts from 0."""
    warmup = setting.warmup_steps
    if step < warmup:
        return setting.learning_rate * (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) * setting.learning_rate


def _epochs(setting: HeadSetting, views: Tensor, targets: Tensor, key_hashes: Draws, seed: int) -> Iterator[Epoch]:
    """Each epoch's rows, gathered once: those of a pair where `views` [V, N, D] has more than one.

    With a single view the pair would be two equal halves, where the gradient of the singular values is arbitrary:
    the B unique rows take their place.
    """
    batch = min(setting.batch, len(targets))
    for epoch in range(setting.epochs):
        rows = epoch_rows(key_hashes, seed, epoch, batch)
        if len(views) > 1:
            first, second = (chosen[rows] for chosen in view_pair(key_hashes, seed, epoch, len(views)))
            yield Epoch(views[first, rows], views[second, rows], targets[rows])
        else:
            yield Epoch(views[0][rows], None, targets[rows])


def standardisation(features: Values) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] over rows in float64; 1 where a feature is constant."""
    exact = torch.tensor(np.ascontiguousarray(features), dtype=torch.float64)
    deviation, mean = torch.std_mean(exact, dim=0, correction=0)
    varies = (exact.amax(dim=0) > exact.amin(dim=0)) & (deviation > 0)
    return mean, torch.where(varies, deviation, 1)
