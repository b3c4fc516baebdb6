"""Every image that users bring becomes 8-bit grey or RGB, or is named undecodable."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nml_ray.data.decode import UndecodableImage, decode_image, open_image, upright
from tests.data.photographs import photographs

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


def test_sixteen_bit_colour_keeps_its_upper_bytes():
    rows = b"".join(b"\0" + struct.pack(">6H", 0x0102, 0xFFFF, 0x8000, 0x00FF, 0x7F00, 0x1234) for _ in range(2))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    assert decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(parts), 3)[1].tolist() == [[1, 255, 128], [0, 127, 18]]


def by_reference(data, channels):
    """What PIL makes of it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"progressive": True}),
        ("RGB", {"quality": 30, "restart_marker_blocks": 3}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_jpegs_have_pils_own_pixels(mode, options, channels):
    image = Image.open(io.BytesIO(photographs(1)[0])).resize((201, 151)).convert(mode)
    data = encoded(image, "JPEG", **options)
    assert np.array_equal(decode_image(data, channels), by_reference(data, channels))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_exif_rotation(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RNG.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    data = encoded(image, kind, exif=exif)
    assert np.array_equal(decode_image(data, 3), by_reference(data, 3))
    assert decode_image(data, 3).shape[:2] == ((40, 20) if orientation in (5, 6, 7, 8) else (20, 40))
    assert open_image(data, 1).size == decode_image(data, 1).shape[1::-1]


def test_rotation_by_xmp():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.new("RGB", (40, 20)), "JPEG", xmp=xmp)
    assert decode_image(data, 3).shape == by_reference(data, 3).shape == (40, 20, 3)


@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_counts_as_none(block, kind):
    image = Image.fromarray(RNG.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    assert np.array_equal(decode_image(encoded(image, kind, exif=block), 3), decode_image(encoded(image, kind), 3))


def test_upright_is_a_view():
    pixels = np.zeros((2, 3, 1), np.uint8)
    assert all(np.shares_memory(pixels, upright(pixels, orientation)) for orientation in range(1, 9))


def test_huge():
    assert decode_image(encoded(Image.new("L", (30_000, 1_000), 77), "JPEG"), 1)[999, 29_999] == 77


def test_one_pixel():
    assert decode_image(encoded(Image.new("L", (1, 1), 9), "PNG"), 1).tolist() == [[[9]]]


@pytest.mark.parametrize("data", [b"", b"not an image", encoded(Image.new("RGB", (50, 50), 9), "PNG")[:60]])
def test_undecodable(data):
    with pytest.raises(UndecodableImage):
        decode_image(data, 3)


def test_the_reason_is_the_same_each_time():
    reasons = set()
    for _ in range(3):
        with pytest.raises(UndecodableImage) as caught:
            decode_image(b"junk", 3)
        reasons.add(str(caught.value))
    assert reasons == {"no image of a known format"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_cut_short_anywhere_is_undecodable(options):
    data = encoded(Image.open(io.BytesIO(photographs(1)[0])).resize((160, 120)), "JPEG", **options)
    for length in [*range(0, len(data) - 2, 97), len(data) - 2, len(data) - 1]:
        for _ in range(2):
            with pytest.raises(UndecodableImage):
                decode_image(data[:length], 3)


def test_damaged_codes_are_undecodable_where_the_decoder_notices():
    data = photographs(1)[0]
    with pytest.raises(UndecodableImage):
        decode_image(data[:30_000] + b"\xff\xd9" + data[30_002:], 3)  # ends in the middle
    # Bytes too many are common in the wild and harm nothing: PIL decodes them, and so do we.
    padded = data[:-2] + b"ab" + data[-2:]
    assert np.array_equal(decode_image(padded, 3), decode_image(data, 3))


def test_flipped_bits_give_the_same_verdict_each_time():
    rng = np.random.default_rng(1)
    image = Image.open(io.BytesIO(photographs(1)[0])).resize((160, 120))
    for data in (encoded(image, kind, **options) for kind, options in FLIPPED):
        verdicts = set()
        for place in rng.integers(2, len(data), 100):
            flipped = data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
            once = verdict(flipped)
            assert once == verdict(flipped)
            verdicts.add(once)
        assert len(verdicts) > 1


FLIPPED = [("JPEG", {"restart_marker_blocks": 2}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]


def verdict(data):
    try:
        return decode_image(data, 3).tobytes()
    except UndecodableImage as error:
        return str(error)


def test_a_header_that_claims_too_much_is_refused():
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(UndecodableImage, match="pixels"):
        decode_image(bytes(data), 3)


def test_formats_that_start_programs_are_refused():
    with pytest.raises(UndecodableImage):
        decode_image(encoded(Image.new("RGB", (8, 8)), "EPS"), 3)


def test_decompression_bomb_is_refused():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(UndecodableImage):
        decode_image(data, 1)
