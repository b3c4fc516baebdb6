"""Photographs to measure with, made in memory: real edges and textures, so that decoders have their usual work."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

SIZE = (500, 375)
QUALITY = 90
GRAIN = 4.0  # grey levels; brings the files to the size that photographs of this size have


def photo(number: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG (quality 90, 4:2:0) of a view into one of scikit-learn's two photographs; the number chooses the view."""
    rng = np.random.default_rng(number)
    source = _sources()[number % 2]
    left, top = (int(rng.integers(0, have - want + 1)) for have, want in zip(source.size, size, strict=True))
    view = np.asarray(source.crop((left, top, left + size[0], top + size[1])), np.float32)
    pixels = view[:, :: rng.choice((-1, 1))] + rng.normal(0, GRAIN, view.shape)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=QUALITY, subsampling=2)
    return out.getvalue()


@lru_cache
def _sources() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_images  # takes a second to import

    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)
