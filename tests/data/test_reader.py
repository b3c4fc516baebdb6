"""Reading errors: what may pass is tried again, what cannot is told."""

import errno

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data import reader
from nml_ray.data.dataset import Dataset
from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    samples = [Sample(f"key-{number}", b"image", "png", 0) for number in range(5)]
    write_shards(samples, tmp_path, samples_per_shard=5, classes=["a"])
    return Dataset.open(tmp_path)


@pytest.mark.parametrize(("failures", "survives"), [(2, True), (3, True), (4, False)])
def test_a_read_error_is_retried(dataset, monkeypatch, failures, survives):
    mapped, left = reader._mapped, [failures]

    def failing(path):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "a dropped request")
        return mapped(path)

    monkeypatch.setattr(reader, "_mapped", failing)
    monkeypatch.setattr(reader, "RETRY_AFTER", (0, 0, 0))
    if survives:
        assert ShardReader(dataset).read(0) == b"image"
    else:
        with pytest.raises(OSError, match="a dropped request"):
            ShardReader(dataset).read(0)


def test_a_tar_that_is_gone_or_changed_is_told(dataset):
    path = dataset.shard_paths[0]
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(UserError, match="has 1024 bytes"):
        ShardReader(dataset).read(0)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        ShardReader(dataset).read(0)
