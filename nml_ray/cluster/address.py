"""A cluster that is running: jobs are handed to its job server."""

import hashlib
import json
import platform
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nml_ray.cluster import job_log
from nml_ray.cluster.command import job_command
from nml_ray.cluster.config import AddressCluster
from nml_ray.cluster.job_server import JobServer
from nml_ray.cluster.package import Package
from nml_ray.cluster.submission import State, Status, Submission
from nml_ray.config.errors import UserError
from nml_ray.ray_environment import SETTINGS

STATES: Mapping[str, State] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "STOPPED": "stopped",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
}
_NOT_FOUND = 127  # exit code of a shell that finds no such command
_LAST_WORDS = 30  # seconds more that the supervisor gets than the job, to tell the end on storage
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Cluster:
    """See `Backend`."""

    def __init__(self, cluster: AddressCluster, server: JobServer | None = None) -> None:
        self.cluster = cluster
        self.server = server or JobServer(cluster.address, cluster.token_file, cluster.verify)

    def check(self) -> tuple[str, ...]:
        """Asks the server whether it takes this machine's token and has its version of Ray."""
        lines = [self.server.greet()]
        theirs, ours = self.server.python(), platform.python_version()
        if theirs and theirs != ours:
            lines.append(
                f"the cluster runs Python {theirs}, this machine {ours}: 'python' in the cluster file has to name an "
                f"interpreter of Python {theirs} on the head"
            )
        address = urlsplit(self.server.address)
        if address.scheme == "http" and address.hostname not in _LOOPBACK and self.server.headers():
            lines.append("the token travels in clear text: https, or http to localhost through ssh -L, keeps it secret")
        if "/" not in self.cluster.python:
            lines.append(f"python: '{self.cluster.python}' is looked up on the head's PATH; a full path is safer")
        try:
            nodes = self.nodes()
        except UserError as error:  # of an older Ray
            return (*lines, str(error))
        cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
        return (*lines, f"{len(nodes)} node{'s' * (len(nodes) != 1)} at present, with {cpus:g} CPUs and {gpus:g} GPUs")

    def nodes(self) -> tuple[Mapping[str, float], ...]:
        """What each node has at present, by Ray's names."""
        return tuple(self.server.nodes())

    def render(self, submission: Submission, package: Package) -> str:
        """The requests: the package's name and size, and the job's body."""
        name, data = archive(package)
        body = json.dumps(job_request(self.cluster, submission, name), indent=2)
        return (
            f"PUT {self.server.address}/api/packages/gcs/{name}\n"
            f"  {len(package.files)} files, {len(data):,} bytes\n"
            f"POST {self.server.address}/api/jobs/\n{body}\n"
        )

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """Send the code, unless the cluster has it already, and the job."""
        name, data = archive(package)
        if not self.server.has_package(name):
            self.server.put_package(name, data)
        self.server.submit(job_request(self.cluster, submission, name))
        return {"submission_id": submission.id, "address": self.server.address}

    def status(self, submission: Submission) -> Status | None:
        """What the job server says."""
        job = self.server.job(submission.id)
        return None if job is None else status_of(job, self.cluster.python)

    def follow(self, submission: Submission) -> Iterator[str]:
        """From the job server; see `job_log.follow`."""
        return job_log.follow(self.server, submission.id)

    def printed(self, submission: Submission) -> str:
        """From the job server."""
        return job_log.printed(self.server, submission.id)

    def stop(self, submission: Submission) -> None:
        """Ray sends SIGTERM to all processes of the driver, and kills what is left after `stop_seconds` and a bit."""
        if not self.server.stop(submission.id):
            raise UserError(
                f"the cluster does not know the job {submission.id} (any more)",
                where=self.server.address,
                expected="a job that `nml-ray list` shows as queued or running",
            )

    def up(self) -> None:
        """Others bring it up."""
        raise self._not_ours("bring up")

    def down(self) -> None:
        """Others take it down."""
        raise self._not_ours("take down")

    def _not_ours(self, what: str) -> UserError:
        return UserError(
            f"a cluster of kind 'address' is not ours to {what}",
            where=self.server.address,
            expected="kind: launcher for a cluster that nml-ray manages",
        )


def archive(package: Package) -> tuple[str, bytes]:
    """The code as the job server takes it: a name by content, such as Ray itself gives, and the bytes."""
    with tempfile.TemporaryDirectory(prefix="nml-ray-") as directory:
        path = Path(directory) / "code.zip"
        package.write_zip(path)
        data = path.read_bytes()
    return f"_ray_pkg_{hashlib.sha1(data, usedforsecurity=False).hexdigest()}.zip", data


def job_request(cluster: AddressCluster, submission: Submission, package: str) -> dict[str, Any]:
    """What the job server is asked: the same command in the same environment for the driver, in the directory of the
    code; the workers see that directory and environment too."""
    command = job_command(submission, cluster.python, stop_seconds=cluster.stop_seconds)
    environment = {
        **SETTINGS,
        "OMP_WAIT_POLICY": "passive",  # see execute.set_threads
        "RAY_JOB_STOP_WAIT_TIME_S": str(cluster.stop_seconds + _LAST_WORDS),
        **cluster.environment,
    }
    return {
        "entrypoint": f"exec {shlex.join(command)}",
        "submission_id": submission.id,
        "runtime_env": {"working_dir": f"gcs://{package}", "env_vars": environment},
        "metadata": {"job": submission.job, "storage": submission.storage, "code": submission.code},
    }


def status_of(job: Mapping[str, Any], python: str) -> Status:
    """How a job stands by what the job server says of it."""
    code = job.get("driver_exit_code")
    lines = [line.strip() for line in str(job.get("message") or "").splitlines() if line.strip()]
    message = ""
    if job["status"] == "FAILED" and lines:
        message = lines[0] if code is None else lines[-1]  # the head's words, or the log's last
    if code == _NOT_FOUND:
        message = f"the head has no '{python}': 'python' in the cluster file names its interpreter, by a full path"
    elif "No module named" in message:
        message += f" for '{python}' on the head: 'python' in the cluster file names one with nml_ray's dependencies"
    return Status(STATES[job["status"]], message[:500], code)
