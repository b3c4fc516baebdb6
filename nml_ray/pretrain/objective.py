"""What a model is trained to do: images and labels in, one loss a sample out."""

import torch
from torch import Tensor, nn

from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, seeded
from nml_ray.pretrain.losses import sample_losses
from nml_ray.pretrain.recipe_config import LossSettings

CROSS_ENTROPY = LossSettings()


class Supervised(nn.Module):
    """An encoder under a linear classifier."""

    def __init__(
        self, encoder: EncoderSettings, classes: int, label_smoothing: float, seed: int, loss: LossSettings
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, seed)
        with seeded(seed):
            self.head = nn.Linear(self.encoder.dim, classes)
        self.label_smoothing = label_smoothing
        self.loss = loss

    def forward(
        self, images: Tensor, labels: Tensor, partners: Tensor | None = None, shares: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses float32 [N] and predicted classes [N].

        Args:
            images: normalised, [N, C, H, W].
            labels: int64 [N].
            partners: labels of the images mixed in, int64 [N]; None where nothing is mixed.
            shares: how much of each sample is its own image, float32 [N].
        """
        logits = self.logits(images)
        losses = sample_losses(logits, labels, self.loss, self.label_smoothing, partners, shares)
        return losses, logits.detach().argmax(1)

    def logits(self, images: Tensor) -> Tensor:
        """Scores of the classes, [N, K]."""
        scores: Tensor = self.head(self.encoder(images))
        return scores


def seeded_objective(
    settings: EncoderSettings, classes: int, label_smoothing: float, seed: int, loss: LossSettings = CROSS_ENTROPY
) -> Supervised:
    """The model of a pre-training seed: the same initial weights for every arm, torch's global generator untouched."""
    model = Supervised(settings, classes, label_smoothing, seed, loss)
    return model.to(memory_format=torch.channels_last) if settings.channels_last else model
