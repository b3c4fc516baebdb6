"""A job on an object store makes what it makes of local data, to the bit; what cannot work is told when planned."""

import json
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.execute import plan_job, read_run
from nml_ray.study.job import read_job
from tests.object_store import Bucket, Fault
from tests.small_images import picture

pytestmark = pytest.mark.long

JOB = """
name: remote
data:
  shards: {{pretrain: "{at}/pretrain", train: "{at}/train", validation: "{at}/train", test: "{at}/train"}}
noise: {{ratios: [0.25]}}
pretrain:
  epochs: 2
  batch: 16
  microbatch: 8
  order: {order}
  encoder: {{name: small_resnet, width: 4, size: 16}}
extract: {{splits: [train], batch: 16}}
run: {{storage: "{storage}", shard_cache: "{cache}", shard_cache_size: "{size}"}}
"""


@pytest.fixture
def local(tmp_path):
    for split, first in (("pretrain", 0), ("train", 100)):
        samples = [Sample(f"{split}{i}", picture(first + i, "png", (20, 18)), "png", i % 4) for i in range(48)]
        write_shards(samples, tmp_path / "local" / split, samples_per_shard=12, classes=["a", "b", "c", "d"])
    return tmp_path / "local"


def job(tmp_path: Path, at: object, name: str, order: str = "lanes", size: str = "50MB") -> Path:
    text = JOB.format(at=at, storage=tmp_path / name, cache=tmp_path / "cache", order=order, size=size)
    (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path / f"{name}.yaml"


def left(storage: Path, kind: str, ending: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(storage.glob(f"{kind}/*/attempt-*/**/*{ending}"))]


@pytest.mark.slow  # two whole studies
def test_the_same_weights_features_and_audit(bucket: Bucket, local, tmp_path, capsys):
    url = bucket.put(local, "data")
    for at, name in ((local, "here"), (url, "there")):
        assert call(["run", str(job(tmp_path, at, name)), "--inline"]) == 0
    here, there = tmp_path / "here", tmp_path / "there"
    for kind, ending in (("pretrain", "encoder.safetensors"), ("extract", ".features.arrow"), ("ledger", ".parquet")):
        made = left(there, kind, ending)
        assert made and made == left(here, kind, ending)
    assert bucket.faults.count("GET", ".tar") == 8  # four of each split, over two epochs and an extraction
    (links,) = there.glob("studies/remote/history/*/given/shards/pretrain")
    assert json.loads((links / "pretrain.link.json").read_text())["url"] == f"{url}/pretrain"
    capsys.readouterr()
    assert call(["audit", str(there / "studies/remote")]) == 0
    assert call(["plan", str(job(tmp_path, url, "there"))]) == 0
    assert "to do" not in capsys.readouterr().out
    assert read_run(there / "studies/remote").run.shard_cache == str(tmp_path / "cache")


def test_what_cannot_work_is_told_when_it_is_planned(bucket: Bucket, local, tmp_path):
    url = bucket.put(local, "data")

    def planned(at: object, **given: str) -> None:
        plan_job(read_job(job(tmp_path, at, "planned", **given))[0])

    planned(url, order="full")
    message = r"pretrain\.order: a full shuffle of .* cache of 5 kB; expected `order: lanes`, or run\.shard_cache_size"
    with pytest.raises(UserError, match=message):
        planned(url, order="full", size="5kB")
    planned(url, order="lanes", size="5kB")
    with pytest.raises(UserError, match="'a lot' is no size"):
        planned(url, size="a lot")
    with pytest.raises(UserError, match=r"dataset\.json: is missing; .*nml-ray data index s3://"):
        planned(bucket.at("nothing"))
    with pytest.raises(UserError, match=r"data\.shards\.pretrain: 'pipe:' would run a shell command"):
        planned("pipe:cat x")
    with pytest.raises(UserError, match=r"data\.shards\.pretrain: s3:// URL with credentials in it"):
        planned(f"s3://key:hidden@{bucket.name}/data")
    bucket.faults.spoil = lambda method, path: Fault(status=403)
    with pytest.raises(UserError, match="cannot be reached with these credentials"):
        planned(url)
