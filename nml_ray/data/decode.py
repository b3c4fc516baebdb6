"""Bytes of an image member to pixels: one decoder, and so one verdict, for training, extraction and `data verify`.

JPEG goes through libjpeg-turbo with the exact integer DCT and smooth chroma upsampling, which gives PIL's own pixels in
less time. PIL takes everything else: PNG, WebP, CMYK, odd chroma sampling.
"""

import io
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

PixelArray = NDArray[np.uint8]

MOST_PIXELS = 2 * 89_478_485  # PIL's limit against decompression bombs
_PLUGINS = (  # none that starts a program (as PIL's EPS does) or asks the network
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
_FORMATS = [plugin.format for plugin in _PLUGINS]
_ORIENTATION = 0x0112
_DAMAGE = (  # libjpeg's warnings of coded data that is lost; of the others PIL is the judge
    "Premature end of JPEG file",
    "premature end of data segment",
    "bad Huffman code",
    "bad arithmetic code",
    "instead of RST",
)


class UndecodableImage(Exception):
    """The bytes are not an image that can be decoded. It repeats exactly, so policy may skip the sample."""


def decode_image(data: bytes, channels: int) -> PixelArray:
    """Decode JPEG, PNG or WebP to uint8 [H, W, channels], turned upright by its EXIF tag (then a strided view).

    CMYK, palette and alpha images are converted to grey (1 channel) or RGB (3); 16-bit grey is scaled to 8 bits (PIL's
    own conversion would clip it). A damaged EXIF block counts as none.

    Raises:
        UndecodableImage: truncated, damaged or unknown data, or more than twice PIL's limit of 89 million pixels.
    """
    pixels = _by_turbo(data, channels) if data[:3] == b"\xff\xd8\xff" else None
    if pixels is None:
        return _by_pil(data, channels)
    if pixels.shape[2] != channels:
        pixels = _as_array(Image.fromarray(pixels), channels)
    return upright(pixels, _jpeg_orientation(data))


def open_image(data: bytes, channels: int) -> Image.Image:
    """As `decode_image`, as a PIL image of mode L (1 channel) or RGB (3)."""
    pixels = np.ascontiguousarray(decode_image(data, channels))
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def upright(pixels: PixelArray, orientation: int) -> PixelArray:
    """A view of [H, W, C] turned as EXIF's orientation (1 to 8; others count as 1) asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)  # 5 as it is
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _by_turbo(data: bytes, channels: int) -> PixelArray | None:
    """Pixels of a JPEG as it lies, [H, W, 1 or 3]: grey only where it is stored and asked for.

    None where PIL has to decode it, or to refuse it.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr", "RGB"):
            return None
        _check_size(width, height)
        grey = colours == "Gray" and channels == 1
        return cast(PixelArray, simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB"))
    except ValueError as error:
        if any(words in str(error) for words in _DAMAGE):
            raise UndecodableImage(str(error)) from error
        return None


def _by_pil(data: bytes, channels: int) -> PixelArray:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_size(image.width, image.height)
        image.load()
        return upright(_as_array(image, channels), _orientation(lambda: image))
    except (MemoryError, UndecodableImage):
        raise
    except UnidentifiedImageError as error:  # its own text holds an address in memory, another one each time
        raise UndecodableImage("no image of a known format") from error
    except Exception as error:  # whatever a plugin stumbles on, it stumbles on it again
        raise UndecodableImage(str(error) or type(error).__name__) from error


def _as_array(image: Image.Image, channels: int) -> PixelArray:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UndecodableImage(f"{width} x {height} is more than {MOST_PIXELS:,} pixels")


def _jpeg_orientation(data: bytes) -> int:
    """The orientation of a JPEG; PIL's parser is only asked where there is something to parse."""
    if any(b"Exif\0\0" in segment[:6] or b"tiff:Orientation" in segment for segment in _application_data(data)):
        return _orientation(lambda: Image.open(io.BytesIO(data), formats=["JPEG"]))
    return 1


def _orientation(opened: Callable[[], Image.Image]) -> int:
    try:
        return int(opened().getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1


def _application_data(data: bytes) -> Iterator[bytes]:
    """The contents of a JPEG's APP1 segments (EXIF, XMP), which come before its first scan."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xE1:
            yield data[place + 4 : place + 2 + length]
        place += 2 + length
