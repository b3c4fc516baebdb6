"""Shards written to an object store are those of a local directory, one at a time on this disk, and a run goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import read_info
from nml_ray.data.indexing import set_known_bad
from nml_ray.data.sharding import Written, write_listing
from nml_ray.data.sources.choose import SourceOptions, opened_source
from nml_ray.data.verify import verify
from nml_ray.storage import patience, remote
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.storage.scratch import scratch
from tests.object_store import Bucket, Fault
from tests.small_images import image_tree, picture

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path) -> Path:
    """An own directory for temporary files, and little patience."""
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temp").mkdir()
    return tmp_path / "temp"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source") / "images"
    image_tree(root)
    return root


@pytest.fixture(scope="module")
def local(images) -> Path:
    """What a local directory holds: five tars of 24 samples, their indices, dataset.json."""
    shard(images, images.parent / "local")
    return images.parent / "local"


def shard(source, out: Path | Location, options: SourceOptions | None = None, **more) -> Written:
    with opened_source(str(source), out, options or SourceOptions()) as listing:
        return write_listing(listing, out, **{"samples_per_shard": 5, **more})


def contents(place: Path | Location) -> dict[str, bytes]:
    if isinstance(place, Path):
        return {path.name: path.read_bytes() for path in place.iterdir()}
    return {one.name: remote.read(place / one.name) for one in remote.objects(place)}


def failing(ending: str, fault: Fault, method: str = "PUT"):
    """All requests of a method for a path with an ending fail (also those for its parts)."""

    def spoil(asked: str, path: str) -> Fault | None:
        return fault if asked in (method, "POST") and path.partition("?")[0].endswith(ending) else None

    return spoil


def test_the_bytes_of_a_local_directory_one_tar_at_a_time(bucket: Bucket, images, local, temporary, capsys):
    most = 0

    def spoil(method: str, path: str) -> None:
        nonlocal most
        most = max(most, len(list(temporary.rglob("*.tar"))))

    bucket.faults.spoil = spoil
    url = bucket.at("made")
    assert call(["data", "shard", str(images), str(url), "--samples-per-shard", "5", "--licence", "CC0"]) == 0
    assert f"24 samples, 3 classes, 5 tars, digest {read_info(local).digest}" in capsys.readouterr().out
    assert read_info(url).licence == "CC0" and read_info(url).source == str(images)
    found, expected = contents(url), contents(local)
    del found["dataset.json"], expected["dataset.json"]
    assert found == expected and len(found) == 10
    assert most == 1 and not list(temporary.iterdir())
    assert verify(url).sound


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(bucket: Bucket, images, local, temporary):
    shard(images, bucket.at("made"), workers=2)
    assert contents(bucket.at("made")) == contents(local)
    assert not list(temporary.iterdir())


def test_a_second_run_brings_no_tar_and_refuses_to_replace(bucket: Bucket, images, local, tmp_path):
    url = bucket.at("made")
    first = shard(images, url)
    bucket.faults.asked.clear()
    assert shard(images, url) == Written(first.info, 5, ())
    assert bucket.faults.count("GET", ".tar") == bucket.faults.count("PUT", ".tar") == 0
    with pytest.raises(UserError, match="holds a finished data set, 5 of whose shards would change"):
        shard(images, url, seed=1)
    assert contents(url) == contents(local)
    fewer = shard(images, url, overwrite=True, samples_per_shard=20)
    assert (len(fewer.info.shards), len(contents(url))) == (2, 5)
    set_known_bad(url, ["cat/cat_v0"])
    assert shard(images, url, samples_per_shard=20).info.known_bad == ("cat/cat_v0",)
    remote.upload(local / "shard-000000.tar", url / "mine.tar")
    with pytest.raises(UserError, match=r"made: holds 1 other tars, such as mine\.tar"):
        shard(images, url, overwrite=True)


@pytest.mark.parametrize("missing", ["shard-000001.index.arrow", "shard-000002.tar", "a newer shard-000003.tar"])
def test_what_a_stopped_run_left_is_completed(bucket: Bucket, images, local, missing):
    url = bucket.at("made")
    shard(images, url)
    remote.remove(url / "dataset.json")
    if missing.startswith("a newer"):
        (local.parent / "other").write_bytes(bytes((local / "shard-000003.tar").stat().st_size))
        newer = False
        while not newer:  # the store's times are whole seconds
            remote.upload(local.parent / "other", url / "shard-000003.tar")
            times = {one.name: one.modified for one in remote.objects(url)}
            newer = times["shard-000003.tar"] > times["shard-000003.index.arrow"]
    else:
        remote.remove(url / missing)
    assert shard(images, url).kept == 4
    assert contents(url) == contents(local)


@pytest.mark.parametrize(
    ("ending", "fault", "told", "kept"),
    [
        ("shard-000002.tar", Fault(status=403), r"made/shard-000002\.tar: cannot be reached with these cred", 2),
        ("shard-000002.index.arrow", Fault(status=503), r"made/shard-000002\.index.arrow: cannot be reached, tried", 2),
        ("dataset.json", Fault(status=500), r"made/dataset\.json: cannot be reached, tried", 5),
    ],
)
def test_a_server_that_fails_midway(bucket: Bucket, images, local, temporary, capsys, ending, fault, told, kept):
    url = bucket.at("made")
    bucket.faults.spoil = failing(ending, fault)
    assert call(["data", "shard", str(images), str(url), "--samples-per-shard", "5"]) == 2
    said = capsys.readouterr().err
    assert re.search(told, said) and said.count("\n") == 1 and "Traceback" not in said
    assert not list(temporary.iterdir())
    bucket.faults.spoil = lambda method, path: None
    assert "dataset.json" not in contents(url)
    assert shard(images, url).kept == kept
    assert contents(url) == contents(local)


def test_passing_faults_change_nothing(bucket: Bucket, images, local):
    seen: dict[str, int] = {}

    def spoil(method: str, path: str) -> Fault | None:
        asked = method + path.partition("?")[0]
        seen[asked] = seen.get(asked, 0) + 1
        return Fault(status=503) if seen[asked] == 1 else None

    bucket.faults.spoil = spoil
    shard(images, bucket.at("made"))
    bucket.faults.spoil = lambda method, path: None
    assert contents(bucket.at("made")) == contents(local)


def test_an_overwriting_run_that_is_stopped_leaves_no_index_of_another_tar(bucket: Bucket, images, local):
    url = bucket.at("made")
    shard(images, url)
    bucket.faults.spoil = failing("shard-000001.index.arrow", Fault(status=403))
    with pytest.raises(UserError, match="cannot be reached with these credentials"):
        shard(images, url, seed=1, overwrite=True)
    bucket.faults.spoil = lambda method, path: None
    left = contents(url)
    assert "dataset.json" not in left and "shard-000001.index.arrow" not in left
    assert left["shard-000001.tar"] != (local / "shard-000001.tar").read_bytes()
    assert shard(images, url).kept == 3
    assert contents(url) == contents(local)


KILLED = """
import sys
from nml_ray.data.sharding import write_listing
from nml_ray.data.sources.choose import opened_source
from nml_ray.storage.location import locate

def wait(done, total):
    print(done, flush=True)
    if done >= 10:
        sys.stdin.read()

if __name__ == "__main__":
    out = locate(sys.argv[2])
    with opened_source(sys.argv[1], out) as listing:
        write_listing(listing, out, samples_per_shard=5, workers=int(sys.argv[3]), progress=wait)
"""


@pytest.mark.kill
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on(bucket: Bucket, images, local, temporary, tmp_path, workers):
    url = bucket.at("made")
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(images), str(url), str(workers)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
    for line in process.stdout:
        if int(line) >= 10:
            break
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for other in others:  # dead, and what they had locked is free
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    process.stdout.read()
    process.stdin.close()
    process.stdout.close()
    left = contents(url)
    assert "dataset.json" not in left and list(temporary.iterdir())
    done = sum(name.endswith(".arrow") for name in left)
    bucket.faults.asked.clear()
    assert shard(images, url).kept == done >= 2
    assert bucket.faults.count("GET", ".tar") == 0
    assert contents(url) == contents(local)
    assert not [path for path in temporary.rglob("*") if path.is_file()]


def test_what_dead_processes_left_is_removed_and_what_is_in_use_is_not(temporary):
    with scratch("one") as first, scratch("one") as second, scratch("other") as third:
        (first / "x").write_bytes(b"x")
        dead = shutil.copytree(first, f"{first}-dead")
        with scratch("one"):
            assert first.exists() and second.exists() and third.exists() and not Path(dead).exists()
    assert not list(temporary.iterdir())


def test_images_that_come_as_bytes(bucket: Bucket, tmp_path, temporary):
    table = pa.table({"image": [picture(i) for i in range(7)], "label": [i % 3 for i in range(7)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    shard(tmp_path / "a.parquet", tmp_path / "here")
    shard(tmp_path / "a.parquet", bucket.at("made"))
    assert contents(bucket.at("made")) == contents(tmp_path / "here") and not list(temporary.iterdir())
    with pytest.raises(UserError, match="which other machines cannot read from here"):
        shard(tmp_path / "a.parquet", bucket.at("made"), SourceOptions(shared=True))


def test_tars_of_an_object_store_are_cut_anew(bucket: Bucket, local, tmp_path):
    url = bucket.put(local, "source")
    set_known_bad(url, ["owl/owl_v0"])
    set_known_bad(shutil.copytree(local, tmp_path / "copy"), ["owl/owl_v0"])
    bucket.faults.asked.clear()
    shard(tmp_path / "copy", tmp_path / "of-copy", samples_per_shard=7, seed=3)
    written = shard(url, tmp_path / "out", samples_per_shard=7, seed=3)
    assert bucket.faults.count("GET", ".tar") == 5
    for tar in (tmp_path / "of-copy").glob("*.tar"):
        assert (tmp_path / "out" / tar.name).read_bytes() == tar.read_bytes()
    assert written.info == read_info(tmp_path / "of-copy").model_copy(update={"shards": written.info.shards})
    assert shard(url, tmp_path / "out", samples_per_shard=7, seed=3).kept == 4
    shard(url, bucket.at("from-there-to-there"), samples_per_shard=7, seed=3)
    assert contents(bucket.at("from-there-to-there")) == contents(tmp_path / "out")


def test_sources_on_an_object_store_refused(bucket: Bucket, local, tmp_path):
    url = bucket.put(local, "source")
    for source, out, options, told in (
        (url, tmp_path / "out", SourceOptions(cache_size="60kB"), "does not hold at once"),
        (url, tmp_path / "out", SourceOptions(key_prefix="shard"), "was indexed without this --key-prefix"),
        (url, url / "below", SourceOptions(), "lies in the source"),
        (url, url, SourceOptions(), "lies in the source"),
        (bucket.at("nothing"), tmp_path / "out", SourceOptions(), r"dataset\.json: is missing.*data index s3://"),
        ("pipe:cat", tmp_path / "out", SourceOptions(), "would run a shell command"),
    ):
        with pytest.raises(UserError, match=told):
            shard(source, out, options)
        assert not (tmp_path / "out").exists()
