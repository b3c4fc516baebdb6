"""From an image member's bytes to what an encoder is trained on."""

from collections.abc import Callable

import numpy as np

from nml_ray.data.augment import Box
from nml_ray.data.decode import PixelArray, decode_image
from nml_ray.data.resample import resample, write_mirrored


def train_image(
    data: bytes,
    *,
    size: int,
    channels: int = 3,
    box: Callable[[int, int], Box] | None = None,
    mirror: bool = False,
) -> PixelArray:
    """Decode, crop, resize, mirror: uint8 [size, size, channels].

    Args:
        data: JPEG, PNG or WebP.
        size: of the result; an image or box that has it already is not resampled.
        channels: 1 or 3.
        box: the crop box for an upright image of (width, height); None takes the whole image.
        mirror: exchange left and right.

    Raises:
        UndecodableImage: as `decode_image`.
    """
    out = np.empty((size, size, channels), np.uint8)
    write_crop(out, decode_image(data, channels), box, mirror)
    return out


def write_crop(out: PixelArray, pixels: PixelArray, box: Callable[[int, int], Box] | None, mirror: bool) -> None:
    """The same from decoded pixels [H, W, C], written into `out`, uint8 [size, size, C]."""
    height, width = pixels.shape[:2]
    crop = resample(pixels, box(width, height) if box else (0, 0, width, height), len(out))
    if mirror:
        write_mirrored(out, crop)
    else:
        out[:] = crop
