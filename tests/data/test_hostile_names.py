"""Keys of an object store and names in dataset.json are never taken for local paths outside the data set's directory.

The store here hands out any key, as real ones do: its server takes a key for what it is.
"""

import http.client
import json
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import FILE, read_info
from nml_ray.data.indexing import index_directory
from nml_ray.data.shards import Sample, write_shards
from nml_ray.data.verify import verify
from nml_ray.storage import patience, remote
from nml_ray.storage.patience import Patience
from tests.object_store import Bucket
from tests.small_images import picture


@pytest.fixture
def shards(tmp_path):
    directory = tmp_path / "shards"
    samples = [Sample(f"k{i}", picture(i, "png"), "png", i % 2) for i in range(4)]
    write_shards(samples, directory, samples_per_shard=2, classes=["a", "b"])
    return directory


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """A file of the user's; temporary directories lie beside it."""
    file = tmp_path / "home" / "precious.tar"
    file.parent.mkdir()
    file.write_text("precious")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return file


def put(bucket: Bucket, key: str, data: bytes) -> None:
    """An object under a key that clients would tidy up."""
    connection = http.client.HTTPConnection(bucket.endpoint.removeprefix("http://"))
    connection.request("PUT", f"/{bucket.name}/{quote(key)}", data)
    assert connection.getresponse().status == 200
    connection.close()


def kept(victim: Path) -> bool:
    return victim.read_text() == "precious" and [path.name for path in victim.parent.iterdir()] == [victim.name]


@pytest.mark.parametrize(
    ("key", "flaw"),
    [
        ("../../home/precious.tar", r"has a part '\.\.'"),
        ("sub/../../../home/precious.tar", r"has a part '\.\.'"),
        ("{victim}", "is absolute"),
        ("sub//precious.tar", "has an empty part"),
        ("sub/./precious.tar", r"has a part '\.'"),
        ("sub\\precious.tar", "has a backslash"),
    ],
)
def test_a_listed_key_that_leads_elsewhere_is_refused(bucket, shards, victim, tmp_path, key, flaw, capsys):
    url = bucket.put(shards, "d")
    put(bucket, "d/" + key.format(victim=victim), (shards / "shard-000000.tar").read_bytes())
    assert key.format(victim=victim) in {one.name for one in remote.objects(url)}
    with pytest.raises(UserError, match=rf"s3://.*/d: name '.*' of a tar {flaw}; expected a relative path"):
        index_directory(url)
    assert call(["data", "index", str(url)]) == 2
    assert kept(victim) and not list((tmp_path / "tmp").iterdir())
    assert len(Dataset.open(url)) == 4  # what dataset.json names is not concerned


HOSTILE = ["../../home/precious.tar", "{victim}", "a//precious.tar", "./shard-000000.tar", "a\\b.tar", "precious"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_dataset_json_that_leads_elsewhere_is_refused(bucket, shards, victim, tmp_path, name):
    said = json.loads((shards / FILE).read_text())
    said["shards"][0]["name"] = name.format(victim=victim)
    (shards / FILE).write_text(json.dumps(said))
    url = bucket.put(shards, "d")
    for place in (url, shards):
        for look in (verify, Dataset.open, read_info, index_directory):
            with pytest.raises(UserError, match=r"dataset\.json: name '.*' of a tar .*; expected a relative path"):
                look(place)
    assert kept(victim) and not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("field", "value"),
    [("digest", "/../../../../home/precious"), ("bytes", -1), ("samples", -1), ("index_crc32", -1), ("name", 7)],
)
def test_other_values_in_dataset_json_that_cannot_be(shards, field, value):
    said = json.loads((shards / FILE).read_text())
    said["shards"][1][field] = value
    (shards / FILE).write_text(json.dumps(said))
    with pytest.raises(UserError, match=rf"dataset\.json: cannot be read \(shards\.1\.{field}: .*`nml-ray data index "):
        read_info(shards)


def test_a_local_tar_whose_name_other_systems_read_otherwise(shards):
    shutil.move(shards / "shard-000000.tar", shards / "a\\b.tar")
    with pytest.raises(UserError, match="of a tar has a backslash"):
        index_directory(shards)


def test_what_pyarrow_does_not_take_is_told(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.5))
    with pytest.raises(UserError, match=r"s3://.*a//b\.tar: cannot be asked for \(Empty path component"):
        remote.download(bucket.at("a") / "/b.tar", tmp_path / "b.tar")
    with pytest.raises(UserError, match="cannot be asked for"):
        remote.read(bucket.at("a") / "/b.tar")
