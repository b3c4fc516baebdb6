"""Augmentation drawn per sample from keyed hashes, so that it depends on (seed, key, epoch, repeat) alone."""

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nml_ray.config.settings import Settings
from nml_ray.data.decode import PixelArray
from nml_ray.data.draw import draw, uniform

CROP_TRIES = 10  # as torchvision's RandomResizedCrop, whose law of areas and ratios this reproduces
CROP_TAGS = ("crop-area", "crop-aspect", "crop-across", "crop-down")

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; the right column and the bottom row lie outside."""
Repeats = int | NDArray[np.int64]
"""Which copy of its sample each is, where an epoch feeds a sample several times: the field `repeat` of a draw."""


class ShiftAugmentation(Settings):
    """For small images already at their final size: a random shift (zero padded) and a horizontal flip."""

    kind: Literal["shift"] = "shift"
    """Shifts and flips."""
    pixels: Annotated[int, Field(ge=0)] = 3
    """Largest shift in each direction, in pixels."""
    flip: bool = True
    """Mirror half of the samples."""
    fill: Annotated[int, Field(ge=0, le=255)] = 255
    """Grey level of what the shift uncovers."""


class ResizedCropAugmentation(Settings):
    """Inception-style crop: a random box resized to the encoder's size (bicubic, antialiased), and a flip."""

    kind: Literal["resized_crop"] = "resized_crop"
    """Random resized crops and flips."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that the box covers, lowest and highest."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the box, lowest and highest."""
    flip: bool = True
    """Mirror half of the samples."""


Augmentation = Annotated[ShiftAugmentation | ResizedCropAugmentation, Field(discriminator="kind")]


def flips(seed: int, hashes: NDArray[np.uint64], epoch: int, repeats: Repeats = 0) -> NDArray[np.bool_]:
    """Which samples are mirrored."""
    mirrored: NDArray[np.bool_] = (draw("flip", seed, hashes, epoch, repeats) & np.uint64(1)).astype(bool)
    return mirrored


def shift(
    images: PixelArray,
    augmentation: ShiftAugmentation,
    seed: int,
    hashes: NDArray[np.uint64],
    epoch: int,
    repeats: Repeats = 0,
) -> PixelArray:
    """Shift each image of [N, H, W, C] by its own keyed offset."""
    reach = augmentation.pixels
    count, height, width, _ = images.shape
    pad = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(images, pad, constant_values=augmentation.fill)
    places = np.uint64(2 * reach + 1)
    down = (draw("shift-down", seed, hashes, epoch, repeats) % places).astype(np.int64)
    right = (draw("shift-right", seed, hashes, epoch, repeats) % places).astype(np.int64)
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


class CropDraws:
    """The keyed crop boxes of some samples: drawn for all of them at once, a try at a time as tries are needed."""

    def __init__(
        self,
        augmentation: ResizedCropAugmentation,
        seed: int,
        hashes: NDArray[np.uint64],
        epoch: int,
        repeats: Repeats = 0,
    ) -> None:
        self._augmentation = augmentation
        self._key = seed, hashes, epoch, repeats
        self._tries: list[list[list[float]]] = []  # by try: area, aspect, across, down of each sample

    def box(self, row: int, width: int, height: int) -> Box:
        """The crop box of sample `row`, whose upright image has the given size, in pixels."""
        low, high = self._augmentation.scale
        first, last = (math.log(value) for value in self._augmentation.aspect)
        for number in range(CROP_TRIES):
            area, aspect, across, down = self._uniforms(number)[row]
            pixels = width * height * (low + (high - low) * area)
            ratio = math.exp(first + (last - first) * aspect)
            box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < box_width <= width and 0 < box_height <= height:
                left = int(across * (width - box_width + 1))
                top = int(down * (height - box_height + 1))
                return left, top, left + box_width, top + box_height
        return central_box(width, height, self._augmentation.aspect)

    def _uniforms(self, number: int) -> list[list[float]]:
        while number >= len(self._tries):
            seed, hashes, epoch, repeats = self._key
            draws = [draw(tag, seed, hashes, epoch, repeats, len(self._tries)) for tag in CROP_TAGS]
            self._tries.append(np.stack([uniform(drawn) for drawn in draws], axis=1).tolist())
        return self._tries[number]


def central_box(width: int, height: int, aspect: tuple[float, float]) -> Box:
    """The largest central box within the range of aspect ratios."""
    box_width = min(width, round(height * aspect[1]))
    box_height = min(height, round(width / aspect[0]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height
