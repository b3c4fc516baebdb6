"""Logs of Ray's processes on storage: as they grow, after a new start, from a process that runs beside Ray."""

import socket
import subprocess
import sys

import pytest

from nml_ray.cluster import node_logs
from nml_ray.cluster.node_logs import NodeLogs
from nml_ray.cluster.record import Record, record_of
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience
from tests.object_store import Bucket, Fault
from tests.submitted import until


def text(record: Record, name: str, host: str = "one") -> str:
    return b"".join(record.parts(f"nodes/{host}/ray/{name}")).decode()


def test_logs_are_copied_as_they_grow(tmp_path):
    record, logs = record_of(str(tmp_path / "runs"), "x"), tmp_path / "session_latest" / "logs"
    copies = NodeLogs(record, logs, "one")
    copies.copy()  # Ray has not begun
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("one\n")
    (logs / "events").mkdir()
    (logs / "events" / "event.log").write_text("deep\n")
    (logs / "core.bin").write_text("no log")
    (logs / "link.log").symlink_to(logs / "raylet.out")
    copies.copy()
    with open(logs / "raylet.out", "a") as file:
        file.write("two\n")
    copies.copy()
    copies.copy()
    assert text(record, "raylet.out") == "one\ntwo\n"
    assert text(record, "events/event.log") == "deep\n"
    assert record.names("nodes/one/ray") == ["events", "raylet.out"]


def test_a_ray_that_is_started_again_goes_on_in_the_next_part(tmp_path):
    record, logs = record_of(str(tmp_path / "runs"), "x"), tmp_path / "logs"
    logs.mkdir()
    (logs / "raylet.out").write_text("a long first life\n")
    copies = NodeLogs(record, logs, "one")
    copies.copy()
    (logs / "raylet.out").rename(tmp_path / "old")
    (logs / "raylet.out").write_text("second\n")
    copies.copy()
    assert text(record, "raylet.out") == "a long first life\nsecond\n"


def test_no_more_of_a_file_is_copied_than_is_useful(tmp_path, monkeypatch):
    monkeypatch.setattr(node_logs, "MOST", 5)
    record = record_of(str(tmp_path / "runs"), "x")
    (tmp_path / "worker.err").write_text("0123456789")
    copies = NodeLogs(record, tmp_path, "one")
    copies.copy()
    copies.copy()
    assert text(record, "worker.err") == "01234"


def test_an_object_store_that_comes_back_gets_all(bucket: Bucket, tmp_path):
    record = record_of(str(bucket.at("runs")), "x")
    (tmp_path / "raylet.out").write_text("one\n")
    copies = NodeLogs(record, tmp_path, "one")
    bucket.faults.spoil = lambda method, path: Fault(status=503)
    with pytest.raises(UserError):
        copies.copy(Patience(total=0))
    bucket.faults.spoil = lambda method, path: None
    copies.copy()
    assert text(record, "raylet.out") == "one\n"


def test_the_process_copies_once_more_when_it_is_stopped(tmp_path):
    storage, logs = str(tmp_path / "runs"), tmp_path / "logs"
    logs.mkdir()
    (logs / "raylet.out").write_text("one\n")
    code = "import sys; from nml_ray.cluster import node_logs as n; n.EVERY = 0.1; sys.exit(n.main())"
    process = subprocess.Popen([sys.executable, "-c", code, storage, "x", str(logs)])
    record, host = record_of(storage, "x"), socket.gethostname()
    until(lambda: text(record, "raylet.out", host) == "one\n")
    process.terminate()
    assert process.wait() == 0
    done = subprocess.run([sys.executable, "-m", "nml_ray.cluster.node_logs", "ftp://x", "x", "y"], capture_output=True)
    assert (done.returncode, done.stderr[:9]) == (2, b"nml-ray: ")
