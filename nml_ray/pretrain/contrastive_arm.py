"""One noise arm in contrastive training: captions for labels, and a loss that spans the whole batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nml_ray.data.dataset import Dataset
from nml_ray.models.clip import ImageTextPair
from nml_ray.models.tokenizer import Tokenizer
from nml_ray.models.transfer import sent
from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.clip_config import ClipSettings
from nml_ray.pretrain.contrastive import Pairs, backward
from nml_ray.pretrain.inputs import Fed
from nml_ray.pretrain.precision import autocast
from nml_ray.pretrain.validation import Predict
from nml_ray.pretrain.world import World
from nml_ray.pretrain.zero_shot import class_features


@dataclass(frozen=True)
class Texts:
    """What an arm reads: captions of the training data as tokens, and the prompts of zero-shot classes."""

    dataset: Dataset
    tokenizer: Tokenizer
    prompts: Sequence[Sequence[str]] = ()

    def tokens(self, numbers: Tensor) -> Tensor:
        """Tokens int64 [N, L] of the captions of samples by number; captions stay on disk until they are fed."""
        return self.tokenizer([self.dataset.caption(number) or "" for number in numbers.tolist()])


@dataclass
class ContrastiveArm(BaseArm[ImageTextPair]):
    """`given` are the samples whose captions are fed, `clean` are the samples themselves: int32 [N] by number.

    Attributes:
        clip: settings of the loss.
        batch: global batch.
        texts: to read.
    """

    clip: ClipSettings = field(init=False)
    batch: int = field(init=False)
    texts: Texts = field(init=False)

    def add(self, fed: Sequence[Fed], seeds: Sequence[int], world: World) -> None:
        """Add this worker's microbatches of a batch; the workers meet to exchange features."""
        pairs = []
        for one, seed in zip(fed, seeds, strict=True):
            device, size = one.images.device, len(one.numbers)
            places = torch.arange(one.microbatch * size, (one.microbatch + 1) * size, device=device)
            tokens = sent(self.texts.tokens(self.given[one.numbers]), device)
            pairs.append(Pairs(one.images, tokens, places, one.weights, seed))
        factor = self.scale.scale if self.scale else 1.0
        losses, hits = backward(
            self.model, pairs, self.batch, world, self.clip.loss, self.clip.cached, self.precision, factor
        )
        numbers = torch.cat([one.numbers for one in fed])
        given, clean = (sent(samples[numbers].long(), losses.device) for samples in (self.given, self.clean))
        # A hit counts as the given caption; which caption else came first is not asked.
        self.count(losses, torch.where(hits, given, -1), given, clean, torch.cat([one.weights for one in fed]))

    def foresee(self, numbers: NDArray[np.int64]) -> None:
        """Have the tokenizer know their captions."""
        self.texts.tokens(self.given[torch.from_numpy(numbers)])

    def forward_one(self, image: Tensor) -> None:
        """Pass one image and one caption through their towers."""
        self.model.image_features(image)
        self.model.text_features(self.texts.tokens(torch.zeros(1, dtype=torch.int64)).to(image.device))

    @contextmanager
    def evaluating(self) -> Iterator[Predict]:
        """Inside, the result's zero-shot logits of normalised images, in evaluation mode."""
        self.result.eval()
        device = self.model.logit_scale.device
        with torch.no_grad(), autocast(self.precision, device):
            classes = class_features(self.result, self.texts.tokenizer, self.texts.prompts)
            scale = self.result.logit_scale.exp()

        def predict(images: Tensor) -> Tensor:
            with autocast(self.precision, images.device):
                features = self.result.image_features(images)
            return scale * features @ classes.T

        yield predict
        self.model.train()
