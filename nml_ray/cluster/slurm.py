"""A Slurm cluster: each job is a batch job with a Ray of its own on its allocation (see slurm_script.py)."""

import codecs
import getpass
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from nml_ray.cluster import registry
from nml_ray.cluster import slurm_script as script
from nml_ray.cluster import slurm_tools as tools
from nml_ray.cluster.config import SlurmCluster
from nml_ray.cluster.package import Package
from nml_ray.cluster.submission import Status, Submission
from nml_ray.config.errors import UserError, nearest_name

_PACE = 1.0  # seconds between two looks at a job's output
_LOOKS = 5.0  # seconds between two questions to Slurm
_SILENCE = 20  # questions in a row without an answer
_FIRST_CHECK = 90  # seconds: Slurm may warn a minute before it should, and Ray has to come up


class Cluster:
    """See `backend.Backend`.

    Args:
        cluster: the cluster file.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster

    def check(self) -> tuple[str, ...]:
        """What the cluster has for such jobs; refuses what it has not."""
        tools.refuse_missing()
        self._check_directory()
        self._check_times()
        nodes = self._check_nodes(tools.nodes())
        self._check_account()
        own = self.cluster
        nobody = Submission("nml-ray", "nml-ray", {}, own.storage, (), "", "")
        tools.refuse_options(script.render(own, nobody), self._environment())
        each = [f"{own.cpus_per_node} CPUs" if own.cpus_per_node else "all CPUs"]
        each += [f"{own.gpus_per_node} GPUs"] * (own.gpus_per_node > 0)
        each += [f"{own.memory_per_node} of memory"] * (own.memory_per_node is not None)
        return (
            f"Slurm, partition {nodes[0].partition}: {own.nodes} of {len(nodes)} nodes that fit, each with "
            f"{', '.join(each)}, for {own.time} and {own.restarts} restarts",
            f"files of jobs: {own.directory}",
        )

    def render(self, submission: Submission, package: Package) -> str:
        """The script of sbatch."""
        return script.render(self.cluster, submission)

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """Lay code, token and script on the shared file system, and queue the job."""
        tools.refuse_missing()
        directory = self._files(submission)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
            package.copy_to(directory / script.CODE)
            with open(os.open(directory / script.TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as token:
                token.write(secrets.token_hex(32))
            path = directory / script.SCRIPT
            path.write_text(self.render(submission, package), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", where=f"directory = {self.cluster.directory}"
            ) from None
        command = ("sbatch", "--parsable", str(path))
        try:
            told = tools.call(*command, patience=tools.SUBMIT_PATIENCE, environment=self._environment())
        except UserError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return {"job": told.strip().partition(";")[0]}

    def status(self, submission: Submission) -> Status | None:
        """How the job stands, by Slurm; what the batch script left says more once it has ended."""
        job = _job(submission)
        status = tools.job_status(job) if job else None
        if status is None or not status.ended:
            return status
        reason = self._text(submission, script.REASON).strip()
        stopped = status.state != "succeeded" and self._has(submission, script.STOP)
        if stopped:
            return Status("stopped", reason or "stopped", status.exit_code)
        return Status(status.state, status.message or ("" if reason == "done" else reason), status.exit_code)

    def follow(self, submission: Submission) -> Iterator[str]:
        """What the batch script and the job print, across restarts; why it waits, once for each reason."""
        output = self._files(submission) / script.OUTPUT
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        read, waits, looked, silent = 0, "", -math.inf, 0
        status: Status | None = None
        while True:
            if time.monotonic() - looked >= _LOOKS or self._has(submission, script.REASON):
                try:
                    status, silent = self.status(submission), 0  # before the last look at the output
                except UserError:  # a controller has other work now and then
                    silent += 1
                    if silent == _SILENCE:
                        raise
                looked = time.monotonic()
            if output.exists():
                with output.open("rb") as file:
                    file.seek(read)
                    while data := file.read(1 << 16):
                        read += len(data)
                        yield decode(data)
            if not silent and (status is None or status.ended):
                return
            said = status.message if status and status.state == "queued" else ""
            if said not in ("", waits):
                yield f"nml-ray: waits in the queue ({said})\n"
            waits = said or (waits if status and status.state == "queued" else "")
            time.sleep(_PACE)

    def printed(self, submission: Submission) -> str:
        """From the file of the batch script."""
        return self._text(submission, script.OUTPUT)

    def stop(self, submission: Submission) -> None:
        """Take a waiting job from the queue; have a running one end after its checkpoint."""
        job = _job(submission)
        if not job:
            raise UserError("Slurm knows no job of this name", where=submission.id)
        try:
            (self._files(submission) / script.STOP).touch(mode=0o600)  # it must not be queued again
        except OSError as error:
            where = str(self._files(submission))
            raise UserError(f"cannot be written ({error.strerror})", where=where) from None
        tools.call("scancel", "--state=PENDING", job)
        status = tools.job_status(job)
        if status is not None and status.state == "running":
            try:
                tools.call("scancel", "--batch", "--signal=USR2", job)
            except UserError as error:
                if "already completing or completed" not in str(error) and "Invalid job id" not in str(error):
                    raise

    def up(self) -> None:
        """Nothing is up between jobs; says whether one could be."""
        for line in self.check():
            click.echo(line)
        click.echo("Each job starts a Ray of its own on its nodes, and ends it.")

    def down(self) -> None:
        """Nothing is up between jobs; says which of those submitted from here are still there."""
        for one in registry.known():
            if one.kind == "slurm" and one.cluster["directory"] == self.cluster.directory and one.handle:
                status = self.status(one)
                if status is not None and not status.ended:
                    click.echo(f"still {status.state}: {one.id} (nml-ray stop {one.id})")
        click.echo("Each job ends the Ray that it started; there is nothing else to take down.")

    def _environment(self) -> dict[str, str]:
        """Of sbatch: what this site or user set for all jobs counts where the cluster file says nothing."""
        own = self.cluster
        places = {"SBATCH_PARTITION": own.partition, "SBATCH_ACCOUNT": own.account, "SBATCH_QOS": own.qos}
        return tools.environment(name for name, value in places.items() if not value)

    def _files(self, submission: Submission) -> Path:
        return Path(script.directory_of(self.cluster, submission))

    def _has(self, submission: Submission, name: str) -> bool:
        return (self._files(submission) / name).exists()

    def _text(self, submission: Submission, name: str) -> str:
        try:
            return (self._files(submission) / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _check_directory(self) -> None:
        directory = Path(self.cluster.directory)
        if not directory.is_absolute():
            raise UserError(
                f"directory = '{directory}'", expected="an absolute path on the file system that all nodes share"
            )
        there = next(path for path in (directory, *directory.parents) if path.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"directory = '{directory}'", expected=f"one that you can write to; '{there}' is not")

    def _check_times(self) -> None:
        own = self.cluster
        least = own.stop_seconds + script.MARGIN + _FIRST_CHECK
        if script.limit_seconds(own.time) < least:
            raise UserError(
                f"time = '{own.time}' leaves no time for work before the {own.stop_seconds + script.MARGIN} s in which "
                "the job reaches a checkpoint",
                expected=f"{math.ceil(least / 60)} minutes at least, or fewer stop_seconds",
            )

    def _check_nodes(self, known: list[tools.Node]) -> list[tools.Node]:
        """The nodes of the partition that fit."""
        own = self.cluster
        names = sorted({node.partition for node in known})
        name = own.partition or next((node.partition for node in known if node.default), "")
        if not name:
            raise UserError("this Slurm has no default partition", expected=f"partition: one of {', '.join(names)}")
        found = [node for node in known if node.partition in name.split(",")]
        if not found:
            raise UserError(
                f"partition = '{name}'", expected=f"one of {', '.join(names)}", nearest=nearest_name(name, names)
            )
        if own.cpus_per_node is None and not own.exclusive:
            raise UserError(
                "neither cpus_per_node nor exclusive is given: Slurm would hand out one CPU a node",
                expected=f"cpus_per_node (nodes of {name} have {tools.widest(found)}), or exclusive: true",
            )
        memory = script.mebibytes(own.memory_per_node) if own.memory_per_node else 0
        fit = [
            node
            for node in found
            if node.cpus >= (own.cpus_per_node or 1) and node.memory >= memory and node.gpus >= own.gpus_per_node
        ]
        if len({node.name for node in fit}) < own.nodes:
            asked = f"{own.cpus_per_node or 1} CPUs, {memory} MiB and {own.gpus_per_node} GPUs"
            raise UserError(
                f"nodes = {own.nodes} with {asked} each",
                expected=f"what partition {name} has: {len(fit)} such nodes (of {len(found)}, with "
                f"{tools.widest(found)}); fewer nodes, or less of each",
            )
        limits = [node.limit for node in found]
        if None not in limits and script.limit_seconds(own.time) > (most := max(limit or 0 for limit in limits)):
            raise UserError(
                f"time = '{own.time}'",
                expected=f"{most // 60} minutes at most, the limit of {name}; a job goes on after a restart",
            )
        return fit

    def _check_account(self) -> None:
        if self.cluster.account and (known := tools.accounts(getpass.getuser())) and self.cluster.account not in known:
            raise UserError(
                f"account = '{self.cluster.account}'",
                expected=f"one of yours: {', '.join(known)}",
                nearest=nearest_name(self.cluster.account, known),
            )


def _job(submission: Submission) -> str:
    """Its number; by its name where sbatch's answer never came back, "" where Slurm knows no such name."""
    return submission.handle.get("job") or tools.job_named(submission.id)
