"""A tiny data set of tars, and group plans over it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nml_ray.data.config import NoiseSettings
from nml_ray.data.shards import Sample, write_shards
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.plan import ArmPlan, GroupPlan
from nml_ray.storage.artifact import Store

CLASSES = [f"class-{number}" for number in range(5)]
WORDS = ("bell", "ship", "lamp", "tree", "coin")  # what the captions call the classes


def tiny_samples(count: int, broken: tuple[int, ...] = ()):
    rng = np.random.default_rng(0)
    for number in range(count):
        label = number % len(CLASSES)
        pixels = rng.integers(0, 100, (12, 12), dtype=np.uint8)
        pixels[2 * label : 2 * label + 2] += 120
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        data = b"broken" if number in broken else buffer.getvalue()
        caption = f"{WORDS[label]} in room {number % 7}"
        yield Sample(key=f"sample-{number:04d}", image=data, extension="png", label=label, caption=caption)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    write_shards(tiny_samples(203), directory, samples_per_shard=60, classes=CLASSES)
    return directory


def group_plan(root: Path, data: Path, ratios=("0", "0.3"), kind="symmetric", **settings) -> GroupPlan:
    """A plan over tiny data: arms by ratio, each with a new attempt of its own in the store at `root`."""
    pretrain = PretrainSettings.model_validate(
        {
            "encoder": {"width": 4, "channels": 1, "size": 12},
            "epochs": 3,
            "batch": 32,
            "microbatch": 16,
            "augmentation": {"kind": "shift", "pixels": 1},
            **settings,
        }
    )
    arms = []
    for arm in NoiseSettings(kind=kind, ratios=ratios, seed=3).arms():
        attempt = Store(root).attempt("pretrain", f"arm-{arm.ratio}")
        arms.append(ArmPlan(arm.name, arm.hashed(), str(attempt.path), tuple(map(str, attempt.earlier))))
    plan = GroupPlan(str(data), pretrain.model_dump(mode="json"), seed=1, threads=1, arms=tuple(arms))
    return replace(plan, decode_threads=2)


@pytest.fixture
def make_plan(tiny_data, tmp_path):
    """Plans over the tiny data, in a store of the given name."""

    def make(ratios=("0", "0.3"), store="store", data=None, **settings) -> GroupPlan:
        return group_plan(tmp_path / store, data or tiny_data, ratios, **settings)

    return make
