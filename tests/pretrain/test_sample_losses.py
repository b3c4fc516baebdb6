"""Losses of single samples against PyTorch's and timm's."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch.nn.functional import cross_entropy, one_hot

from nml_ray.pretrain.losses import sample_losses, soft_targets
from nml_ray.pretrain.recipe_config import LossSettings

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 7, generator=GENERATOR)
LABELS = torch.arange(12) % 7
PARTNERS = LABELS.flip(0)
SHARES = torch.rand(12, generator=GENERATOR)
PLAIN = LossSettings()


def mixed_targets(smoothing: float) -> torch.Tensor:
    own, other = soft_targets(LABELS, 7, smoothing), soft_targets(PARTNERS, 7, smoothing)
    return own * SHARES[:, None] + other * (1 - SHARES[:, None])


def test_plain_cross_entropy_has_pytorchs_bits():
    losses = sample_losses(LOGITS, LABELS, PLAIN, 0.1)
    assert torch.equal(losses, cross_entropy(LOGITS, LABELS, reduction="none", label_smoothing=0.1))


def test_targets_sum_to_one():
    targets = soft_targets(LABELS, 7, 0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
    assert torch.equal(soft_targets(LABELS, 7, 0.0), one_hot(LABELS, 7).float())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_cross_entropy_is_timms(smoothing):
    losses = sample_losses(LOGITS, LABELS, PLAIN, smoothing, PARTNERS, SHARES)
    torch.testing.assert_close(losses.mean(), SoftTargetCrossEntropy()(LOGITS, mixed_targets(smoothing)))


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("classes", ["mean", "sum"])
@pytest.mark.parametrize("mixed", [False, True])
def test_binary_cross_entropy_is_timms(threshold, classes, mixed):
    settings = LossSettings(kind="bce", threshold=threshold, classes=classes)
    theirs = BinaryCrossEntropy(smoothing=0.1, target_threshold=threshold, sum_classes=classes == "sum")
    pair = (PARTNERS, SHARES) if mixed else ()
    losses = sample_losses(LOGITS, LABELS, settings, 0.1, *pair)
    torch.testing.assert_close(losses.mean(), theirs(LOGITS, mixed_targets(0.1) if mixed else LABELS))


def test_half_precision_logits_give_float32_losses():
    assert sample_losses(LOGITS.bfloat16(), LABELS, PLAIN, 0.0).dtype == torch.float32
