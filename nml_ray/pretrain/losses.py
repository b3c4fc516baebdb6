"""Losses of single samples under soft targets, so that weights (0 at holes) can be laid over them."""

from torch import Tensor, float32
from torch.nn import functional

from nml_ray.pretrain.recipe_config import LossSettings


def sample_losses(
    logits: Tensor,
    labels: Tensor,
    settings: LossSettings,
    smoothing: float,
    partners: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """The loss of each sample, float32 [N].

    Args:
        logits: [N, K].
        labels: int64 [N].
        settings: which loss.
        smoothing: share of the target that is spread over all K classes.
        partners: labels of the images mixed in, int64 [N]; None where nothing is mixed.
        shares: how much of each sample is its own image, float32 [N].
    """
    logits = logits.float()
    if partners is None and settings.kind == "cross_entropy":
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    targets = soft_targets(labels, logits.shape[1], smoothing)
    if partners is not None and shares is not None:
        targets = soft_targets(partners, logits.shape[1], smoothing).lerp_(targets, shares[:, None])
    if settings.kind == "cross_entropy":
        return functional.cross_entropy(logits, targets, reduction="none")
    if settings.threshold is not None:
        targets = (targets > settings.threshold).to(targets.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses.sum(1) if settings.classes == "sum" else losses.mean(1)


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Rows of 1 - smoothing at the label, and smoothing spread evenly over all classes: float32 [N, K]."""
    targets = labels.new_full((len(labels), classes), smoothing / classes, dtype=float32)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)
