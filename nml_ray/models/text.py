"""A text tower small enough for a laptop: the mean of token embeddings (Joulin et al. 2017), nothing on top.

Two layers on top gained nothing (see jobs/clip_icons.yaml).
"""

import torch
from torch import Tensor, nn

from nml_ray.models.tokenizer import PADDING


class BagOfTokens(nn.Module):
    """Token numbers [N, context], 0 where there is none -> features [N, dim]. Their order counts for nothing."""

    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        count = (tokens != PADDING).sum(1, keepdim=True).clamp(min=1)
        features: Tensor = self.embedding(tokens).sum(1) / count
        return features
