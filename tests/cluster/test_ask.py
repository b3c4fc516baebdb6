"""Who knows how a submission stands: its cluster, its storage, or nobody; and what is said of that."""

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cluster import ask, registry
from nml_ray.cluster.beat import Beat
from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import record_of
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError

ELSEWHERE = {"host": "elsewhere", "pid": "1", "process": "1", "directory": "/"}
SUBMISSION = Submission("demo-1", "demo", {"kind": "local"}, "", ("job.yaml",), "0f", "2026-11-24", ELSEWHERE)
SILENT = {"kind": "address", "address": "http://127.0.0.1:1"}


@pytest.fixture
def submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submission:
    """Made elsewhere; its record is on storage."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return replace(SUBMISSION, storage=str(tmp_path / "runs"))


def leave(submission: Submission, state: str = "succeeded", output: str = "one\ntwo\n") -> None:
    """Leave what a supervisor leaves."""
    record = record_of(submission.storage, submission.id)
    record.write_json("submission.json", submission.to_data())
    now = time.time()
    ended = None if state == "running" else now
    code = {"succeeded": 0, "failed": 1}.get(state)
    beat = Beat(state, 1, "elsewhere", 1, 1, now, now, "two", code, ended)
    record.write_json("status.json", beat.to_data())
    log = Parts(record, "driver", ".log")
    log.add(output.encode())
    log.flush()


def test_storage_counts_where_the_cluster_knows_nothing(submission):
    leave(submission)
    found = ask.standing(submission)
    assert found.status == Status("succeeded", "two", 0, "storage")
    assert found.notes == ("local: the cluster does not know it (any more), its storage does",)
    assert ask.log(submission) == ("one\ntwo\n", "")
    assert "".join(ask.follow(submission)) == "one\ntwo\n"


def test_storage_counts_where_the_cluster_does_not_answer(submission):
    submission = replace(submission, cluster=SILENT)
    leave(submission, "failed")
    found = ask.standing(submission)
    assert found.status == Status("failed", "two", 1, "storage")
    assert len(found.notes) == 1
    assert found.notes[0].startswith("http://127.0.0.1:1")
    assert found.notes[0].endswith("; this is what it left on storage")
    assert "".join(ask.follow(submission)) == "one\ntwo\n"
    assert ask.log(submission) == ("one\ntwo\n", found.notes[0])


def test_a_cluster_tells_what_is_printed_where_the_storage_cannot_be_read(submission, tmp_path):
    (tmp_path / "runs").write_text("no directory")
    (tmp_path / "supervisor.log").write_text("one\ntw")
    here = {**ELSEWHERE, "host": socket.gethostname(), "directory": str(tmp_path)}
    assert ask.log(replace(submission, handle=here)) == ("one\ntw", "")
    assert ask.log(submission) == ("", "")


def test_what_nobody_knows_is_lost(submission):
    found = ask.standing(submission)
    assert found.status == Status("lost", "neither its cluster nor its storage knows of it", None, "storage")
    assert found.notes[-1] == f"{submission.storage}: nothing was left there"
    assert "".join(ask.follow(submission)) == ""
    assert ask.log(submission) == ("", "")


def test_submissions_are_found_on_storage(submission):
    later = replace(submission, id="demo-2", submitted="2026-11-25")
    for one in (submission, later):
        leave(one)
    storage = submission.storage
    assert ask.find("demo-1", storage) == submission
    assert ask.find("last", storage) == later
    with pytest.raises(UserError, match="2 submissions begin with 'dem'"):
        ask.find("dem", storage)
    with pytest.raises(UserError, match=r"no submission 'domo-1' left its record there; .* did you mean 'demo-1'"):
        ask.find("domo-1", storage)


def test_a_record_without_its_submission_can_be_read(submission):
    id = "demo-20261124-000000-abcd"
    record = record_of(submission.storage, id)
    record.write_json("status.json", Beat("succeeded", 1, "x", 1, 1, 0, 0, "done", 0, 1).to_data())
    found = ask.find("demo-2026", submission.storage)
    assert (found.id, found.job, found.kind) == (id, "demo", ask.UNKNOWN)
    assert ask.standing(found) == ask.Standing(Status("succeeded", "done", 0, "storage"))


def test_a_storage_that_moved_is_where_it_is_now(submission, tmp_path):
    leave(submission)
    moved = tmp_path / "moved"
    Path(submission.storage).rename(moved)
    assert ask.find("demo-1", str(moved)).storage == str(moved)
    assert ask.standing(ask.find("demo-1", str(moved))).status.state == "succeeded"


def test_a_silent_cluster_is_asked_once_and_an_end_is_remembered(submission):
    ones = [replace(submission, id=f"demo-{number}", cluster=SILENT) for number in range(3)]
    leave(ones[0])
    leave(ones[1], "running")
    found = ask.survey([*ones, replace(submission, id="demo-9")])
    assert [one.status.state for one in found] == ["succeeded", "running", "lost", "lost"]
    assert len({one.notes[0] for one in found[:3]}) == 1
    assert registry.end_of("demo-0") == Status("succeeded", "two", 0, "storage")
    assert registry.end_of("demo-1") is None
    record = record_of(ones[0].storage, "demo-0")
    record.write("status.json", b"gone")
    assert ask.survey(ones[:1])[0].status.state == "succeeded"
