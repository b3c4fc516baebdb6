"""This machine as a cluster: a submitted job runs in the background, on a Ray of its own."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nml_ray.cluster import drain, registry
from nml_ray.cluster.beat import said
from nml_ray.cluster.command import job_command
from nml_ray.cluster.config import LocalCluster
from nml_ray.cluster.package import Package
from nml_ray.cluster.record import record_of
from nml_ray.cluster.submission import Status, Submission
from nml_ray.cluster.watch import follow, status_of
from nml_ray.config.cores import whole_cores
from nml_ray.config.errors import UserError
from nml_ray.storage.patience import QUICK
from nml_ray.storage.pulse import process_started

OUTPUT, STOPPED = "supervisor.log", "stopped"
_FRESH = 3600.0  # seconds in which unpacked code may still be waiting for its job


class Cluster:
    """See `backend.Backend`. Relative paths of a job mean here what they mean to `nml-ray run`."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster

    @property
    def python(self) -> str:
        """The interpreter; this one unless the file names another."""
        return self.cluster.python if "python" in self.cluster.model_fields_set else sys.executable

    def check(self) -> tuple[str, ...]:
        """The interpreter and the CPUs."""
        if shutil.which(os.path.expanduser(self.python)) is None:
            raise UserError(f"python = {self.python} is not there", expected="an interpreter of this machine")
        return (f"this machine, {socket.gethostname()}: {whole_cores()} CPUs", f"interpreter: {self.python}")

    def render(self, submission: Submission, package: Package) -> str:
        """The command that is started, as a shell would take it."""
        code = self._code(package.digest)
        variables = [f"{name}={value}" for name, value in self._variables(code).items()]
        command = ["env", *variables, *self._command(submission, code)]
        return f"cd {shlex.quote(self.cluster.code.directory)} && setsid {shlex.join(command)} &\n"

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """Start the supervisor, which outlives this process."""
        try:
            return self._start(submission, package)
        except OSError as error:
            raise UserError(f"the job cannot be started ({error.strerror})", where=str(_state())) from None

    def _start(self, submission: Submission, package: Package) -> Mapping[str, str]:
        _remove_old_code()
        code = self._code(package.digest)
        _unpack(package, code)
        directory = _directory(submission.id)
        directory.mkdir(parents=True, mode=0o700)
        with open(directory / OUTPUT, "wb") as output:
            process = subprocess.Popen(
                self._command(submission, code),
                cwd=self.cluster.code.directory,
                env={**os.environ, **self._variables(code)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _handle(submission.id, process.pid)

    def status(self, submission: Submission) -> Status | None:
        """By the process and the record that it keeps; None on another machine."""
        submission = _found(submission)
        if submission.handle.get("host") != socket.gethostname():
            return None
        running = _runs(submission)
        try:
            found = status_of(record_of(submission.storage, submission.id), QUICK)
        except UserError as error:
            return Status("running", f"its storage does not answer: {error}") if running else None
        if found and running and found.state == "lost":  # this machine slept, or its storage cannot be written
            return Status("running", found.message)
        if found:
            return replace(found, source="cluster")
        if running:
            return Status("running", "starting")
        directory = Path(submission.handle["directory"])
        if (directory / STOPPED).exists():
            return Status("stopped", "before it began")
        output = directory / OUTPUT
        last = said(output.read_text(errors="replace")) if output.is_file() else ""
        return Status("failed", last or "ended before it began")

    def follow(self, submission: Submission) -> Iterator[str]:
        """By the record; what a job printed that never came to write there."""
        heard = False
        for text in follow(record_of(submission.storage, submission.id), lambda: self.status(submission)):
            heard = True
            yield text
        if not heard:
            yield self.printed(submission)

    def printed(self, submission: Submission) -> str:
        """From the supervisor's own output, which is on this machine wherever the record is."""
        if submission.handle.get("host") != socket.gethostname():
            return ""
        output = Path(submission.handle["directory"]) / OUTPUT
        return output.read_text(errors="replace") if output.is_file() else ""

    def stop(self, submission: Submission) -> None:
        """Have the supervisor stop it."""
        submission = _found(submission)
        if (host := submission.handle.get("host", "another machine")) != socket.gethostname():
            raise UserError(f"runs on {host}", where=submission.id, expected="`nml-ray stop` on that machine")
        if _runs(submission):
            (Path(submission.handle["directory"]) / STOPPED).touch()
            os.kill(int(submission.handle["pid"]), signal.SIGTERM)

    def up(self) -> None:
        """Nothing to do: each job starts a Ray of its own."""

    def down(self) -> None:
        """Nothing to do: what a job started ends with it."""

    def _command(self, submission: Submission, code: Path) -> list[str]:
        job, *options = submission.arguments
        here = replace(submission, arguments=(str(code / job), *options))
        return job_command(here, self.python, address="")

    def _code(self, digest: str) -> Path:
        return _state() / "code" / digest

    def _variables(self, code: Path) -> dict[str, str]:
        """Modules are found in what was sent, whatever becomes of the directory in which the job runs."""
        path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **self.cluster.environment}


def _state() -> Path:
    return registry.directory().parent


def _directory(id: str) -> Path:
    return _state() / "jobs" / id


def _handle(id: str, pid: int) -> Mapping[str, str]:
    process, directory = str(process_started(pid)), str(_directory(id))
    return {"host": socket.gethostname(), "pid": str(pid), "process": process, "directory": directory}


def _found(submission: Submission) -> Submission:
    """With its supervisor, where that came to run and its number was not kept: sending was broken off."""
    if "host" in submission.handle or not _directory(submission.id).is_dir():
        return submission
    pids = drain.supervisors(submission.id)
    return replace(submission, handle=_handle(submission.id, pids[0])) if pids else submission


def _runs(submission: Submission) -> bool:
    handle = submission.handle
    return process_started(int(handle["pid"])) == int(handle["process"])


def _unpack(package: Package, target: Path) -> None:
    """Unpack code unless the same is there already."""
    if target.is_dir():
        os.utime(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    try:
        package.copy_to(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    try:
        aside.rename(target)
    except OSError:  # another submission was faster
        shutil.rmtree(aside)


def _remove_old_code() -> None:
    """Remove code that no running job of this machine uses."""
    host = socket.gethostname()
    here = [one for one in registry.known() if one.kind == "local" and one.handle.get("host") == host]
    used = {one.code for one in here if _runs(one)}
    for directory in (_state() / "code").glob("*"):
        if directory.name not in used and time.time() - directory.stat().st_mtime > _FRESH:
            shutil.rmtree(directory, ignore_errors=True)
