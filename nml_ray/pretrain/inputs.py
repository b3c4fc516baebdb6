"""From the bytes of a microbatch to what the models see: RandAugment, normalisation and mixing, on their device.

All arms of a worker see the same images, so this is done once for all of them.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nml_ray.data.draw import Draws
from nml_ray.data.loader import Microbatch
from nml_ray.models.preprocess import InputSpec, normalised
from nml_ray.models.transfer import Uploads, sent
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.mixing import Mixing, draw_mixing, mix
from nml_ray.pretrain.randaugment import draw_rounds, rand_augment


@dataclass(frozen=True)
class Fed:
    """One microbatch as it enters the models.

    Attributes:
        microbatch: its number in the global batch.
        images: normalised and mixed, float32 [N, C, H, W], on the device.
        numbers: sample numbers, int64 [N], on the CPU.
        weights: float32 [N], 0 at holes, on the device.
        mixing: how the images are mixed, on the device; None where they are not.
    """

    microbatch: int
    images: Tensor
    numbers: Tensor
    weights: Tensor
    mixing: Mixing | None


@dataclass(frozen=True)
class Inputs:
    """What fixes the inputs of every microbatch.

    Attributes:
        settings: of the run.
        seed: of pre-training.
        spec: the encoder's input.
        key_hash: of all samples, uint64, by sample number.
        device: of the models.
    """

    settings: PretrainSettings
    seed: int
    spec: InputSpec
    key_hash: Draws
    device: torch.device

    @cached_property
    def uploads(self) -> Uploads:
        """How images travel to the device."""
        return Uploads(self.device)

    def prepare(self, microbatch: Microbatch, epoch: int) -> Fed:
        """The inputs of a microbatch. The memory of its images is in use until `uploads.done`."""
        settings, places = self.settings, microbatch.places
        hashes, copies = self.key_hash[microbatch.numbers], places % settings.repeats
        pixels = self.uploads.copy(torch.from_numpy(microbatch.images))
        if settings.randaugment:
            rounds = draw_rounds(settings.randaugment, self.seed, hashes, epoch, copies)
            mean = torch.tensor([round(255 * value) for value in self.spec.mean], dtype=torch.uint8)
            augmented = rand_augment(pixels.permute(0, 3, 1, 2), rounds, sent(mean, self.device))
            pixels = augmented.permute(0, 2, 3, 1)
        images, mixing = normalised(pixels, self.spec, self.device), None
        if settings.mixing.active:
            height, width = images.shape[2:]
            drawn = draw_mixing(settings.mixing, self.seed, hashes, epoch, copies, microbatch.weights, height, width)
            mixing = drawn.to(self.device)
            images = mix(images, mixing)
        return Fed(
            int(places[0]) // settings.microbatch_size(),
            images,
            torch.from_numpy(microbatch.numbers),
            sent(torch.from_numpy(microbatch.weights), self.device),
            mixing,
        )
