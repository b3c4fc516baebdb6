"""Writing shards: readable by webdataset, the same bytes every time, the same data however it is cut."""

import random

import numpy as np
import pytest
import webdataset

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.index import index_path
from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards

CLASSES = ("cat", "dog")


def samples(count=50):
    return [Sample(f"dir/é{i}", bytes([i]) * (i + 1), "png", i % 2, f"caption {i}") for i in range(count)]


def test_webdataset_reads_them(tmp_path):
    info = write_shards(samples(), tmp_path, samples_per_shard=20, classes=CLASSES)
    assert [shard.samples for shard in info.shards] == [20, 20, 10]
    urls = [str(tmp_path / shard.name) for shard in info.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    data, reader = Dataset.open(tmp_path), ShardReader(Dataset.open(tmp_path))
    assert [sample["__key__"] for sample in read] == data.keys.to_pylist()
    for number, sample in enumerate(read):
        assert sample["png"] == reader.read(number)
        assert int(sample["cls"]) == data.label[number]
        assert reader.header_key(number) == sample["__key__"]
    assert [sample["txt"].decode() for sample in read] == list(data.captions())
    assert data.classes == CLASSES and sorted(data.keys.to_pylist()) == sorted(s.key for s in samples())


def test_the_same_bytes_from_any_order(tmp_path):
    shuffled = samples()
    random.Random(1).shuffle(shuffled)
    write_shards(samples(), tmp_path / "a", samples_per_shard=20, classes=CLASSES)
    write_shards(shuffled, tmp_path / "b", samples_per_shard=20, classes=CLASSES)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir()) and len(files) == 7
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_digest_ignores_the_sharding_and_nothing_else(tmp_path):
    def digest(name, data, **options):
        write_shards(data, tmp_path / name, classes=CLASSES, **{"samples_per_shard": 20, **options})
        opened = Dataset.open(tmp_path / name)
        return opened.digest, [shard.digest for shard in opened.info.shards]

    base = digest("base", samples())
    recut = digest("recut", samples(), samples_per_shard=7, seed=5)
    assert recut[0] == base[0] and recut[1] != base[1]
    for change in ({"key": "other"}, {"image": b"other"}, {"label": 1}, {"caption": "other"}, {"caption": None}):
        changed = samples()
        changed[0] = Sample(**{**vars(changed[0]), **change})
        assert digest(f"changed-{change}".replace("/", "-"), changed)[0] != base[0]


def test_shards_are_shuffled(tmp_path):
    ordered = [Sample(f"k{i:04d}", b"x", "jpg", i // 100) for i in range(200)]
    write_shards(ordered, tmp_path, samples_per_shard=50, classes=CLASSES)
    data = Dataset.open(tmp_path)
    for shard in range(4):
        assert 10 < data.label[data.shard_samples(shard)].sum() < 40


def test_images_from_files_and_progress(tmp_path):
    image = tmp_path / "one.webp"
    image.write_bytes(b"pixels")
    seen = []
    write_shards(
        [Sample("k", image, "webp")], tmp_path / "out", samples_per_shard=2, progress=lambda *d: seen.append(d)
    )
    data = Dataset.open(tmp_path / "out")
    assert ShardReader(data).read(0) == b"pixels" and seen == [(1, 1)]
    assert data.label.tolist() == [-1] and data.image_extension.dtype == np.uint8 and data.classes == ()
    assert index_path(tmp_path / "out" / "shard-000000.tar").exists()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ([Sample("a.b", b"", "jpg")], "dot"),
        ([Sample("", b"", "jpg")], "key"),
        ([Sample("a/", b"", "jpg")], "key"),
        ([Sample("a", b"", "gif")], "jpg, jpeg, png, webp"),
        ([Sample("a", b"", "jpg", 2)], "0 to 1"),
        ([Sample("a", b"", "jpg"), Sample("a", b"", "jpg")], "key 'a'"),
        ([], "no samples"),
    ],
)
def test_samples_refused(tmp_path, wrong, text):
    with pytest.raises(UserError, match=text):
        write_shards(wrong, tmp_path, samples_per_shard=2, classes=CLASSES)
    assert not (tmp_path / "dataset.json").exists()


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_shards([Sample("a", tmp_path / "gone.jpg", "jpg")], tmp_path / "out", samples_per_shard=2)
    assert list((tmp_path / "out").iterdir()) == []
