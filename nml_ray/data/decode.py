"""Bytes of an image member to pixels."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

PixelArray = NDArray[np.uint8]


class UndecodableImage(Exception):
    """The bytes are not an image that can be decoded. It repeats exactly, so policy may skip the sample."""


def open_image(data: bytes, channels: int) -> Image.Image:
    """A decoded PIL image of mode L (1 channel) or RGB (3), turned upright by its EXIF tag.

    CMYK, palette and alpha images are converted; 16-bit grey is scaled to 8 bits (PIL's own conversion would clip it).

    Raises:
        UndecodableImage: truncated, corrupt or unknown data, or more than twice PIL's limit of 89 million pixels.
    """
    try:
        opened = Image.open(io.BytesIO(data))
        opened.load()
        image: Image.Image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UndecodableImage(str(error)) from error
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")


def decode_image(data: bytes, channels: int) -> PixelArray:
    """Decode JPEG, PNG or WebP to uint8 [H, W, channels]. Raises `UndecodableImage`."""
    pixels = np.asarray(open_image(data, channels))
    return pixels[:, :, None] if channels == 1 else pixels
