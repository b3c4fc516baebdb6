"""Jobs on a running cluster: a real head with its job server and a token, one for all tests here."""

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.cluster import ask, job_log
from nml_ray.cluster.address import Cluster, archive, job_request
from nml_ray.cluster.collect import collect
from nml_ray.cluster.config import AddressCluster, CodeSettings
from nml_ray.cluster.job_server import JobServer
from nml_ray.cluster.record import DRIVER, record_of
from nml_ray.cluster.submission import Status, Submission, new_id
from nml_ray.cluster.watch import status_of
from nml_ray.config.errors import UserError
from tests.cluster.cut_proxy import CutProxy
from tests.cluster.ray_head import Head
from tests.small_icons import small_icons

pytestmark = pytest.mark.ray

JOB = "name: small\nthreads: 1\nnoise: {ratios: [0.1]}\npretrain: {epochs: 1, batch: 128}\n"
ENCODER = '--set=pretrain.encoder={"name": "small_resnet", "width": 8, "channels": 1, "size": 32}'


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.stop()


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No token of this machine's, no record of its submissions."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path) -> Path:
    """A user's directory, with a job and a module of the user's."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "job.yaml").write_text(JOB)
    (directory / "mine.py").write_text("ANSWER = 42\n")
    return directory


@pytest.fixture
def cluster(head) -> Cluster:
    settings = AddressCluster(
        kind="address",
        address=head.address,
        token_file=str(head.token_file),
        python=sys.executable,
        stop_seconds=20,
        environment={"GREETING": "hello there"},
    )
    return Cluster(settings)


def submission_of(cluster: Cluster, tmp_path: Path, *arguments: str) -> Submission:
    storage = str(tmp_path / "storage")
    return Submission(new_id("small"), "small", cluster.cluster.model_dump(), storage, ("job.yaml", *arguments), "", "")


def script(cluster: Cluster, project: Path, text: str) -> Submission:
    """Submit a script in the place of `nml-ray run`."""
    (project / "main.py").write_text(text)
    submission = submission_of(cluster, project.parent)
    name, data = archive(collect(CodeSettings(directory=str(project)), project / "job.yaml").package)
    cluster.server.put_package(name, data)
    request = job_request(cluster.cluster, submission, name)
    supervisor = request["entrypoint"].partition(" -- ")[0]
    request["entrypoint"] = f"{supervisor} -- {shlex.quote(sys.executable)} main.py"
    cluster.server.submit(request)
    return submission


def followed(cluster: Cluster, submission: Submission) -> str:
    return "".join(cluster.follow(submission))


def test_check_says_what_answers(cluster, head):
    line, nodes = cluster.check()
    assert re.fullmatch(r"1 node at present, with \d+ CPUs and 0 GPUs", nodes)
    assert line.startswith("Ray ") and line.endswith(f"takes the token of {head.token_file}")
    assert cluster.server.python() == platform.python_version()
    with_name = Cluster(cluster.cluster.model_copy(update={"python": "python3"}))
    assert "'python3' is looked up on the head's PATH" in with_name.check()[1]


def test_its_nodes_are_told_to_who_has_the_token(cluster):
    (node,) = cluster.nodes()
    assert node["CPU"] == 2 and "GPU" not in node and node["memory"] > 0


def test_no_token(head):
    with pytest.raises(
        UserError, match=r"asks for a token, and there is none here; expected token_file in the cluster"
    ):
        JobServer(head.address).job("small-1")


def test_a_wrong_token(head, tmp_path):
    wrong = tmp_path / "token"
    wrong.touch(mode=0o600)
    wrong.write_text("0123456789abcdef")
    with pytest.raises(UserError, match=f"refuses the token .{wrong}.; expected the token of this cluster") as caught:
        JobServer(head.address, str(wrong)).job("small-1")
    assert "0123456789abcdef" not in str(caught.value)


def test_the_token_of_the_environment(head, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token_file.read_text())
    assert JobServer(head.address).greet().endswith("takes the token of RAY_AUTH_TOKEN")


def test_a_job_that_nobody_knows(cluster, tmp_path):
    submission = submission_of(cluster, tmp_path)
    assert cluster.status(submission) is None
    for question in (cluster.stop, lambda submission: list(cluster.follow(submission))):
        with pytest.raises(UserError, match="does not know the job"):
            question(submission)


def test_code_that_is_too_large(cluster):
    with pytest.raises(UserError, match=r"100 MiB at most: leave files out with 'code\.exclude'"):
        cluster.server.put_package("_ray_pkg_test.zip", bytes(101 << 20))


def test_render_shows_the_requests_and_no_secret(cluster, project, head):
    package = collect(CodeSettings(directory=str(project)), project / "job.yaml").package
    text = cluster.render(submission_of(cluster, project.parent, "--set", "name=a b"), package)
    put, _, post, *body = text.splitlines()
    assert put.startswith(f"PUT {head.address}/api/packages/gcs/_ray_pkg_")
    assert post == f"POST {head.address}/api/jobs/"
    assert "run job.yaml --set 'name=a b' --storage" in json.loads("\n".join(body))["entrypoint"]
    assert head.token_file.read_text() not in text


ON_WORKERS = """
import os
from nml_ray import session
session.join("auto")
import ray

@ray.remote
def where():
    import mine, nml_ray
    return mine.__file__, nml_ray.__file__, os.getcwd(), os.environ["GREETING"], mine.ANSWER

print("worker:", *ray.get(where.remote()), sep="|")
session.stop()
"""


def test_driver_and_workers_have_the_code_and_the_environment(cluster, project, head):
    submission = script(cluster, project, ON_WORKERS)
    log = followed(cluster, submission)
    _, mine, ours, directory, *rest = next(line for line in log.splitlines() if line.startswith("worker:")).split("|")
    assert rest == ["hello there", "42"]
    assert directory.startswith(str(head.directory))
    assert (mine, ours) == (f"{directory}/mine.py", f"{directory}/nml_ray/__init__.py")
    assert cluster.status(submission) == Status("succeeded", "", 0)
    assert status_of(record_of(submission.storage, submission.id)).state == "succeeded"
    with pytest.raises(UserError, match="a job with this id is there already"):
        cluster.submit(submission, collect(CodeSettings(directory=str(project)), project / "job.yaml").package)


def test_output_that_is_no_text_and_a_failure(cluster, project):
    text = "import sys; sys.stdout.buffer.write(b'caf\\xe9 \\xff\\r\\nno line after this'); sys.exit(3)"
    submission = script(cluster, project, text)
    assert followed(cluster, submission).endswith("caf\ufffd \ufffd\nno line after this")
    assert cluster.status(submission) == Status("failed", "no line after this", 3)
    assert status_of(record_of(submission.storage, submission.id)).exit_code == 3


def test_an_interpreter_that_is_not_there(head, project):
    settings = AddressCluster(
        kind="address", address=head.address, token_file=str(head.token_file), python="python2.4", environment={}
    )
    cluster = Cluster(settings)
    submission = submission_of(cluster, project.parent)
    cluster.submit(submission, collect(CodeSettings(directory=str(project)), project / "job.yaml").package)
    assert "python2.4: not found" in followed(cluster, submission)
    status = cluster.status(submission)
    assert (status.state, status.exit_code) == ("failed", 127)
    assert status.message.startswith("the head has no 'python2.4': 'python' in the cluster file")


STOPPABLE = """
import signal, sys, time

def stop(*_):
    time.sleep(4)  # longer than Ray's own three seconds
    print("at a checkpoint")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
print("waits")
while True:
    time.sleep(0.1)
"""


def test_a_job_that_is_stopped_reaches_its_checkpoint(cluster, project):
    submission = script(cluster, project, STOPPABLE)
    log = ""
    for piece in cluster.follow(submission):
        if "waits" in piece:
            assert cluster.status(submission).state == "running"
            cluster.stop(submission)
        log += piece
    assert log.endswith("waits\nat a checkpoint\n")
    assert cluster.status(submission).state == "stopped"
    told = status_of(record_of(submission.storage, submission.id))
    assert (told.state, told.exit_code) == ("stopped", 143)


COUNTING = "import time\nfor n in range(3000):\n    print('line', n)\n    time.sleep(0.002)\n"


def test_a_log_survives_broken_connections(cluster, project, head):
    proxy = CutProxy(int(head.address.rpartition(":")[2]), most=4000)
    submission = script(cluster, project, COUNTING)
    through = JobServer(proxy.address, str(head.token_file))
    lines = "".join(job_log.follow(through, submission.id)).splitlines()
    proxy.close()
    assert lines[-3000:] == [f"line {n}" for n in range(3000)]
    assert sum(line.startswith("line") for line in lines) == 3000
    assert proxy.cuts > 3


def test_a_running_job_is_read_though_its_storage_is_out_of_reach(cluster, project):
    submission = script(cluster, project, "import time\nprint('one')\ntime.sleep(100)\n")
    elsewhere = replace(submission, storage=str(project / "job.yaml"))  # no directory
    while not (told := ask.log(elsewhere)[0]).endswith("one\n"):
        assert ask.standing(elsewhere).status.state in ("queued", "running"), told
        time.sleep(0.2)
    cluster.stop(submission)


def test_the_commands(head, project, tmp_path, monkeypatch, capsys):
    data = small_icons(tmp_path / "icons")
    path = tmp_path / "lab.yaml"
    path.write_text(
        f"kind: address\naddress: {head.address}\ntoken_file: {head.token_file}\npython: {sys.executable}\n"
        f"storage: {tmp_path / 'runs'}\n"
    )
    monkeypatch.chdir(project)
    code = call(["submit", "job.yaml", "--cluster", str(path), "--set", data, ENCODER, "--until", "ledger", "--follow"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "2 artifacts, listed in" in out
    assert call(["list"]) == 0
    assert "succeeded" in capsys.readouterr().out
    assert call(["status", "last"]) == 0
    assert "succeeded" in capsys.readouterr().out
    assert call(["logs", "last"]) == 0
    assert "2 artifacts, listed in" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_is_trained_on_the_cluster(cluster, project, tmp_path):
    data = small_icons(tmp_path / "icons")
    submission = submission_of(cluster, tmp_path, "--set", data, ENCODER, "--until", "pretrain")
    cluster.submit(submission, collect(CodeSettings(directory=str(project)), project / "job.yaml").package)
    log = followed(cluster, submission)
    assert cluster.status(submission) == Status("succeeded", "", 0), log
    assert list((tmp_path / "storage/pretrain").glob("*/record.json"))


def test_a_record_outlives_its_cluster(cluster, project, head):
    """The last one: it ends the head."""
    submission = script(cluster, project, "import time\nprint('began')\ntime.sleep(300)\n")
    record = record_of(submission.storage, submission.id)
    while b"began" not in b"".join(record.parts(DRIVER)):
        time.sleep(0.2)
    head.stop()
    for question in (cluster.status, cluster.stop):
        with pytest.raises(UserError, match="nothing listens there"):
            question(submission)
    with pytest.raises(UserError, match="nothing listens there"):
        list(job_log.follow(cluster.server, submission.id, patience=0.1))
    assert b"began" in b"".join(record.parts(DRIVER))
    assert status_of(record).state in ("lost", "stopped", "failed")
