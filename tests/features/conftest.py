"""A tiny data set of two splits, and two tiny encoders, made anew for each test that asks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nml_ray.data.shards import Sample, write_shards
from nml_ray.features.plan import EncoderPlan, ExtractionPlan
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, write_encoder

ENCODERS = {
    "grey": EncoderSettings(name="small_resnet", width=2, channels=1, size=16),
    "colour": EncoderSettings(name="small_resnet", width=3, channels=3, size=24),
}


def png(number: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path) -> Path:
    """`train`: 23 samples in 3 tars, `test`: 5 in 1."""
    for split, count, first in (("train", 23, 0), ("test", 5, 100)):
        samples = [Sample(f"{split}/{n}", png(n), "png", label=n % 3) for n in range(first, first + count)]
        write_shards(samples, tmp_path / "images" / split, samples_per_shard=9, classes=("a", "b", "c"))
    return tmp_path / "images"


@pytest.fixture
def encoders(tmp_path) -> dict[str, Path]:
    """Directories of two encoders as pre-training leaves them."""
    directories = {name: tmp_path / "encoders" / name for name in ENCODERS}
    for name, directory in directories.items():
        directory.mkdir(parents=True)
        write_encoder(directory, build_encoder(ENCODERS[name], seed=1), ENCODERS[name])
    return directories


@pytest.fixture
def make_plan(images, encoders, tmp_path):
    """A plan for the two encoders, each with an attempt directory of its own below `name`."""

    def make(name: str = "run", use=("grey", "colour"), settings=None, **options) -> ExtractionPlan:
        plans = []
        for encoder in use:
            attempt = tmp_path / name / encoder
            attempt.mkdir(parents=True)
            plans.append(EncoderPlan(encoder, str(encoders[encoder]), str(attempt)))
        described = {"batch": 4, **(settings or {})}
        return ExtractionPlan(str(images), described, ("raw", "official"), tuple(plans), **options)

    return make
