"""Reading errors: what may pass is tried again, what cannot is told."""

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from nml_ray.config.errors import UserError
from nml_ray.data import reader
from nml_ray.data.dataset import Dataset
from nml_ray.data.index import index_path
from nml_ray.data.indexing import index_directory
from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    samples = [Sample(f"key-{number}", b"image", "png", 0) for number in range(5)]
    write_shards(samples, tmp_path, samples_per_shard=5, classes=["a"])
    return Dataset.open(tmp_path)


@pytest.mark.parametrize(("failures", "survives"), [(2, True), (3, True), (4, False)])
def test_a_read_error_is_retried(dataset, monkeypatch, failures, survives):
    pread, left = os.pread, [failures]

    def failing(*place):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "a dropped request")
        return pread(*place)

    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(reader, "RETRY_AFTER", (0, 0, 0))
    if survives:
        assert ShardReader(dataset).read(0) == b"image"
    else:
        with pytest.raises(OSError, match="a dropped request"):
            ShardReader(dataset).read(0)


def test_a_tar_that_is_gone_or_changed_is_told(dataset):
    path = dataset.shard_location(0).local
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(UserError, match="has 1024 bytes"):
        ShardReader(dataset).read(0)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        ShardReader(dataset).read(0)


def test_a_tar_cut_short_while_it_is_read_is_told(dataset):
    reader = ShardReader(dataset)
    assert reader.read(4) == b"image"
    os.truncate(dataset.shard_location(0).local, 2048)  # in place: a mapping of it would end this process
    assert reader.read(0) == b"image"
    with pytest.raises(UserError, match="ends before byte"):
        reader.read(4)


def test_one_read_gives_the_image_and_the_key_of_its_header(dataset):
    reader = ShardReader(dataset)
    for number in range(5):
        data, found = reader.read_hashed(number)
        assert bytes(data) == b"image" and found == dataset.key_hash[number] == reader.header_hash(number)
    path = dataset.shard_location(0).local
    whole = bytearray(path.read_bytes())
    place = whole.index(b"key-3.png")
    whole[place : place + 9] = b"key-4.png"
    path.write_bytes(whole)
    with pytest.raises(UserError, match="no valid header at byte"):  # its checksum is that of the other name
        reader.read_hashed(next(number for number in range(5) if dataset.key(number) == "key-3"))


def test_an_index_older_than_its_tar_is_refused_where_the_tar_holds_something_else(dataset):
    tar = dataset.shard_location(0).local
    whole = tar.read_bytes()
    tar.write_bytes(whole.replace(b"image", b"other"))
    os.utime(tar, ns=(index_path(tar).stat().st_mtime_ns + 1,) * 2)
    with pytest.raises(UserError, match=r"shard-000000.tar: was changed after it was indexed.*nml-ray data index"):
        Dataset.open(tar.parent)
    index_directory(tar.parent)
    assert len(Dataset.open(tar.parent)) == 5


def test_threads_that_open_and_close_the_same_tars(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "RETRY_AFTER", ())  # a descriptor that was closed too early is no passing error
    samples = [Sample(f"key-{number}", b"image %03d" % number, "png", 0) for number in range(40)]
    write_shards(samples, tmp_path, samples_per_shard=4, classes=["a"])
    dataset = Dataset.open(tmp_path)
    expected = [b"image %03d" % int(dataset.key(number)[4:]) for number in range(40)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            reading = ShardReader(dataset, open_files=2)
            with ThreadPoolExecutor(6) as pool:
                assert list(pool.map(reading.read, range(40))) == expected
    finally:
        sys.setswitchinterval(switch)
