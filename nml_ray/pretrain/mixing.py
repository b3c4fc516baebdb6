"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) within a microbatch, by keyed draws of each sample.

The image of place i is mixed with that of place N - 1 - i: the order is itself a keyed shuffle, so this is a random
partner, and copies of one sample (repeated augmentation), which stand side by side, do not meet except in the middle.
How a sample is mixed depends on (seed, key, epoch, repeat) alone, and with whom on its microbatch: never on the number
of workers, the device or the arm.

A hole (weight 0) is filled with another sample's image, but has a label of its own. So the sample whose partner is a
hole stays unmixed; the hole's own image is mixed as any other, and its weight takes it out of the loss.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nml_ray.data.draw import Draws, draw, uniform
from nml_ray.models.transfer import sent
from nml_ray.pretrain.recipe_config import MixingSettings

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Mixing:
    """How the N images of a microbatch are mixed.

    Attributes:
        shares: of the own image in each sample, float32 [N]; 1 where it is left alone.
        boxes: (top, bottom, left, right) of the partner's pixels, int64 [N, 4]; empty but for CutMix.
        cut: where CutMix is at work, bool [N]; elsewhere the whole images are blended.
    """

    shares: Tensor
    boxes: Tensor
    cut: Tensor

    def to(self, device: torch.device) -> "Mixing":
        """The same on a device."""
        return Mixing(*(sent(tensor, device) for tensor in (self.shares, self.boxes, self.cut)))


def draw_mixing(
    settings: MixingSettings,
    seed: int,
    hashes: Draws,
    epoch: int,
    copies: Numbers,
    weights: NDArray[np.float32],
    height: int,
    width: int,
) -> Mixing:
    """The mixing of a microbatch of images of the given size, on the CPU.

    Args:
        settings: at least one of the two is on.
        seed: of pre-training.
        hashes: key hashes, uint64 [N].
        epoch: from 0.
        copies: which copy of its sample each place holds, int64 [N].
        weights: 0 at holes, float32 [N].
        height: in pixels.
        width: in pixels.
    """

    def drawn(tag: str) -> Draws:
        return draw(tag, seed, hashes, epoch, copies)

    mixed = uniform(drawn("mix")) < settings.probability
    mixed &= weights[::-1] > 0
    cut = np.full(len(hashes), settings.cutmix > 0)
    if settings.cutmix and settings.mixup:
        cut = uniform(drawn("mix-cut")) < settings.cutmix_share
    alpha = np.where(cut, settings.cutmix, settings.mixup)
    shares = symmetric_beta(alpha, drawn("mix-share-size"), drawn("mix-share-side"))
    cut &= mixed
    boxes = cut_boxes(shares, drawn("mix-down"), drawn("mix-across"), height, width)
    boxes[~cut] = 0
    outside = 1 - (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (height * width)
    shares = np.where(cut, outside, np.where(mixed, shares, 1.0)).astype(np.float32)
    return Mixing(torch.from_numpy(shares), torch.from_numpy(boxes), torch.from_numpy(cut))


def symmetric_beta(alpha: NDArray[np.float64], size: Draws, side: Draws) -> NDArray[np.float64]:
    """Numbers of Beta(alpha, alpha) from two independent draws each.

    In closed form, by way of Student's t with 2 alpha degrees of freedom (Bailey 1994; Devroye 1996, "Random variate
    generation in one line of code"): (1 + c / sqrt(c^2 + 1 / (u^(-1/alpha) - 1))) / 2, with u uniform in (0, 1] and c
    the cosine of a uniform angle.
    """
    cosine = np.cos(2 * np.pi * uniform(side))
    with np.errstate(divide="ignore", over="ignore"):  # an infinite 1 / x is the middle, an infinite x an end
        spread = np.expm1(-np.log1p(-uniform(size)) / alpha)
        return (1 + cosine / np.sqrt(cosine**2 + 1 / spread)) / 2


def cut_boxes(shares: NDArray[np.float64], down: Draws, across: Draws, height: int, width: int) -> Numbers:
    """(top, bottom, left, right) of boxes of about 1 - share of the image, cut off at its edges: int64 [N, 4].

    The centre is uniform over the pixels, so a box at the edge is smaller than the share says (Yun et al. 2019).
    """
    side = np.sqrt(1 - shares)
    sides = []
    for draws, length in ((down, height), (across, width)):
        centre = (draws % np.uint64(length)).astype(np.int64)
        extent = (length * side).astype(np.int64)
        sides += [np.clip(centre - extent // 2, 0, length), np.clip(centre + (extent + 1) // 2, 0, length)]
    return np.stack(sides, axis=1)


def mix(images: Tensor, mixing: Mixing) -> Tensor:
    """The mixed images, [N, C, H, W] of floats as given."""
    height, width = images.shape[2:]
    top, bottom, left, right = mixing.boxes.unbind(1)
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    shares = torch.where(mixing.cut[:, None, None], (~inside).to(images.dtype), mixing.shares[:, None, None])
    return images.flip(0).lerp_(images, shares[:, None])
