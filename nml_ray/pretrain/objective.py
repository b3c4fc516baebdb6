"""What a model is trained to do: images and labels in, one loss a sample out."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, seeded


class Supervised(nn.Module):
    """An encoder under a linear classifier, trained with softmax cross-entropy."""

    def __init__(self, encoder: EncoderSettings, classes: int, label_smoothing: float, seed: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, seed)
        with seeded(seed):
            self.head = nn.Linear(self.encoder.dim, classes)
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [N, C, H, W] and labels [N] -> losses [N] and predicted classes [N]."""
        logits = self.head(self.encoder(images))
        losses = cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses, logits.detach().argmax(1)


def seeded_objective(settings: EncoderSettings, classes: int, label_smoothing: float, seed: int) -> Supervised:
    """The model of a pre-training seed: the same initial weights for every arm, torch's global generator untouched."""
    model = Supervised(settings, classes, label_smoothing, seed)
    return model.to(memory_format=torch.channels_last) if settings.channels_last else model
