"""Photographs to test with: views of the two that scikit-learn ships, as JPEGs of 500 x 375 at quality 90."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@lru_cache
def photographs(count: int) -> tuple[bytes, ...]:
    """The first views: turned a little, cropped, brighter or darker, with some sensor noise."""
    rng = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return tuple(_view(sources[number % 2], rng) for number in range(count))


def _view(image: Image.Image, rng: np.random.Generator) -> bytes:
    width = int(rng.integers(360, 560))
    height = width * 3 // 4
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    turned = image.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    view = turned.resize((500, 375), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    pixels = np.asarray(view) * rng.uniform(0.8, 1.1) + rng.normal(0, 5, (375, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
