"""An icon's drawing to a 32 x 32 grey PNG (needs the optional package resvg_py)."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32
"""Side of every image in pixels."""

BLANK_CONTRAST = 64
"""An image whose grey levels differ by less shows nothing."""


def svg_of(icon: Mapping[str, Any], family: Mapping[str, Any]) -> str:
    """The SVG text of one icon of an Iconify JSON file, black where the icon takes the text's colour."""

    def field(name: str, default: float) -> float:
        return float(icon.get(name, family.get(name, default)))

    left, top, width, height = field("left", 0), field("top", 0), field("width", 16), field("height", 16)
    body = icon["body"].replace("currentColor", "#000")
    turns = int(icon.get("rotate", 0)) % 4
    flips = (-1 if icon.get("hFlip") else 1, -1 if icon.get("vFlip") else 1)
    if turns or flips != (1, 1):
        x, y = left + width / 2, top + height / 2
        body = (
            f'<g transform="rotate({90 * turns} {x} {y}) translate({x} {y}) '
            f'scale({flips[0]} {flips[1]}) translate({-x} {-y})">{body}</g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIZE}" '
        f'height="{SIZE}" viewBox="{left} {top} {width} {height}" color="#000">{body}</svg>'
    )


def rasterise(svg: str) -> NDArray[np.uint8]:
    """Grey levels uint8 [32, 32] of a drawing on white, 0 = black.

    :raises ValueError: the drawing cannot be rendered.
    """
    import resvg_py  # type: ignore[import-not-found,unused-ignore]

    data = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff", skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(data))) as image:
        return np.asarray(image.convert("RGB").convert("L"))


def is_blank(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image shows next to nothing."""
    return int(pixels.max()) - int(pixels.min()) < BLANK_CONTRAST


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """Grey levels uint8 [32, 32] as an optimised PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    """Grey levels uint8 [32, 32] of one of the data set's PNGs."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)
