"""RandAugment (Cubuk et al. 2020) on the device, on bytes, by keyed draws of each sample.

The law is that of timm's `rand-mM-mstdS-inc1`: for each of a few rounds an operation of fifteen, applied half of the
time, with a normally distributed strength. Samples with the same operation go through it together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nml_ray.data.draw import Draws, draw, uniform
from nml_ray.models.transfer import sent
from nml_ray.pretrain import image_ops
from nml_ray.pretrain.recipe_config import RandAugmentSettings

Floats = NDArray[np.float64]
Operation = Callable[[Tensor, Floats], Tensor]
MOST = 10.0  # the strength at which an operation is at its strongest

OPERATIONS = (  # their order is part of the draws
    *("autocontrast", "equalise", "invert", "rotate", "posterise", "solarise", "lighten_shadows", "colour"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@dataclass(frozen=True)
class Round:
    """One operation for each of N samples.

    Attributes:
        operations: number in `OPERATIONS`, int64 [N]; -1 where nothing is done.
        amounts: strength as a share of the strongest, with its sign, float64 [N] in -1 .. 1.
    """

    operations: NDArray[np.int64]
    amounts: Floats


def draw_rounds(
    settings: RandAugmentSettings, seed: int, hashes: Draws, epoch: int, copies: NDArray[np.int64]
) -> list[Round]:
    """What is done to each sample of a microbatch: from key hashes (uint64 [N]), the epoch and copies (int64 [N])."""
    rounds = []
    for number in range(settings.operations):

        def drawn(tag: str, number: int = number) -> Draws:
            return draw(f"randaugment-{tag}", seed, hashes, epoch, copies, number)

        operations = (drawn("operation") % np.uint64(len(OPERATIONS))).astype(np.int64)
        operations[uniform(drawn("apply")) >= settings.probability] = -1
        strength = settings.magnitude + settings.deviation * standard_normal(drawn("length"), drawn("angle"))
        sign = np.where(drawn("sign") & np.uint64(1), -1.0, 1.0)
        rounds.append(Round(operations, sign * np.clip(strength, 0, MOST) / MOST))
    return rounds


def standard_normal(length: Draws, angle: Draws) -> Floats:
    """Normally distributed numbers from two independent draws each (Box and Muller 1958)."""
    return np.sqrt(-2 * np.log1p(-uniform(length))) * np.cos(2 * np.pi * uniform(angle))


def rand_augment(images: Tensor, rounds: Sequence[Round], fill: Tensor) -> Tensor:
    """The augmented images, uint8 [N, C, H, W] as given; `fill` (uint8 [C]) is put where geometry uncovers nothing."""
    images = images.clone()
    for each in rounds:
        geometric = np.isin(each.operations, [OPERATIONS.index(name) for name in GEOMETRIC])
        if geometric.any():
            chosen, rows = np.flatnonzero(geometric), _rows(geometric, images)
            matrices = [
                _matrix(OPERATIONS[each.operations[row]], each.amounts[row], *images.shape[2:]) for row in chosen
            ]
            images[rows] = image_ops.warped(images[rows], sent(torch.tensor(matrices), images.device), fill)
        for name, apply in POINTWISE.items():
            mask = each.operations == OPERATIONS.index(name)
            if mask.any():
                rows = _rows(mask, images)
                images[rows] = apply(images[rows], each.amounts[mask])
    return images


def _rows(mask: NDArray[np.bool_], images: Tensor) -> Tensor:
    return sent(torch.from_numpy(np.flatnonzero(mask)), images.device)


def _matrix(name: str, amount: float, height: int, width: int) -> list[list[float]]:
    """The map of a geometric operation from the output to the input, in pixels (see `image_ops.warped`)."""
    if name == "rotate":
        angle = math.radians(30 * amount)  # counter-clockwise, about the centre
        across, down, cosine, sine = width / 2, height / 2, math.cos(angle), math.sin(angle)
        return [
            [cosine, -sine, across - cosine * across + sine * down],
            [sine, cosine, down - sine * across - cosine * down],
        ]
    x = [1.0, 0.3 * amount if name == "shear_x" else 0.0, 0.45 * amount * width if name == "translate_x" else 0.0]
    y = [0.3 * amount if name == "shear_y" else 0.0, 1.0, 0.45 * amount * height if name == "translate_y" else 0.0]
    return [x, y]


def _factors(amounts: Floats) -> Floats:
    """Away from 1, which changes nothing, towards 0.1 or 1.9."""
    return np.maximum(0.1, 1 + 0.9 * amounts)


def _steps(amounts: Floats, most: int) -> Floats:
    """Whole steps of `most`, whatever the sign."""
    return np.floor(np.abs(amounts) * most)


def _with(operation: Callable[[Tensor, Tensor], Tensor], argument: Callable[[Floats], Floats]) -> Operation:
    """An operation that takes one argument a sample, made from the amounts."""

    def apply(images: Tensor, amounts: Floats) -> Tensor:
        return operation(images, sent(torch.from_numpy(argument(amounts)).float(), images.device))

    return apply


POINTWISE: Mapping[str, Operation] = {
    "autocontrast": lambda images, amounts: image_ops.autocontrasted(images),
    "equalise": lambda images, amounts: image_ops.equalised(images),
    "invert": lambda images, amounts: 255 - images,
    "posterise": _with(image_ops.posterised, lambda amounts: np.maximum(1, 4 - _steps(amounts, 4))),
    "solarise": _with(image_ops.solarised, lambda amounts: 256 - _steps(amounts, 256)),
    "lighten_shadows": _with(image_ops.lightened_shadows, lambda amounts: _steps(amounts, 110)),
    "colour": _with(image_ops.coloured, _factors),
    "contrast": _with(image_ops.contrasted, _factors),
    "brightness": _with(image_ops.brightened, _factors),
    "sharpness": _with(image_ops.sharpened, _factors),
}
