"""What making photographs smaller once does to the pixels that are fed: as `nml-ray data shard --help` states it."""

import io

import numpy as np
from PIL import Image

from nml_ray.data.photo import photo
from nml_ray.data.resize import Resize, resized


def centre(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    side = min(image.size) * 224 / 256
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box), float)


def test_shrunk_photographs_are_close_to_the_originals_at_224() -> None:
    originals = [photo(number) for number in range(12)]
    smaller = [resized(data, Resize(256, 90)) for data in originals]
    assert 2 < sum(map(len, originals)) / sum(len(data) for data in smaller if data) < 3
    pairs = [(centre(one), centre(other)) for one, other in zip(originals, smaller, strict=True) if other]
    decibels = [10 * np.log10(255**2 / np.mean((one - other) ** 2)) for one, other in pairs]
    assert 29 < np.median(decibels) < 37
    assert abs(np.mean([other.mean() - one.mean() for one, other in pairs])) < 0.1
