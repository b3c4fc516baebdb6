"""Objects of a real S3 server, whose answers are dropped, cut, refused."""

import os
import socket
from contextlib import ExitStack

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import patience, remote
from nml_ray.storage.location import locate
from nml_ray.storage.patience import NoAccess, Patience
from tests.object_store import Fault

DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=0.5))
    monkeypatch.setattr(remote, "BLOCK", 100_000)


@pytest.fixture
def held(bucket, tmp_path):
    file = tmp_path / "here"
    file.write_bytes(DATA)
    remote.upload(file, bucket.at("a/x.tar"))
    bucket.faults.asked.clear()
    return bucket.at("a/x.tar")


def times(count: int, fault: Fault, method: str = "GET"):
    """A fault of the first requests of a method."""
    left = [count]

    def spoil(asked: str, path: str) -> Fault | None:
        if asked != method or not left[0]:
            return None
        left[0] -= 1
        return fault

    return spoil


def test_there_and_back(bucket, held, tmp_path):
    (found,) = remote.objects(bucket.at("a"))
    assert (found.name, found.size) == ("x.tar", len(DATA)) and found.modified > 0
    assert remote.read(held) == DATA and remote.read_range(held, 5, 10) == DATA[5:15]
    assert remote.download(held, tmp_path / "back", len(DATA)) == len(DATA)
    assert (tmp_path / "back").read_bytes() == DATA
    with_options = locate(
        f"s3://{bucket.name}/a/x.tar?endpoint_override={bucket.endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"
    )
    assert remote.read(with_options) == DATA
    remote.remove(held)
    with pytest.raises(remote.NotThere):
        remote.objects(bucket.at("a"))


@pytest.mark.parametrize(
    "fault",
    [Fault(keep=50_000), Fault(keep=0), Fault(status=503), Fault(status=500)],
    ids=["dropped in the body", "dropped at once", "busy", "broken"],
)
def test_what_passes_is_tried_again(bucket, held, tmp_path, fault):
    bucket.faults.spoil = times(2, fault)
    remote.download(held, tmp_path / "back", len(DATA))
    assert (tmp_path / "back").read_bytes() == DATA
    assert bucket.faults.count("GET", "x.tar") == 5  # three blocks, of which the first came at the third try


@pytest.mark.parametrize("fault", [Fault(keep=50_000), Fault(status=503)])
def test_what_does_not_pass_is_told(bucket, held, tmp_path, fault):
    bucket.faults.spoil = times(10**6, fault)
    with pytest.raises(UserError, match=r"s3://bucket-.*/a/x\.tar: cannot be reached, tried \d+ times in \d+ s \(.+\)"):
        remote.download(held, tmp_path / "back", len(DATA))


def test_what_cannot_pass_is_told_at_once(bucket, held, tmp_path):
    with pytest.raises(remote.NotThere, match=r"a/y\.tar: is not there"):
        remote.read(bucket.at("a/y.tar"))
    with pytest.raises(UserError, match="does not exist"):
        remote.objects(locate("s3://no-such-bucket-at-all/x"))
    with pytest.raises(UserError, match=r"has 300,000 bytes, not 7.*nml-ray data index"):
        remote.download(held, tmp_path / "back", 7)
    bucket.faults.asked.clear()
    bucket.faults.spoil = lambda method, path: Fault(status=403)
    with pytest.raises(UserError, match="cannot be reached with these credentials"):
        remote.read(held)
    assert len(bucket.faults.asked) == 1


def test_what_does_not_come_leaves_no_file(bucket, held, tmp_path):
    with pytest.raises(remote.NotThere):
        remote.download(bucket.at("a/y.tar"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
    bucket.faults.spoil = lambda method, path: Fault(status=503) if bucket.faults.count("GET", "x.tar") > 1 else None
    with pytest.raises(UserError, match="cannot be reached"):
        remote.download(held, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_object_removed_while_it_comes(bucket, held, tmp_path):
    def spoil(method: str, path: str) -> Fault | None:
        return Fault(status=404) if method == "GET" and bucket.faults.count("GET", "x.tar") > 1 else None

    bucket.faults.spoil = spoil
    with pytest.raises(UserError, match="is not there"):
        remote.download(held, tmp_path / "back", len(DATA))
    assert bucket.faults.count("GET", "x.tar") == 2


def test_no_server(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be reached, tried \d+ times"):
        remote.objects(bucket.at("x"))


def test_half_an_upload_is_none(bucket, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(12_000_000))  # more than one part
    bucket.faults.spoil = lambda method, path: Fault(status=503) if "partNumber=2" in path else None
    with pytest.raises(UserError, match="cannot be reached"):
        remote.upload(file, bucket.at("large"))
    bucket.faults.spoil = lambda method, path: None
    with pytest.raises(remote.NotThere):
        remote.read(bucket.at("large"))
    remote.upload(file, bucket.at("large"))
    assert remote.read(bucket.at("large")) == file.read_bytes()


def test_a_google_url_has_its_filesystem():
    import pyarrow.fs as fs

    assert isinstance(remote.filesystem(locate("gs://bucket/a?anonymous=true")), fs.GcsFileSystem)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_host_that_takes_no_connection_is_soon_told(scheme, bucket):
    with socket.socket() as listener, ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # its queue is full, so that a further one gets no answer at all
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        silent = locate(f"{scheme}://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http&anonymous=true")
        with (
            patience.at_most(Patience(first=0.01, total=0, connect=0.2)),
            pytest.raises(NoAccess, match="tried 1 times"),
        ):
            remote.names(silent)
