"""Augmentation drawn per sample from keyed hashes, so that it depends on (seed, key, epoch, repeat) alone."""

import math
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from nml_ray.config.settings import Settings
from nml_ray.data.decode import PixelArray
from nml_ray.data.draw import draw, uniform

CROP_TRIES = 10  # as torchvision's RandomResizedCrop, whose law of areas and ratios this reproduces


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


def flips(seed: int, hashes: NDArray[np.uint64], epoch: int, repeat: int = 0) -> NDArray[np.bool_]:
    """Which samples are mirrored."""
    mirrored: NDArray[np.bool_] = (draw("flip", seed, hashes, epoch, repeat) & np.uint64(1)).astype(bool)
    return mirrored


def shift(
    images: PixelArray,
    augmentation: ShiftAugmentation,
    seed: int,
    hashes: NDArray[np.uint64],
    epoch: int,
    repeat: int = 0,
) -> PixelArray:
    """Shift each image of [N, H, W, C] by its own keyed offset."""
    reach = augmentation.pixels
    count, height, width, _ = images.shape
    pad = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(images, pad, constant_values=augmentation.fill)
    places = np.uint64(2 * reach + 1)
    down = (draw("shift-down", seed, hashes, epoch, repeat) % places).astype(np.int64)
    right = (draw("shift-right", seed, hashes, epoch, repeat) % places).astype(np.int64)
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def crop_box(
    width: int,
    height: int,
    augmentation: ResizedCropAugmentation,
    seed: int,
    key_hash: np.uint64,
    epoch: int,
    repeat: int = 0,
) -> tuple[int, int, int, int]:
    """The keyed crop box (left, top, right, bottom) of one image of the given size, in pixels."""
    own = np.array([key_hash], np.uint64)
    low, high = augmentation.scale
    first, last = (math.log(value) for value in augmentation.aspect)
    for k in range(CROP_TRIES):
        area, aspect, across, down = (
            float(uniform(draw(tag, seed, own, epoch, repeat, k))[0])
            for tag in ("crop-area", "crop-aspect", "crop-across", "crop-down")
        )
        pixels = width * height * (low + (high - low) * area)
        ratio = math.exp(first + (last - first) * aspect)
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(across * (width - box_width + 1))
            top = int(down * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    return central_box(width, height, augmentation.aspect)


def central_box(width: int, height: int, aspect: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest central box within the range of aspect ratios."""
    box_width = min(width, round(height * aspect[1]))
    box_height = min(height, round(width / aspect[0]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def resized(image: Image.Image, box: tuple[int, int, int, int], size: int) -> PixelArray:
    """The box of a PIL image as uint8 [size, size, C], bicubic with antialiasing; as it is when it fits already."""
    if box != (0, 0, size, size) or image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
