"""A data set on an object store is the local one, bit for bit, whatever the server does; and each tar comes once."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.data import remote_files
from nml_ray.data.augment import ShiftAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import read_info
from nml_ray.data.index import index_path
from nml_ray.data.indexing import index_directory, set_known_bad
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.prefetch import Prefetcher
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import Sample, write_shards
from nml_ray.data.verify import verify
from nml_ray.storage import patience, remote
from nml_ray.storage.link import Link
from nml_ray.storage.patience import Patience
from nml_ray.storage.shard_cache import _listed
from tests.object_store import Bucket, Fault
from tests.small_images import picture

pytestmark = pytest.mark.long

SAMPLES, EACH, BATCH = 96, 12, 16
KINDS = ("jpg", "png", "webp")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    directory = tmp_path_factory.mktemp("local")
    samples = [Sample(f"k{i:02d}", picture(i, KINDS[i % 3]), KINDS[i % 3], i % 4, f"text {i}") for i in range(SAMPLES)]
    write_shards(samples, directory, samples_per_shard=EACH, classes=["a", "b", "c", "d"])
    return directory


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=1.0))
    monkeypatch.setattr(remote_files, "QUICK", Patience(first=0.01, most=0.02, total=0.2))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def url(bucket, local):
    return bucket.put(local, "icons")


def link(url, tmp_path, size: str = "50MB") -> Link:
    return Link(str(url), str(tmp_path / "cache"), size)


def loader(dataset, order: OrderSettings | None = None) -> Loader:
    schedule = Schedule(dataset, order or OrderSettings(kind="lanes", lanes=4, shuffle_block=8), 7, BATCH, 8)
    return Loader(dataset, LoaderPlan(7, 8, 3, 16, ShiftAugmentation(), schedule.batch), threads=2)


def fed(loader, stop: int) -> list:
    return [[replace(one, images=one.images.copy()) for one in step] for step in loader.steps(0, stop)]


def gets(bucket: Bucket) -> int:
    return bucket.faults.count("GET", ".tar")


def assert_same(one: list, other: list) -> None:
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.hashes, b.hashes)
            np.testing.assert_array_equal(a.numbers, b.numbers)


def test_the_same_samples_in_the_same_batches(bucket, url, local, tmp_path):
    here, there = Dataset.open(local), Dataset.open(link(url, tmp_path))
    assert there.info == here.info and there.keys.equals(here.keys) and str(there.directory) == str(url)
    reader, remote_reader = ShardReader(here), ShardReader(there)
    assert [remote_reader.read(i) for i in range(SAMPLES)] == [reader.read(i) for i in range(SAMPLES)]
    assert_same(fed(loader(there), 12), fed(loader(here), 12))
    assert gets(bucket) == SAMPLES // EACH  # each tar once, over two epochs


def test_the_loader_brings_tars_before_they_are_read(url, tmp_path, monkeypatch):
    asked: list = []
    ask = Prefetcher.ask

    def heard(prefetcher: Prefetcher, shards: list, share: int) -> None:
        asked.extend(shards)
        ask(prefetcher, shards, share)

    monkeypatch.setattr(Prefetcher, "ask", heard)
    steps = loader(Dataset.open(link(url, tmp_path))).steps(0, 4)
    next(steps)
    steps.close()
    assert set(asked) == set(range(SAMPLES // EACH))


def test_a_small_cache_keeps_its_limit(bucket, url, local, tmp_path):
    sizes = [shard.bytes for shard in read_info(local).shards]
    indices = sum(path.stat().st_size for path in local.glob("*.arrow"))
    limit = indices + 3 * max(sizes)
    there = Dataset.open(link(url, tmp_path, str(limit)))
    most, steps = 0, []
    for step in loader(there).steps(0, 12):
        steps.append([replace(one, images=one.images.copy()) for one in step])
        most = max(most, sum(size for _, size, _ in _listed(tmp_path / "cache/files")))
    assert_same(steps, fed(loader(Dataset.open(local)), 12))
    assert most <= limit and gets(bucket) > len(sizes)


@pytest.mark.parametrize("fault", [Fault(keep=700), Fault(status=503), Fault(keep=900, short=True)])
def test_answers_that_are_dropped_refused_or_cut(bucket, url, local, tmp_path, fault):
    seen: dict[str, int] = {}

    def spoil(method: str, path: str) -> Fault | None:
        seen[path] = seen.get(path, 0) + 1
        return fault if method == "GET" and path.endswith((".tar", ".arrow")) and seen[path] == 2 else None

    bucket.faults.spoil = spoil  # the first of a path is its HEAD
    there = Dataset.open(link(url, tmp_path))
    assert_same(fed(loader(there), 6), fed(loader(Dataset.open(local)), 6))


def test_a_server_that_never_recovers_is_told(bucket, url, tmp_path):
    there = Dataset.open(link(url, tmp_path))
    bucket.faults.spoil = lambda method, path: Fault(keep=100) if method == "GET" and path.endswith(".tar") else None
    with pytest.raises(UserError, match=r"s3://.*\.tar: cannot be reached, tried \d+ times in 1 s"):
        fed(loader(there), 6)
    assert not list((tmp_path / "cache/files").glob("*.tar*"))


def test_a_shard_removed_or_replaced_while_training(bucket, url, local, tmp_path):
    there = Dataset.open(link(url, tmp_path))
    names = [shard.name for shard in there.info.shards]
    steps = loader(there, OrderSettings(kind="lanes", lanes=1, shuffle_block=4)).steps(0, 6)
    bucket.faults.spoil = lambda method, path: Fault(status=404) if path.endswith(".tar") and gets(bucket) > 2 else None
    with pytest.raises(UserError, match=r"icons/shard-00000\d\.tar: is not there"):
        list(steps)
    bucket.faults.spoil = lambda method, path: None
    changed = bytearray((local / names[0]).read_bytes())
    offset = int(there.image_offset[3])
    changed[offset + 5] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    remote.upload(tmp_path / "changed", url / names[0])
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"holds another image of key '{there.key(3)}'.*nml-ray data index"):
        ShardReader(Dataset.open(link(url, tmp_path))).read(0)


def test_opening_tells_what_is_wrong(bucket, url, tmp_path):
    with pytest.raises(UserError, match=r"dataset\.json: is missing; .*`nml-ray data index s3://"):
        Dataset.open(bucket.at("elsewhere"))
    with pytest.raises(UserError, match="no-such-bucket-here"):
        Dataset.open("s3://no-such-bucket-here/x")
    bucket.faults.spoil = lambda method, path: Fault(status=403)
    with pytest.raises(UserError, match="cannot be reached with these credentials"):
        Dataset.open(link(url, tmp_path))
    bucket.faults.spoil = lambda method, path: None
    remote.remove(url / "shard-000003.tar")
    with pytest.raises(UserError, match=r"shard-000003\.tar: is missing"):
        Dataset.open(link(url, tmp_path))


def test_room_in_the_cache_is_asked_for_with_the_first_tar(url, local, tmp_path, monkeypatch, capsys):
    indices = sum(path.stat().st_size for path in local.glob("*.arrow"))
    there = Dataset.open(link(url, tmp_path, str(indices)))
    with pytest.raises(UserError, match=r"of .* is too small for a tar of .*run\.shard_cache_size"):
        ShardReader(there).read(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100))
    there = Dataset.open(Link(str(url), str(tmp_path / "other"), "1MB"))
    with pytest.raises(UserError, match=r"may take 1 MB, but its disk has room for .*run\.shard_cache"):
        ShardReader(there).read(0)
    assert call(["data", "inspect", str(url)]) == 0 and "samples   96" in capsys.readouterr().out


def test_indexing_where_the_tars_lie(bucket, local, tmp_path, capsys):
    tars = tmp_path / "tars"
    tars.mkdir()
    for tar in local.glob("*.tar"):
        shutil.copy(tar, tars)
    url = bucket.put(tars, "raw")
    (tmp_path / "names").write_text("a\nb\nc\nd\n")
    assert call(["data", "index", str(url), "--classes", str(tmp_path / "names")]) == 0
    assert read_info(url).digest == read_info(local).digest and gets(bucket) == 8
    assert f"digest {read_info(local).digest}" in capsys.readouterr().out
    assert index_directory(url) == read_info(url) and gets(bucket) == 8  # fresh indices are not made again
    shutil.copy(local / "shard-000001.tar", tmp_path / "other.tar")
    bucket.put(tmp_path / "tars", "raw")  # the same content, another version
    bucket.faults.asked.clear()
    index_directory(url)
    assert gets(bucket) == 0
    (tars / "shard-000002.tar").write_bytes((tars / "shard-000001.tar").read_bytes())
    bucket.put(tars, "raw")
    with pytest.raises(UserError, match=r"comes twice, in shard-000001\.tar and in shard-000002\.tar"):
        index_directory(url)
    assert gets(bucket) == 1


def test_looking_at_it_there(bucket, url, local, tmp_path, capsys):
    verdict = verify(url)
    assert verdict.sound and verdict.looked_at["images"] == SAMPLES
    assert call(["data", "inspect", str(url), "--sheet", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert call(["data", "inspect", str(local)]) == 0
    assert capsys.readouterr().out.splitlines() == said.splitlines()[:-1]
    assert not list((tmp_path / "user").rglob("*.tar"))  # no whole tar for a few images
    set_known_bad(url, ["k05"])
    assert read_info(url).known_bad == ("k05",) and len(Dataset.open(url).good) == SAMPLES - 1
    changed = bytearray((local / "shard-000004.tar").read_bytes())
    changed[int(Dataset.open(local).image_offset[EACH * 4]) + 9] ^= 255
    (tmp_path / "t").mkdir()
    (tmp_path / "t/shard-000004.tar").write_bytes(changed)
    bucket.put(tmp_path / "t", "icons")
    assert {(p.check, p.where) for p in verify(url, decode=False).problems} == {("content", "shard-000004.tar")}


def test_what_is_missing_is_told_as_of_a_local_one(url, local, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(local, copy)
    for name in ("shard-000001.tar", "shard-000002.index.arrow"):
        (copy / name).unlink()
        remote.remove(url / name)
    told = [(p.check, p.where, p.what.replace(str(copy), str(url))) for p in verify(copy, decode=False).problems]
    assert told == [(p.check, p.where, p.what) for p in verify(url, decode=False).problems]
    assert told[0] == ("tars", "shard-000001.tar", "is missing") and told[1][2].startswith("is missing; expected an in")


HOLD = """
import fcntl, sys
held = [open(path, "w") for path in sys.argv[1:]]
for file in held:
    fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("held", ["what it waits for", "the room in the cache"])
def test_a_loader_that_is_left_waits_for_no_other_process(url, tmp_path, held):
    there = Dataset.open(link(url, tmp_path))
    names = [remote_files._tar_name(shard) for shard in there.info.shards]
    locks = [f"locks/{name}" for name in names] if held == "what it waits for" else ["lock"]
    paths = [str(tmp_path / "cache" / lock) for lock in locks]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    loading, caught = loader(there), []

    def consume() -> None:
        try:
            next(loading.steps(0, 4))
        except BaseException as error:
            caught.append(error)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    while not any(thread.name.startswith("prefetch") for thread in threading.enumerate()):
        time.sleep(0.02)
    closer = threading.Thread(target=loading.close, daemon=True)
    closer.start()
    closer.join(30)
    consumer.join(30)
    stuck = closer.is_alive() or consumer.is_alive()
    holder.communicate("")
    assert not stuck and isinstance(caught[0], CancelledError)


READ = """
import json, sys
from nml_ray.data.dataset import Dataset
from nml_ray.data.reader import ShardReader
from nml_ray.storage.link import Link
dataset = Dataset.open(Link(sys.argv[1], sys.argv[2], "50MB"))
reader = ShardReader(dataset)
print(len([reader.read(i) for i in range(len(dataset))]), flush=True)
"""


def reading(url, cache) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", READ, str(url), str(cache)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_two_processes_share_a_cache(bucket, url, tmp_path):
    processes = [reading(url, tmp_path / "cache") for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{SAMPLES}\n"] * 2
    assert gets(bucket) == SAMPLES // EACH


def test_a_process_killed_while_it_brings_a_tar(bucket, url, tmp_path):
    bucket.faults.spoil = lambda method, path: Fault(delay=30.0) if method == "GET" and path.endswith(".tar") else None
    first = reading(url, tmp_path / "cache")
    while not gets(bucket):
        time.sleep(0.02)
    first.kill()
    first.communicate()
    bucket.faults.spoil = lambda method, path: None
    files = list((tmp_path / "cache/files").glob("*.tar*"))
    assert [file.suffix for file in files] == [".part"]
    second = reading(url, tmp_path / "cache")
    assert second.communicate(timeout=60)[0] == f"{SAMPLES}\n"
    assert not list((tmp_path / "cache/files").glob("*.part"))


def test_a_changed_data_set_is_noticed(bucket, url, local, tmp_path):
    before = Dataset.open(link(url, tmp_path))
    other = tmp_path / "other"
    samples = [Sample(f"k{i:02d}", picture(i + 1, "png"), "png", i % 4) for i in range(SAMPLES)]
    write_shards(samples, other, samples_per_shard=EACH, classes=["a", "b", "c", "d"])
    ShardReader(before).read(0)
    bucket.put(other, "icons")
    after = Dataset.open(link(url, tmp_path))
    assert after.digest == Dataset.open(other).digest
    assert ShardReader(after).read(0) == ShardReader(Dataset.open(other)).read(0)
    assert json.loads((other / "dataset.json").read_text())["digest"] == after.digest
    assert index_path(other / "shard-000000.tar").exists()


def test_a_loader_that_is_left_waits_for_no_server(bucket, url, tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=5, total=600))
    there = Dataset.open(link(url, tmp_path))
    bucket.faults.spoil = lambda method, path: Fault(status=503) if path.endswith(".tar") else None
    loading = loader(there)
    caught: list = []

    def consume() -> None:
        try:
            next(loading.steps(0, 4))
        except BaseException as error:
            caught.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    while not bucket.faults.count("HEAD", ".tar"):
        time.sleep(0.02)
    loading.close()
    consumer.join(30)
    assert not consumer.is_alive() and isinstance(caught[0], CancelledError)
