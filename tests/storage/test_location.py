"""Places: paths and URLs, and what is refused."""

from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage.link import Link, followed, linked_names, write_link
from nml_ray.storage.location import locate, redacted
from nml_ray.storage.mirror import working_root


@pytest.mark.parametrize(
    ("text", "scheme", "path"),
    [
        ("data/flowers", "", "data/flowers"),
        ("/data/a b", "", "/data/a b"),
        ("file:///data/a%20b", "", "/data/a b"),
        ("s3://bucket/a/b/", "s3", "bucket/a/b"),
        ("s3://bucket", "s3", "bucket"),
        ("gs://bucket/a", "gs", "bucket/a"),
        ("gcs://bucket/a", "gs", "bucket/a"),
        (Path("s3://bucket/a"), "s3", "bucket/a"),
    ],
)
def test_places(text, scheme, path):
    found = locate(text)
    assert (found.scheme, found.path, found.remote) == (scheme, path, bool(scheme))
    assert locate(str(found)) == found
    assert (found / "x-0.tar").name == "x-0.tar" and (found / "x-0.tar").path == f"{path}/x-0.tar"


def test_options_stay_with_what_lies_below():
    found = locate("s3://bucket/a?scheme=http&endpoint_override=127.0.0.1:9000")
    assert str(found / "x.tar") == "s3://bucket/a/x.tar?endpoint_override=127.0.0.1:9000&scheme=http"
    assert locate(str(found)) == found
    assert locate("gs://anonymous@bucket/a").options == (("anonymous", "true"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipe:curl http://x", r"data: 'pipe:' would run a shell command; expected a path, or an s3:// or gs:// URL"),
        ("PIPE:cat x", "would run a shell"),
        ("http://host/x.tar", "'http://' cannot be read"),
        ("hdfs://host/x", "'hdfs://' cannot be read"),
        ("s4://bucket/x", "did you mean 's3'"),
        ("s3:/bucket/x", r"is no URL; expected s3://BUCKET/PREFIX"),
        ("s3://", "names no bucket"),
        ("s3://bucket//x", "has an empty part"),
        ("s3://bucket/x?regoin=eu", "option 'regoin' .* did you mean 'region'"),
        ("s3://bucket/x?scheme=ftp", "expected http or https"),
        ("s3://AKIA:hidden@bucket/x", "credentials in it.*AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?secret_key=hidden", "credentials in it"),
        ("s3://bucket/x?endpoint_override=AKIA:hidden@host:9000", "credentials in it"),
        ("s3://bucket/x?endpoint_override=http://AKIA:hidden@host:9000", "credentials in it"),
        ("gs://anonymous@me:hidden@bucket/x", "credentials in it"),
        ("s3://bucket/x?region=eu&region=us", "data: option 'region' comes twice; expected each option once"),
        ("gs://anonymous@bucket/x?anonymous=false", "option 'anonymous' comes twice"),
        ("s3://bucket/x?anonymous=maybe", "data: anonymous=maybe; expected true or false"),
        ("s3://bucket/x?anonimous=true", "option 'anonimous' of an s3:// URL; expected .*; did you mean 'anonymous'"),
        ("gs://bucket/x?region=eu", "option 'region' of a gs:// URL; expected"),
        ("s3://bucket/../x", r"has a part '\.\.'"),
        ("gs://bucket/x?access_token=hidden", "credentials in it.*GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UserError, match=message) as refused:
        locate(text, "data")
    assert "hidden" not in str(refused.value)


def test_no_credentials_in_messages():
    text = "GET s3://AKIA:hidden@bucket/x?X-Amz-Signature=hidden&secret_key=hidden&region=eu failed"
    assert redacted(text) == "GET s3://...bucket/x?X-Amz-Signature=...&secret_key=...&region=eu failed"


def test_no_credentials_of_an_endpoint_in_messages():
    text = "s3://bucket/x?endpoint_override=AKIA:hidden@host:9000&region=eu is odd"
    assert redacted(text) == "s3://bucket/x?endpoint_override=...host:9000&region=eu is odd"


def test_links_stand_for_directories(tmp_path):
    write_link(tmp_path / "train", Link("s3://bucket/train", "/cache", "5GB"))
    (tmp_path / "test").mkdir()
    write_link(tmp_path / "test", Link("s3://bucket/other"))
    found = followed(tmp_path / "train")
    assert isinstance(found, Link) and str(found.location) == "s3://bucket/train"
    assert found.shard_cache().limit == 5_000_000_000 and found.shard_cache().directory == Path("/cache")
    assert followed(tmp_path / "test") == tmp_path / "test" and followed("s3://bucket/x") == Link("s3://bucket/x")
    assert linked_names(tmp_path) == ["test", "train"]
    (tmp_path / "train.link.json").write_text("{}")
    with pytest.raises(UserError, match=r"train\.link\.json: cannot be read"):
        followed(tmp_path / "train")


@pytest.mark.parametrize("below", ["", "/deep/runs"])
def test_a_storage_that_is_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run\.storage: '.*/file' is no directory"):
        working_root(f"{tmp_path}/file{below}")
