"""A cluster that Ray's own launcher brings up. Jobs reach its job server through ssh; nothing of it is exposed.

What this machine keeps of a cluster lies in the user's state directory, in launcher/NAME: its token (0600), the keys
of its machines, and where its head is.
"""

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from nml_ray.cluster import address, registry
from nml_ray.cluster.config import AddressCluster, ClusterSettings, LauncherCluster
from nml_ray.cluster.launcher_document import Document, completed, end_command, nodes_at_first
from nml_ray.cluster.package import Package
from nml_ray.cluster.submission import Status, Submission
from nml_ray.cluster.tunnel import Tunnel, ssh
from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import json_bytes, write_bytes

_KITS = {
    "aws": ("boto3", "boto3"),
    "gcp": ("googleapiclient", "google-api-python-client"),
    "azure": ("azure", "azure-cli"),
}
_LOOK = 60  # seconds for asking a cloud what runs
_JOIN = 900  # seconds that machines may take to join: clouds take minutes, and installing some more
_PAUSE = 3  # seconds between two looks


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that runs."""

    id: str
    kind: str
    address: str | None
    trouble: str = ""


class Cluster:
    """See `backend.Backend`."""

    def __init__(self, cluster: LauncherCluster) -> None:
        self.cluster = cluster
        self.name = str(cluster.ray["cluster_name"])
        self.provider = str(cluster.ray["provider"]["type"])
        self.directory = registry.directory().parent / "launcher" / self.name

    def check(self) -> tuple[str, ...]:
        """Tools and files that are needed here; where the cluster was brought up from here, whether it answers."""
        self._look_for_tools()
        for there, here in self.cluster.ray.get("file_mounts", {}).items():
            if not Path(str(here)).expanduser().exists():
                raise UserError(
                    f"'{here}' does not exist", where=f"ray.file_mounts.{there}", expected="a file or directory here"
                )
        lines = [f"Ray's launcher: cluster '{self.name}' by provider {self.provider}"]
        if self.cluster.ray["provider"].get("cache_stopped_nodes"):
            lines.append("cache_stopped_nodes: `down` only stops machines, and their disks go on costing")
        if not (self.directory / "cluster.json").is_file():
            return (*lines, "it has not been brought up from here: nml-ray cluster up")
        with self._job_server() as server:
            return (*lines, *server.check())

    def render(self, submission: Submission, package: Package) -> str:
        """The launcher's document, and the requests to the job server."""
        server = address.Cluster(self._address(self.cluster.dashboard_port))
        return (
            f"{self.document_text()}---\n# through ssh, to the head's loopback:\n{server.render(submission, package)}"
        )

    def document_text(self) -> str:
        """What `ray up` is given, as YAML; the token is the name of a file."""
        return yaml.safe_dump(self._document(), sort_keys=False, width=120)

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """By the job server."""
        with self._job_server() as server:
            return {**server.submit(submission, package), "address": self.name}

    def status(self, submission: Submission) -> Status | None:
        """By the job server."""
        with self._job_server() as server:
            return server.status(submission)

    def follow(self, submission: Submission) -> Iterator[str]:
        """By the job server; a tunnel that breaks is opened again."""
        with self._job_server() as server:
            yield from server.follow(submission)

    def printed(self, submission: Submission) -> str:
        """From the job server."""
        with self._job_server() as server:
            return server.printed(submission)

    def stop(self, submission: Submission) -> None:
        """By the job server."""
        with self._job_server() as server:
            server.stop(submission)

    def up(self) -> None:
        """`ray up`, and a look whether the job server answers."""
        self._look_for_tools()
        self._look_for_key()
        self._make_token()
        if self.provider == "local":
            self._reach_machines()
        with self._file() as path:
            # The newer autoscaler takes a head of provider local for one of the workers, and leaves the last one out
            older = {"RAY_UP_enable_autoscaler_v2": "0"} if self.provider == "local" else {}
            if code := _ray("up", "--yes", str(path), **older):
                raise click.ClickException(
                    f"ray up failed with exit code {code}; what it brought up: nml-ray cluster down"
                )
            found = describe(path)
        write_bytes(self.directory / "cluster.json", json_bytes({"head": found["head"], "auth": found["auth"]}))
        self._await_nodes()
        for line in self.check():
            click.echo(line)

    def _look_for_key(self) -> None:
        key = str(self.cluster.ray["auth"].get("ssh_private_key", ""))
        if key and not Path(key).expanduser().is_file():
            raise UserError(
                f"'{key}' does not exist", where="ray.auth.ssh_private_key", expected="the key that the machines take"
            )

    def _reach_machines(self) -> None:
        """Each takes the key at once: Ray would try for minutes."""
        provider = self.cluster.ray["provider"]
        for host in (provider["head_ip"], *provider["worker_ips"]):
            done = self._ssh(host, "true")
            if done.returncode:
                raise UserError(
                    f"cannot be reached by ssh ({_reason(done)})",
                    where=host,
                    expected="a machine that is on, and takes the key of ray.auth",
                )

    def _ssh(self, host: str, command: str) -> "subprocess.CompletedProcess[str]":
        words = [*ssh(host, self.cluster.ray["auth"], self._known_hosts()), command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def _await_nodes(self) -> None:
        """Wait for the machines that are to be there from the start: the head brings them up by and by."""
        expected, joined = nodes_at_first(self.cluster.ray), -1
        until = time.monotonic() + _JOIN
        with self._job_server() as server:
            while joined < expected:
                if time.monotonic() > until:
                    raise click.ClickException(
                        f"{joined} of {expected} nodes have joined within {_JOIN / 60:.0f} minutes; why the others "
                        f"have not is in monitor.err and monitor.out in Ray's directory of logs on the head; they may "
                        f"come yet: nml-ray cluster status; to end all: nml-ray cluster down"
                    )
                if (now := len(server.nodes())) != joined:
                    joined = now
                    click.echo(f"{joined} of {expected} nodes have joined")
                else:
                    time.sleep(_PAUSE)

    def down(self) -> None:
        """End all machines, or on machines of yours the Ray of this cluster, and make sure of it."""
        self._look_for_tools()
        left = self._end_ray() if self.provider == "local" else self._end_machines()
        for line in left:
            click.echo(f"still runs: {line}")
        if left:
            raise click.ClickException(f"{len(left)} of cluster '{self.name}' still run, and cost: see above")
        for name in ("cluster.json", "known_hosts"):
            (self.directory / name).unlink(missing_ok=True)
        click.echo(f"nothing of cluster '{self.name}' runs any more")

    def _end_machines(self) -> list[str]:
        with self._file() as path:
            if code := _ray("down", "--yes", str(path)):
                click.echo(f"ray down failed with exit code {code}", err=True)
            nodes = [Node(**one) for one in describe(path)["nodes"]]
        return [f"{node.id} ({node.kind}, {node.address or node.trouble or 'without an address'})" for node in nodes]

    def _end_ray(self) -> list[str]:
        """`ray down` would run `ray stop` on the head, which ends everybody's Ray there, and leave the others alone."""
        provider = self.cluster.ray["provider"]
        left = []
        for host in (provider["head_ip"], *provider["worker_ips"]):
            done = self._ssh(host, end_command(self.cluster.ray))
            left += [f"{host}: {line}" for line in done.stdout.splitlines()]
            if done.returncode:
                left.append(f"{host}: unknown ({_reason(done)})")
        return left

    @contextmanager
    def _job_server(self) -> Iterator[address.Cluster]:
        head, auth = self._head()
        with Tunnel(head, auth, self.cluster.dashboard_port, self._known_hosts()) as tunnel:
            yield address.Cluster(self._address(tunnel.port))

    def _address(self, port: int) -> AddressCluster:
        shared = {name: getattr(self.cluster, name) for name in ClusterSettings.model_fields}
        return AddressCluster(
            **shared,
            kind="address",
            address=f"http://127.0.0.1:{port}",
            token_file=str(self._token()),
            stop_seconds=self.cluster.stop_seconds,
        )

    def _head(self) -> tuple[str, dict[str, Any]]:
        """Where the head is, and how to reach it."""
        kept = self.directory / "cluster.json"
        if kept.is_file():
            found = json.loads(kept.read_bytes())
        elif self.provider == "local":
            found = {"head": self.cluster.ray["provider"]["head_ip"], "auth": self.cluster.ray["auth"]}
        else:
            with self._file() as path:
                found = describe(path)
        if not found["head"]:
            reasons = [
                one["trouble"] for one in found.get("nodes", ()) if one["kind"] != "worker" and one.get("trouble")
            ]
            if reasons:
                raise UserError(
                    f"the head of cluster '{self.name}' runs, and its address cannot be told ({reasons[0][:300]})",
                    where=self.provider,
                    expected="a provider that answers, and rights to ask it; then the same again",
                )
            raise UserError(
                f"cluster '{self.name}' is not up", where=self.provider, expected="nml-ray cluster up first"
            )
        return found["head"], found["auth"]

    def _document(self) -> Document:
        return completed(self.cluster.ray, self.cluster.python, self.cluster.dashboard_port, self._token())

    @contextmanager
    def _file(self) -> Iterator[Path]:
        """The document in a file that only this user can read."""
        with tempfile.NamedTemporaryFile("w", prefix="nml-ray-", suffix=".yaml") as file:  # 0600
            file.write(self.document_text())
            file.flush()
            yield Path(file.name)

    def _token(self) -> Path:
        return self.directory / "token"

    def _make_token(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._token().exists():
            descriptor = os.open(self._token(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    def _known_hosts(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.directory / "known_hosts"

    def _look_for_tools(self) -> None:
        for tool in ("ssh", "rsync"):
            if not shutil.which(tool):
                raise UserError(f"'{tool}' is not installed", expected="it on PATH: Ray's launcher works by it")
        module, package = _KITS.get(self.provider, ("yaml", ""))
        if not importlib.util.find_spec(module):
            raise UserError(
                f"provider {self.provider} needs '{package}'",
                where="ray.provider.type",
                expected=f"pip install {package}",
            )


def describe(document: Path) -> dict[str, Any]:
    """See `launcher_nodes`.

    Raises:
        UserError: the provider refuses, or does not answer.
    """
    command = [sys.executable, "-m", "nml_ray.cluster.launcher_nodes", str(document)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LOOK)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"no answer within {_LOOK} s", where="ray.provider", expected="a provider that answers"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise UserError(
            f"the provider could not be asked ({reason[:300]})",
            where="ray.provider",
            expected="credentials by the provider's own chain: its command line tool logs you in",
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip().splitlines() or ["no answer"])[-1]


def _ray(*arguments: str, **environment: str) -> int:
    """Ray's command line, by this interpreter; its output goes where ours goes."""
    command: Sequence[str] = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    inherited = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False, env=inherited).returncode
