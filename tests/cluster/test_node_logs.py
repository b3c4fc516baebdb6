"""Logs of a cluster's nodes lie in the submission's record, each once and whole, while it runs and afterwards."""

import json
import time

import pytest

from nml_ray.cluster import node_logs
from nml_ray.cluster.node_logs import Copier, Copying, NodeLogs
from nml_ray.cluster.record import record_of
from nml_ray.config.errors import UserError


def lines(record, folder: str) -> bytes:
    return b"".join(record.parts(f"nodes/{folder}"))


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs" / "train").mkdir(parents=True)
    return tmp_path / "logs"


def test_every_log_is_copied_once_from_where_the_copy_stopped(tmp_path, logs):
    record = record_of(str(tmp_path / "runs"), "demo-1")
    copier = Copier(record, "a", logs, "01000000")
    ours = logs / "worker-00ff-01000000-12.out"
    ours.write_bytes(b"one\n")
    (logs / "worker-00ff-02000000-13.out").write_bytes(b"somebody else's\n")
    (logs / "dashboard.log").write_bytes(b"noise\n")
    (logs / "train" / "ray-train-app-worker-1.log").write_bytes(b"trained\n")
    copier.copy()
    with open(ours, "ab") as file:
        file.write(b"two\n")
    copier.copy()
    assert lines(record, "a/ray/worker-00ff-01000000-12.out") == b"one\ntwo\n"
    assert lines(record, "a/ray/train/ray-train-app-worker-1.log") == b"trained\n"
    assert record.names("nodes/a/ray") == ["train", "worker-00ff-01000000-12.out"]
    used = [json.loads(line) for line in lines(record, "a/machine").splitlines()]
    assert len(used) == 2 and used[0]["machine"]["cpus"] >= 1


def test_a_log_without_end_is_cut(tmp_path, logs, monkeypatch):
    monkeypatch.setattr(node_logs, "MOST", 5)
    monkeypatch.setattr(node_logs, "_PIECE", 5)
    (logs / "raylet.out").write_bytes(b"0123456789")
    record = record_of(str(tmp_path / "runs"), "demo-1")
    copier = Copier(record, "a", logs, "01")
    copier.copy()
    copier.copy()
    assert lines(record, "a/ray/raylet.out") == b"01234"


def test_storage_that_cannot_be_written_loses_nothing(tmp_path, logs):
    (logs / "raylet.err").write_bytes(b"why\n")
    (tmp_path / "runs").write_text("a file where the storage should be")
    record = record_of(str(tmp_path / "runs"), "demo-1")
    copier = Copier(record, "a", logs, "01")
    with pytest.raises(UserError, match="cannot be"):
        copier.copy()
    (tmp_path / "runs").unlink()
    copier.copy()
    assert lines(record, "a/ray/raylet.err") == b"why\n"


def test_trouble_is_told_until_it_has_passed(tmp_path, logs):
    (logs / "raylet.err").write_bytes(b"why\n")
    (tmp_path / "runs").write_text("a file where the storage should be")
    record = record_of(str(tmp_path / "runs"), "demo-1")
    copying = Copying(Copier(record, "a", logs, "01"), pace=0.01)
    while not copying.trouble():
        time.sleep(0.01)
    assert str(tmp_path / "runs") in copying.trouble()
    (tmp_path / "runs").unlink()
    while copying.trouble():
        time.sleep(0.01)
    assert copying.finish() == ""
    assert lines(record, "a/ray/raylet.err") == b"why\n"


@pytest.mark.ray
def test_a_record_that_cannot_be_written_is_said_once(shared_ray, tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file where the storage should be")
    said: list[str] = []
    monkeypatch.setattr(node_logs, "LOOK", 0.1)
    logs = NodeLogs(str(tmp_path / "runs"), "demo-1", said.append)
    logs.begin()
    while not said:
        time.sleep(0.1)
    time.sleep(1)  # some more looks
    logs.finish()
    (line,) = said
    assert line.startswith("logs of the cluster's nodes cannot be copied to the job's record; the job goes on (")
    assert str(tmp_path / "runs") in line


@pytest.mark.ray
def test_nodes_of_a_running_ray(shared_ray, tmp_path):
    import ray

    logs = NodeLogs(str(tmp_path), "demo-1", pytest.fail)
    logs.begin()

    @ray.remote
    def say() -> None:
        print("here I am", flush=True)

    ray.get(say.remote())
    while not logs._actors:
        time.sleep(0.1)
    logs.finish()
    record = record_of(str(tmp_path), "demo-1")
    (node,) = record.names("nodes")
    said = [lines(record, f"{node}/ray/{name}") for name in record.names(f"nodes/{node}/ray") if name.endswith(".out")]
    assert any(b"here I am" in text for text in said), (record.names(f"nodes/{node}/ray"), said)
