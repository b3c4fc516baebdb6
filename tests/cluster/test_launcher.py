"""The launcher's cluster: reached through a tunnel that is kept up, its token never shown, its end made sure of."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from nml_ray.cluster import launcher, tunnel
from nml_ray.cluster.config import LauncherCluster
from nml_ray.cluster.launcher import Cluster, describe
from nml_ray.cluster.package import Package
from nml_ray.cluster.submission import Submission
from nml_ray.cluster.tunnel import Tunnel, ssh
from nml_ray.config.errors import UserError

ID = "study-20261124-150000-abcd"


class Dashboard(BaseHTTPRequestHandler):
    """Says what a job server says of itself and of one job, to who shows the token."""

    token: Path

    def do_GET(self) -> None:
        answers = {
            "/api/authentication_mode": {"authentication_mode": "token"},
            "/api/version": {"version": "4", "ray_version": metadata.version("ray")},
            f"/api/jobs/{ID}": {"submission_id": ID, "status": "RUNNING", "driver_exit_code": None, "message": ""},
        }
        shown = self.headers.get("Authorization", "")
        welcome = self.path == "/api/authentication_mode" or shown == f"Bearer {self.token.read_text()}"
        self.send_response(200 if welcome and self.path in answers else 404 if welcome else 403)
        self.end_headers()
        self.wfile.write(json.dumps(answers.get(self.path)).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ssh, and a rsync, before all others on PATH; the user's state in a directory of the test's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in = Path(__file__).with_name("stand_in_ssh.py")
    for name, line in {"ssh": f'exec "{sys.executable}" "{stand_in}" "$@"', "rsync": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "ssh.log"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tunnel, "_PAUSE", 0.05)


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[int]:
    """The port of a job server."""
    token = tmp_path / "state" / "nml_ray" / "launcher" / "lab" / "token"
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Dashboard,), {"token": token}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def cluster_at(port: int = 8265, user: str = "me", **more) -> Cluster:
    ray = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "head", "worker_ips": ["worker"]},
        "auth": {"ssh_user": user, "ssh_private_key": "~/key", "ssh_proxy_command": "nc -x proxy %h %p"},
        **more,
    }
    return Cluster(LauncherCluster(kind="launcher", ray=ray, dashboard_port=port, storage="/shared/runs"))


def submission_to(cluster: Cluster) -> Submission:
    data = cluster.cluster.model_dump(mode="json")
    return Submission(ID, "study", data, "/shared/runs", ("jobs/demo.yaml",), "0" * 16, "2026-11-24")


def arguments_of_ssh(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line) for line in (tmp_path / "ssh.log").read_text().splitlines()]


def test_jobs_are_reached_through_the_tunnel(dashboard, tmp_path):
    cluster = cluster_at(dashboard)
    cluster._make_token()
    status = cluster.status(submission_to(cluster))
    assert status is not None and status.state == "running"
    (words,) = arguments_of_ssh(tmp_path)
    assert words[-1] == "me@head"
    assert words[words.index("-i") + 1] == str(Path.home() / "key")
    assert "ProxyCommand=nc -x proxy %h %p" in words
    assert any(word.endswith(f":127.0.0.1:{dashboard}") for word in words)


def test_a_tunnel_that_breaks_is_opened_again(dashboard, tmp_path):
    cluster = cluster_at(dashboard)
    cluster._make_token()
    with cluster._job_server() as server:
        assert server.status(submission_to(cluster))
        keeper = next(thread for thread in threading.enumerate() if thread.name == "tunnel")
        assert keeper.is_alive()
        children = subprocess.run(
            ["pgrep", "-P", str(os.getpid()), "-f", "stand_in_ssh"], capture_output=True, text=True
        )
        (pid,) = map(int, children.stdout.split())
        os.kill(pid, signal.SIGKILL)
        while len(arguments_of_ssh(tmp_path)) < 2:
            threading.Event().wait(0.05)
        log = [server.server.job(ID)] if _stands(server) else []
        assert log and log[0]["status"] == "RUNNING"
    children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "stand_in_ssh"], capture_output=True, text=True)
    assert children.stdout == ""


def _stands(server) -> bool:
    for _ in range(200):
        try:
            server.server.greet()
            return True
        except UserError:
            threading.Event().wait(0.05)
    return False


def test_a_head_that_refuses_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"head: cannot be reached by ssh \(nobody@head: Permission denied") as caught,
        Tunnel("head", {"ssh_user": "nobody"}, 8265, tmp_path / "known_hosts"),
    ):
        pass
    assert "\n" not in str(caught.value) and "Permanently added" not in str(caught.value)


def test_ssh_never_asks():
    words = ssh("head", {"ssh_user": "me"}, Path("/state/known_hosts"))
    assert "BatchMode=yes" in words and "UserKnownHostsFile=/state/known_hosts" in words
    assert "StrictHostKeyChecking=accept-new" in words


def test_the_token_is_a_private_file_and_never_shown(tmp_path):
    cluster = cluster_at()
    cluster._make_token()
    token = tmp_path / "state" / "nml_ray" / "launcher" / "lab" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    cluster._make_token()  # keeps it
    text = cluster.render(submission_to(cluster), Package([]))
    assert token.read_text() not in text
    assert str(token) in text and "POST http://127.0.0.1:8265/api/jobs/" in text
    with cluster._file() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert yaml.safe_load(path.read_text())["cluster_name"] == "lab"
    assert not path.exists()


def test_check_tells_whether_it_is_up(dashboard):
    cluster = cluster_at(dashboard)
    assert "has not been brought up from here" in cluster.check()[-1]
    cluster._make_token()
    (cluster.directory / "cluster.json").write_text(json.dumps({"head": "head", "auth": {"ssh_user": "me"}}))
    lines = cluster.check()
    assert lines[0] == "Ray's launcher: cluster 'lab' by provider local"
    assert any(line.startswith(f"Ray {metadata.version('ray')} at http://127.0.0.1:") for line in lines)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"file_mounts": {"/there": "/nowhere/here"}}, "ray.file_mounts./there: '/nowhere/here' does not exist"),
    ],
)
def test_check_misses_files(more, message):
    with pytest.raises(UserError, match=message):
        cluster_at(**more).check()


def test_check_misses_tools(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="'ssh' is not installed"):
        cluster_at().check()


def test_down_ends_what_runs_and_makes_sure(capfd, tmp_path, monkeypatch):
    name = f"down-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()"],
        env={**os.environ, "NML_RAY_CLUSTER": name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdout.readline()
    cluster_at(cluster_name=name).down()
    assert process.wait(timeout=60) < 0
    process.communicate()
    assert f"nothing of cluster '{name}' runs any more" in capfd.readouterr().out
    assert [words[-2] for words in arguments_of_ssh(tmp_path)] == ["me@head", "me@worker"]  # the head first


def test_down_tells_what_it_could_not_look_at(capfd):
    import click

    cluster = cluster_at(user="nobody")
    with pytest.raises(click.ClickException, match="2 of cluster 'lab' still run") as caught:
        cluster.down()
    assert caught.value.exit_code == 1
    assert "still runs: head: unknown (nobody@head: Permission denied (publickey).)" in capfd.readouterr().out


@pytest.mark.long
def test_the_launcher_is_asked(tmp_path, monkeypatch):
    """Ray's launcher itself, in a process of its own; its state of a cluster in a directory of the test's."""
    (tmp_path / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    cluster = cluster_at()
    cluster._make_token()
    with cluster._file() as path:
        found = describe(path)
    assert found["auth"]["ssh_user"] == "me"
    assert found["nodes"] == [] and found["head"] is None


@pytest.mark.long
def test_a_machine_whose_address_cannot_be_told_says_why(tmp_path, monkeypatch):
    """Ray's launcher takes a machine of yours by a name that nobody resolves for one that runs."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.sdk import bootstrap_config

    (tmp_path / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    cluster = cluster_at()
    cluster.cluster.ray["provider"]["head_ip"] = "no-such-head.invalid"
    cluster._make_token()
    with cluster._file() as path:
        config = bootstrap_config(yaml.safe_load(path.read_text()))
        provider = _get_node_provider(config["provider"], config["cluster_name"])
        provider.create_node({}, {"ray-node-type": "head", "ray-node-status": "up-to-date"}, 1)
        (node,) = describe(path)["nodes"]
    assert node["kind"] == "head" and node["address"] is None and node["trouble"].startswith("gaierror: ")


def test_up_begins_nothing_without_the_key_or_with_a_machine_that_refuses_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(launcher, "_ray", lambda *arguments, **environment: pytest.fail("ray up was called"))
    with pytest.raises(UserError, match=r"ray\.auth\.ssh_private_key: '~/key' does not exist"):
        cluster_at().up()
    (tmp_path / "key").touch()
    with pytest.raises(UserError, match=r"head: cannot be reached by ssh \(nobody@head: Permission denied"):
        cluster_at(user="nobody").up()
