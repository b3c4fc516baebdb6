"""Submitting to this machine: sent, followed, listed, stopped, and read when everything is gone."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nml_ray.cli.main import call
from nml_ray.cluster import registry
from nml_ray.cluster.record import record_of
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
        if process_started(pid := int(submission.handle["pid"])) == int(submission.handle["process"]):
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
