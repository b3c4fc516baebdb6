"""Who knows how a submission stands: its cluster, its storage, or nobody; and what is said of that."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nml_ray.cluster import ask, registry
from nml_ray.cluster.beat import Beat
from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import record_of
from nml_ray.cluster.submission import Status, Submission, new_id
from nml_ray.config.errors import UserError
from nml_ray.storage.pulse import process_started

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
    told = {"kind": "local (not asked)"}
    assert ask.find("demo-1", storage) == replace(submission, cluster=told)
    assert ask.find("last", storage) == replace(later, cluster=told)
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
    for one in ones:
        registry.remember(one)
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


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server that answers as a job server, and what it was asked, with which token."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization', '')}".strip())
            body = b'{"authentication_mode": "token", "ray_version": "2.60.0"'
            body += b', "status": "RUNNING", "driver_exit_code": null}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


def test_the_cluster_of_anothers_record_is_asked_only_if_the_user_names_it(submission, server, tmp_path, monkeypatch):
    address, asked = server
    secret = tmp_path / "secret"
    secret.write_text("for nobody else")
    secret.chmod(0o600)
    cluster = {"kind": "address", "address": address, "token_file": str(secret)}
    submission = replace(submission, cluster=cluster)
    leave(submission, "running")
    found = ask.find("demo-1", submission.storage)
    assert found.kind == "address (not asked)"
    assert ask.backend(found) is None
    assert ask.standing(found).status.source == ask.survey([found])[0].status.source == "storage"
    assert "".join(ask.log(found)) == "one\ntwo\n"
    leave(submission)
    assert "".join(ask.follow(ask.find("last", submission.storage))) == "one\ntwo\n" * 2
    assert asked == []
    named = ask.find("demo-1", submission.storage, {"kind": "address", "address": address})
    assert ask.standing(named).status.source == "cluster"
    assert asked
    assert not any("nobody else" in one for one in asked)


def test_no_line_of_anothers_record_is_run(submission, tmp_path):
    touched = tmp_path / "touched"
    ray = {"cluster_name": "x", "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}}
    ray["auth"] = {"ssh_user": "x", "ssh_proxy_command": f"touch {touched}"}
    leave(submission := replace(submission, cluster={"kind": "launcher", "ray": ray}), "running")
    found = ask.find("demo-1", submission.storage)
    assert ask.standing(found).status.state == "running"
    "".join(ask.log(found))
    assert not touched.exists()


def test_a_record_under_an_id_of_ours_does_not_replace_our_cluster(submission):
    registry.remember(submission)
    leave(replace(submission, cluster=SILENT, handle={}))
    assert ask.find("demo-1", submission.storage) == submission


def test_of_anothers_handle_only_a_job_number_is_taken(submission):
    cluster = {"kind": "slurm", "directory": "/shared", "time": "60"}
    for job, taken in [("123", {"job": "123"}), ("--me", {}), ("", {})]:
        leave(replace(submission, cluster=cluster, handle={"job": job, "host": "x"}))
        assert ask.find("demo-1", submission.storage, cluster).handle == taken
    with pytest.raises(UserError, match="a job on a machine of its own is asked for there"):
        ask.find("demo-1", submission.storage, {"kind": "local"})


def test_an_unreadable_record_blocks_no_other(submission):
    leave(submission)
    broken = record_of(submission.storage, "demo-0")
    broken.write_json("submission.json", {"a": 1})
    later = replace(submission, id="demo-3", submitted="2026-11-26")
    leave(later)
    record_of(submission.storage, "demo-3").write_json("status.json", [1])
    assert isinstance(ask.kept_or_flaw(submission.storage, "demo-0"), UserError)
    assert ask.find("last", submission.storage).id == "demo-3"
    with pytest.raises(UserError, match=r"demo-0/submission\.json: cannot be understood"):
        ask.find("demo-0", submission.storage)
    found = ask.standing(ask.find("demo-3", submission.storage)).status
    assert (found.state, found.ended) == ("unreadable", False)
    assert "demo-3/status.json: cannot be understood" in found.message
    with pytest.raises(UserError, match="cannot be understood"):
        "".join(ask.follow(ask.find("demo-3", submission.storage)))


def test_an_end_is_remembered_whoever_saw_it(submission, server):
    address, _ = server
    submission = replace(submission, cluster={"kind": "address", "address": address})
    registry.remember(submission)
    assert ask.standing(submission).status.state == "running"
    assert registry.end_of("demo-1") is None
    gone = replace(submission, cluster=SILENT)
    leave(gone, "failed")
    assert ask.standing(gone).status.state == "failed"
    record_of(submission.storage, "demo-1").write("status.json", b"gone")
    assert ask.standing(submission).status == Status("failed", "two", 1, "storage")


def test_an_attempt_that_ended_on_a_silent_cluster_that_restarts_jobs_is_no_end(submission):
    submission = replace(submission, cluster={"kind": "slurm", "directory": "/shared", "time": "60"})
    registry.remember(submission)
    silence = ask.Silence("slurmctld does not answer")
    leave(submission, "stopped")
    assert ask.standing(submission, silence).status.state == "stopped"
    assert registry.end_of("demo-1") is None
    leave(submission)
    assert ask.standing(submission, silence).status.state == "succeeded"
    assert registry.end_of("demo-1") == Status("succeeded", "two", 0, "storage")


def test_what_is_being_sent_is_neither_lost_nor_ended(submission):
    submission = replace(submission, handle=ask.sender())
    found = ask.standing(submission)
    assert (found.status, found.notes) == (Status("sending", "at this moment", None, "storage"), ())
    assert not found.status.ended
    elsewhere = replace(submission, handle={**ask.sender(), "from": f"not-{socket.gethostname()}"})
    assert ask.standing(elsewhere).status.state == "sending"


def test_what_was_not_sent_to_its_end_is_said_to_be_that(submission):
    assert process_started(os.getpid()) != 1
    submission = replace(submission, id=new_id("demo"), handle={**ask.sender(), "process": "1"})
    found = ask.standing(submission)
    assert found.status.state == "not sent"
    assert found.notes == ()
    silent = ask.standing(replace(submission, cluster=SILENT)).status
    assert (silent.state, silent.message) == (
        "unreadable",
        "its sending was broken off, and its cluster does not answer",
    )
    leave(submission, "running")  # it had been sent all the same
    assert ask.standing(submission).status.state == "running"


def test_storage_that_cannot_be_read_is_asked_once_and_nobody_is_called_lost(submission, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(ask, "_SHORT", ask._ONCE)
    ones = [replace(submission, id=f"demo-{number}", storage="s3://bucket/x") for number in range(3)]
    found = ask.survey(ones)
    assert {one.status.state for one in found} == {"unreadable"}
    assert len({one.notes for one in found}) == 1
    assert len(found[0].notes) == 1
