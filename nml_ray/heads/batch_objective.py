"""The losses of many heads at once: what `fit.objective` computes of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nml_ray.heads import losses
from nml_ray.heads.config import HeadSetting, NMTune
from nml_ray.heads.stack import Stack


class Batches(NamedTuple):
    """One step of K heads: features [K, B, D] of one view and, if two are used, of a second; targets [K, B]."""

    first: Tensor
    second: Tensor | None
    targets: Tensor


@dataclass(frozen=True)
class Term:
    """A regulariser and those of K heads that have it: their places int64[n], or None for all, and weights [n]."""

    places: Tensor | None
    weights: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """The part [n, ...] of a tensor [K, ...] that belongs to these heads."""
        return tensor if self.places is None else tensor.index_select(0, self.places)

    def add(self, total: Tensor, values: Tensor) -> Tensor:
        """`total` [K] with the weighted values [n] at their places."""
        weighted = self.weights * values
        return total + weighted if self.places is None else total.index_add(0, self.places, weighted)


@dataclass(frozen=True)
class Objective:
    """The weights of K settings. A term that no setting weighs is None and costs nothing."""

    consistency: Term | None
    covariance: Term | None
    share: Term | None
    top_k: Tensor

    @classmethod
    def of(cls, settings: Sequence[HeadSetting], dim: int, device: torch.device | str) -> "Objective":
        """The objective of K settings, on features of D dimensions."""
        tuned = [setting if isinstance(setting, NMTune) else None for setting in settings]

        def term(weight: Callable[[NMTune], float]) -> Term | None:
            weights = [weight(setting) if setting else 0.0 for setting in tuned]
            places = [place for place, value in enumerate(weights) if value]
            if not places:
                return None
            dtype = getattr(torch, settings[0].dtype)
            return Term(
                None if len(places) == len(settings) else torch.tensor(places, device=device),
                torch.tensor([weights[place] for place in places], dtype=dtype, device=device),
            )

        share = term(lambda setting: -setting.svd_weight)
        top_k = [setting.top_k for setting in tuned if setting and setting.svd_weight]
        return cls(
            term(lambda setting: setting.mse_weight / (dim if setting.mse_norm == "official" else 1)),
            term(lambda setting: setting.cov_weight),
            share,
            torch.tensor(top_k, dtype=torch.int64, device=device),
        )

    def __call__(self, stack: Stack, batches: Batches) -> Tensor:
        """The loss of each head, [K]; NaN where its numbers are not finite."""
        first, second, targets = batches
        z, logits = stack.forward(first if second is None else torch.cat([first, second], dim=1))
        loss = _error(logits, targets if second is None else targets.repeat(1, 2))
        if self.consistency:
            matched = z if second is None else z[:, first.shape[1] :]
            loss = self.consistency.add(
                loss, losses.consistency(self.consistency.of(matched), self.consistency.of(first))
            )
        if self.covariance:
            loss = self.covariance.add(loss, losses.covariance(self.covariance.of(z)))
        if self.share:
            loss = self.share.add(loss, losses.singular_share(self.share.of(z), self.top_k))
        return loss


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [K, M, C] with classes [K, M], or squared error of [K, M, 1] with numbers: [K]."""
    if targets.is_floating_point():
        return (logits[..., 0] - targets).square().mean(dim=1)
    each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(targets.shape).mean(dim=1)
