"""Images made smaller once, before training."""

import io
from dataclasses import dataclass

from PIL import Image

from nml_ray.data.decode import UndecodableImage, open_image

_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Resize:
    """To which short side, in pixels, and at which JPEG quality (1 to 95, as PIL counts it)."""

    short_side: int
    quality: int = 95


def resized(data: bytes, resize: Resize) -> bytes | None:
    """The image as a JPEG of the wanted short side; None where it is no larger than that, to be kept as it is.

    Bicubic, antialiased, upright; grey stays grey, everything else becomes RGB.

    Raises:
        UndecodableImage: as `open_image`.
    """
    try:
        with Image.open(io.BytesIO(data)) as header:
            channels, short = 1 if header.mode in _GREY else 3, min(header.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UndecodableImage(str(error)) from error
    image = open_image(data, channels)
    if short <= resize.short_side:
        return None
    size = [max(1, round(side * resize.short_side / short)) for side in image.size]
    out = io.BytesIO()
    image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(out, "JPEG", quality=resize.quality)
    return out.getvalue()
