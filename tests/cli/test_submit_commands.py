"""Submitting to this machine: sent, followed, listed, stopped, and read when everything is gone."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nml_ray.cli.main import call
from nml_ray.cluster import registry
from nml_ray.cluster.ask import sender
from nml_ray.cluster.record import record_of
from nml_ray.cluster.submission import Submission
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import Patience
from nml_ray.storage.pulse import process_started
from tests.submitted import begun, code_directory, nml_ray, until

ENDLESS = 10_000_000  # epochs


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, from which nothing has been submitted before; what runs at the end is killed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = code_directory(tmp_path / "code")
    monkeypatch.chdir(directory)
    yield directory
    for submission in registry.known():
        pid = int(submission.handle.get("pid", "0"))
        if pid and process_started(pid) == int(submission.handle["process"]):
            os.kill(pid, signal.SIGKILL)


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    capfd.readouterr()
    code = call(list(arguments))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.mark.long
def test_a_job_is_submitted_followed_listed_and_read_when_all_is_gone(code, capfd, tmp_path):
    status, output, errors = said(capfd, "submit", "job.yaml", "--cluster", "local.yaml", "--inline", "--follow")
    assert status == 0
    id, *lines = output.splitlines()
    assert lines[-1] == f"report: {code}/runs/studies/tiny/report.html"
    assert f"later: nml-ray status {id} | nml-ray logs -f {id} | nml-ray stop {id}" in errors
    assert (code / "runs/studies/tiny/report.html").is_file()
    submission = registry.find("last")
    assert submission.arguments == ("job.yaml", "--inline")
    assert submission.storage == str(code / "runs")

    record = record_of(submission.storage, id)
    kept = yaml.safe_load(record.read("job.yaml") or b"")
    assert kept["run"]["storage"] == submission.storage
    assert json.loads(record.read("submission.json") or b"") == json.loads(json.dumps(submission.to_data()))

    assert said(capfd, "logs", id)[1].splitlines() == lines
    assert said(capfd, "logs", "-f", id[:-2])[:2] == (0, "\n".join(lines) + "\n")
    heads, row = said(capfd, "list")[1].splitlines()
    assert heads.split() == ["id", "cluster", "state", "submitted", "message"]
    assert row.startswith(f"{id}  local    succeeded  2")
    assert said(capfd, "stop", "last")[1] == f"{id} has ended already: succeeded\n"

    shutil.rmtree(tmp_path / "state")
    assert said(capfd, "status", "last")[0] == 2
    storage = str(code / "runs")
    status, output, errors = said(capfd, "status", id, "--storage", storage)
    assert "state:      succeeded\nexit code:  0\n" in output
    assert said(capfd, "logs", "last", "--storage", storage)[1].splitlines() == lines
    assert id in said(capfd, "list", "--storage", storage)[1]


@pytest.mark.long
def test_a_job_that_fails_says_so_with_its_code(code, capfd):
    (code / "test.npz").write_bytes(b"")
    status, output, errors = said(capfd, "submit", "job.yaml", "--cluster", "local", "--inline", "--follow")
    assert status in (1, 2)
    assert f"nml-ray: {output.split()[0]} failed" in errors
    again = said(capfd, "logs", "-f", "last")
    assert again[0] == status
    assert "test.npz" in again[1]


@pytest.mark.long
def test_ctrl_c_lets_go_and_stop_ends_the_job(code, capfd):
    code_directory(code, epochs=ENDLESS)
    process = begun("submit", "job.yaml", "--cluster", "local.yaml", "--inline", "--follow")
    assert process.stdout
    id = process.stdout.readline().strip()
    assert process.stdout.readline()  # the job is at work
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"the job goes on; later: nml-ray status {id}" in errors

    record = record_of(str(code / "runs"), id)
    assert "state:      running" in said(capfd, "status", id)[1]
    status, output, _ = said(capfd, "stop", id)
    assert (status, output) == (0, f"{id} is told to stop; nml-ray logs -f {id} shows it end\n")
    status, output, errors = said(capfd, "logs", "-f", id)
    assert status == 130
    assert f"nml-ray: {id} stopped" in errors
    assert record.read_json("status.json")["state"] == "stopped"


@pytest.mark.long
def test_a_killed_job_is_lost(code, capfd):
    code_directory(code, epochs=ENDLESS)
    id = said(capfd, "submit", "job.yaml", "--cluster", "local.yaml", "--inline")[1].strip()
    record = record_of(str(code / "runs"), id)
    until(lambda: record.read("status.json"))
    handle = registry.find(id).handle
    os.kill(int(handle["pid"]), signal.SIGKILL)
    until(lambda: process_started(int(handle["pid"])) == -1)
    assert "state:      lost" in said(capfd, "status", id)[1]
    assert said(capfd, "logs", "-f", id)[0] == 1


def test_what_is_wrong_is_said_before_anything_is_sent(code, capfd):
    def refused(*arguments: str) -> str:
        status, output, errors = said(capfd, "submit", *arguments)
        assert (status, output) == (2, "")
        return errors

    assert "unknown key 'hads'" in refused("job.yaml", "--cluster", "local", "--set", "hads.seeds=[1]")
    assert "did you mean 'local'?" in refused("job.yaml", "--cluster", "locl")
    assert "local.yaml:1: kind = lokal; expected one of local" in _with(code, "kind: lokal", refused)
    assert "expected an interpreter of this machine" in _with(code, "{kind: local, python: /no/python}", refused)
    (code / ".env").write_text("SECRET=1")
    assert f"{code}/.env: looks like a file of environment variables, which is never sent" in refused(
        "job.yaml", "--cluster", "local"
    )
    assert registry.known() == []
    assert not (code / "runs").exists()


def _with(code: Path, text: str, refused) -> str:
    (code / "local.yaml").write_text(text)
    return refused("job.yaml", "--cluster", "local.yaml")


def test_storage_and_data_must_be_where_the_cluster_sees_them(code, capfd):
    (code / "far.yaml").write_text("{kind: slurm, directory: /shared/jobs, time: '60'}")

    def refused(*options: str) -> str:
        status, _, errors = said(capfd, "cluster", "render", "far.yaml", "job.yaml", *options)
        assert status == 2
        return errors

    assert refused() == (
        "nml-ray: job.yaml:1: storage 'runs' is relative, and the machines of the cluster have another directory; "
        "expected --storage, or storage: in the cluster file, with a URL or an absolute path that they see\n"
    )
    assert "--storage: storage 'there' is relative" in refused("--storage", "there")
    (code / ".nmlignore").write_text("test.npz\n")
    assert refused("--storage", "/shared/runs") == (
        "nml-ray: job.yaml:5: features.test = test.npz lies on this machine and is not sent; expected an absolute path "
        "or a URL that the cluster's machines see\n"
    )


def test_render_shows_what_would_be_started(code, capfd):
    status, output, _ = said(capfd, "cluster", "render", "local.yaml", "job.yaml", "--set", "name=it's", "--inline")
    assert status == 2
    status, output, _ = said(capfd, "cluster", "render", "local.yaml", "job.yaml", "--set", "title=it's", "--inline")
    assert status == 0
    assert "-m nml_ray.cluster.supervisor" in output
    assert """--set 'title=it'"'"'s' --inline --storage""" in output
    checked = subprocess.run(["sh", "-n"], input=output, text=True)
    assert checked.returncode == 0
    assert registry.known() == []


def test_the_life_of_this_machine_is_not_ours(code, capfd):
    assert said(capfd, "cluster", "status", "local")[1].startswith("this machine, ")
    assert said(capfd, "cluster", "up", "local") == (0, "", "")
    assert said(capfd, "cluster", "down", "local") == (0, "", "")


def left(storage: Path, id: str, data: object, name: str = "submission.json") -> None:
    record_of(str(storage), id).write_json(name, data)


HOSTILE = "\x1b]0;title\x07"


def test_records_of_others_are_listed_each_by_itself(code, capfd, tmp_path):
    storage = tmp_path / "shared"
    good = {"id": "demo-1", "job": f"demo{HOSTILE}", "cluster": {"kind": f"slurm{HOSTILE}"}, "storage": "x"}
    good |= {"arguments": [], "code": HOSTILE, "submitted": "2026-11-24"}
    beat = {"state": "failed", "attempt": 1, "host": "x", "pid": 1, "process": 1, "started": 0, "heartbeat": 0}
    beat |= {"message": f"one{HOSTILE}\ntwo", "ended": 1, "exit_code": 1}
    left(storage, "demo-1", good)
    left(storage, "demo-1", beat, "status.json")
    left(storage, "demo-2", {"a": HOSTILE})
    left(storage, "demo-3", [1], "status.json")
    left(storage, "demo-4", {**good, "id": "../../../x"})
    record_of(str(storage), "demo-1").write("driver/000001.log", f"{HOSTILE}\x1b[31mred\x1b[0m\n".encode())
    status, output, errors = said(capfd, "list", "--storage", str(storage))
    assert status == 0
    rows = {line.split()[0]: line for line in output.splitlines()[1:]}
    assert rows["demo-1"].endswith("one two")
    assert "slurm (not asked)" in rows["demo-1"]
    assert all("unreadable" in rows[f"demo-{number}"] for number in (2, 3, 4))
    assert not list(tmp_path.rglob("x.json"))
    shown = [output, errors]
    for id in ("demo-1", "demo-2", "demo-3", "demo-4"):
        for command in ("status", "logs", "stop"):
            status, output, errors = said(capfd, command, id, "--storage", str(storage))
            assert status == (0 if id == "demo-1" or (id, command) in (("demo-3", "status"), ("demo-3", "logs")) else 2)
            assert len(errors.splitlines()) <= 1
            shown += [output, errors]
    assert "red\n" in "".join(shown)
    assert not {"\x07", "\x1b]"} & {one for text in shown for one in ("\x07", "\x1b]") if one in text}
    assert said(capfd, "gc", "--storage", str(storage), "--submissions", "--older-than", "0")[0] == 0


def test_a_torn_file_of_what_was_submitted_here_blocks_nothing(code, capfd):
    registry.directory().mkdir(parents=True)
    (registry.directory() / "torn-1.json").write_text("{")
    status, output, errors = said(capfd, "list")
    assert (status, output) == (0, "")
    assert "torn-1.json: holds no submission (" in errors
    assert said(capfd, "status", "torn-1")[0] == 2


def test_nothing_is_sent_that_could_not_be_found_again(code, capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "code" / "job.yaml"))
    status, output, errors = said(capfd, "submit", "job.yaml", "--cluster", "local.yaml", "--inline")
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "cannot be written (Not a directory)" in errors
    assert not (code / "runs").exists()


@pytest.mark.long
def test_what_was_sent_and_cannot_be_kept_is_named_and_found(code, capfd, monkeypatch):
    remember, calls = registry.remember, []

    def once(submission: Submission) -> None:
        calls.append(submission)
        if len(calls) == 2:  # the disk is full by now
            raise UserError("cannot be written (No space left on device)", where="state")
        remember(submission)

    code_directory(code, epochs=ENDLESS)
    monkeypatch.setattr(registry, "remember", once)
    status, output, errors = said(capfd, "submit", "job.yaml", "--cluster", "local.yaml", "--inline")
    id = output.strip()
    assert status == 0
    assert f"nml-ray: {id} was sent; its cluster's name for it (host {socket.gethostname()}, pid " in errors
    assert "is not kept here: state: cannot be written (No space left on device)" in errors
    assert "state:      running" in said(capfd, "status", id)[1]
    until(lambda: record_of(str(code / "runs"), id).read("status.json"))
    assert said(capfd, "stop", id)[0] == 0
    until(lambda: "state:      stopped" in said(capfd, "status", id)[1])


def test_stop_says_what_became_of_what_was_not_sent(code, capfd):
    one = Submission("tiny-1", "tiny", {"kind": "local"}, str(code / "runs"), ("job.yaml",), "0", "", sender())
    registry.remember(one)
    refused = said(capfd, "stop", "tiny-1")[2]
    assert "tiny-1: is being sent (at this moment); expected Ctrl-C where it is sent" in refused
    assert "sending" in said(capfd, "list")[1]
    registry.remember(replace(one, handle={**one.handle, "process": "1"}))
    assert said(capfd, "stop", "tiny-1") == (0, "tiny-1 was not sent: there is nothing to stop\n", "")
    registry.forget("tiny-1")


@pytest.mark.parametrize("command", ["list", "status x", "logs x", "logs -f x", "stop x"])
def test_storage_that_does_not_answer_is_told_of_soon(code, capfd, monkeypatch, command):
    monkeypatch.setattr("nml_ray.cli.submissions.PLANNING", Patience(total=0.1))  # unlike minutes for a job at work
    storage = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http"
    status, output, errors = said(capfd, *command.split(), "--storage", storage)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "cannot be reached" in errors


def test_nothing_submitted_is_said(code, capfd, tmp_path):
    assert said(capfd, "list") == (0, "", "nml-ray: nothing was submitted from this machine\n")
    assert said(capfd, "list", "--storage", str(tmp_path))[2] == "nml-ray: there are no submissions\n"
    assert "no submission 'x' left its record there" in said(capfd, "status", "x", "--storage", str(tmp_path))[2]


@pytest.mark.long
@pytest.mark.parametrize("name", ["submit", "list", "status", "logs", "stop", "cluster", "cluster render"])
def test_help_has_examples(name):
    done = nml_ray(*name.split(), "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
