"""Jobs with encoders that are there already: what is hashed of them, and one run from photographs to heads."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from nml_ray.config.document import parse
from nml_ray.config.errors import UserError
from nml_ray.config.validate import validate
from nml_ray.data.shards import Sample, write_shards
from nml_ray.features.store import read_split
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import build_encoder, write_encoder
from nml_ray.study.execute import execute
from nml_ray.study.expand import expand
from nml_ray.study.graph import ordered
from nml_ray.study.job import Job
from nml_ray.study.progress import display
from nml_ray.study.stage import digests
from tests.small_images import picture

SMALL = EncoderSettings(name="small_resnet", width=2, channels=3, size=16)


@pytest.fixture
def images(tmp_path) -> Path:
    """12 pictures of three classes a split; of train one is spoilt."""
    for split in ("train", "validation", "test"):
        samples = [Sample(f"{split}/{n}", picture(n, "png"), "png", label=n % 3) for n in range(12)]
        if split == "train":
            samples[5] = Sample("train/5", b"\x89PNG spoilt", "png", label=2)
        write_shards(samples, tmp_path / "images" / split, samples_per_shard=7, classes=("a", "b", "c"))
    return tmp_path / "images"


@pytest.fixture
def trained(tmp_path) -> Path:
    directory = tmp_path / "trained"
    directory.mkdir()
    write_encoder(directory, build_encoder(SMALL, seed=2), SMALL)
    return directory


def job(images: Path, encoders: list[dict[str, object]], storage: Path, **more: object) -> Job:
    shards = {split: str(images / split) for split in ("train", "validation", "test")}
    plain = {"name": "given", "data": {"shards": shards}, "encoders": encoders, "run": {"storage": str(storage)}}
    text = yaml.safe_dump({"extract": {"batch": 5}, **plain, **more})
    return validate(Job, parse(text, "job.yaml"))


def test_a_checkpoint_is_hashed_by_what_it_holds(images, trained, tmp_path):
    def stages(directory: Path) -> dict[str, str]:
        study = expand(job(images, [{"name": "checkpoint", "weights": str(directory)}], tmp_path))
        return digests(ordered(study.stages))

    before = stages(trained)
    assert "encoder/checkpoint" in before
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    assert stages(moved) == before
    write_encoder(moved, build_encoder(SMALL, seed=3), SMALL)
    changed = {name for name, digest in stages(moved).items() if digest != before[name]}
    assert changed == {"weights/checkpoint", "encoder/checkpoint", "extract/checkpoint"}
    with pytest.raises(UserError, match=r"encoder\.weights: .*gone: holds no encoder\.json"):
        stages(tmp_path / "gone")


@pytest.mark.long
def test_from_pictures_to_heads_of_two_views(images, trained, tmp_path):
    encoders = [{"name": "checkpoint", "weights": str(trained)}]
    more = {
        "extract": {"batch": 5, "views": 3, "augmentation": {"kind": "resized_crop"}, "undecodable": "skip"},
        "spectrum": {"per_class": True},
        "heads": {
            "seeds": [0],
            "sweep": [
                {"head": "linear_probe", "fixed": {"epochs": 2}},
                {"head": "nmtune", "preset": "official", "fixed": {"epochs": 2, "batch": 4}},
            ],
        },
    }
    done = execute(job(images, encoders, tmp_path / "runs", **more), display(), inline=True)
    assert not done.outcome.failures
    extracted = done.outcome.artifacts["extract/checkpoint"]
    assert extracted.record["samples"] == {"train": 11, "validation": 12, "test": 12}
    assert extracted.record["undecodable"]["train"]["count"] == 1
    features = read_split(extracted.path, "train")
    assert features.views is not None and features.views.shape == (3, 11, 16)
    assert "train/5" not in features.keys
    assert not np.allclose(features.views[0], features.views[1])
    measures = pq.read_table(done.outcome.artifacts["spectrum/checkpoint"].path / "measures.parquet")
    assert set(measures["class"].to_pylist()) == {None, 0, 1, 2}
    assert (done.directory / "report.html").exists()


def test_what_is_there_already_is_not_trained():
    encoder = {"name": "transformers:x", "pooling": "cls"}
    text = yaml.safe_dump({"name": "p", "data": {"icons": {}}, "pretrain": {"encoder": encoder}})
    with pytest.raises(UserError, match=r"job\.yaml.*transformers:x is there already .* section 'encoders'"):
        validate(Job, parse(text, "job.yaml"))
