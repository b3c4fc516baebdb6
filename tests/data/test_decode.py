"""Every image that users bring becomes 8-bit grey or RGB, or is named undecodable."""

import io

import numpy as np
import pytest
from PIL import Image

from nml_ray.data.decode import UndecodableImage, decode_image

RNG = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats(kind, channels):
    image = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    pixels = decode_image(encoded(image, kind), channels)
    assert pixels.shape == (20, 30, channels)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("CMYK", "JPEG")]
)
def test_modes(mode, kind):
    image = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    assert decode_image(encoded(image, kind), 3).shape == (8, 8, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert decode_image(encoded(Image.fromarray(values), "PNG"), 1)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_exif_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert decode_image(data, 3).shape == (40, 20, 3)


def test_one_pixel():
    assert decode_image(encoded(Image.new("L", (1, 1), 9), "PNG"), 1).tolist() == [[[9]]]


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(Image.new("RGB", (50, 50), 9), "PNG")[:60]])
def test_undecodable(data):
    with pytest.raises(UndecodableImage):
        decode_image(data, 3)


def test_truncated_jpeg():
    image = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(UndecodableImage):
        decode_image(encoded(image, "JPEG")[:-800], 3)


def test_decompression_bomb_is_refused():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(UndecodableImage):
        decode_image(data, 1)
