"""What every kind of cluster can do, one module each; they are imported when a cluster of theirs is named."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from nml_ray.cluster.config import AnyCluster
from nml_ray.cluster.package import Package
from nml_ray.cluster.submission import Status, Submission

MODULES: Mapping[str, str] = {
    "local": "nml_ray.cluster.local",
    "address": "nml_ray.cluster.address",
    "launcher": "nml_ray.cluster.launcher",
    "slurm": "nml_ray.cluster.slurm",
    "kuberay": "nml_ray.cluster.kuberay",
}


class Backend(Protocol):
    """A kind of cluster. Every method raises UserError where the cluster refuses, cannot be reached within ten seconds,
    or lacks a tool that it needs: one line, with the fix."""

    def check(self) -> tuple[str, ...]:
        """What can be known beforehand, in lines for `plan` and `cluster status`; refuses what cannot work."""

    def render(self, submission: Submission, package: Package) -> str:
        """Exactly what would be sent: a script, a manifest, a request; secrets by reference only. Starts nothing."""

    def submit(self, submission: Submission, package: Package) -> Mapping[str, str]:
        """Hand the job over; its handle."""

    def status(self, submission: Submission) -> Status | None:
        """How it stands; None where the cluster does not know it (any more)."""

    def follow(self, submission: Submission) -> Iterator[str]:
        """The driver's log as it comes, in pieces of text, to the job's end."""

    def printed(self, submission: Submission) -> str:
        """The driver's log as far as the cluster has it; "" where it has none (any more)."""

    def stop(self, submission: Submission) -> None:
        """Have the job end; it gets `stop_seconds` to reach a checkpoint and end in order. Returns at once."""

    def up(self) -> None:
        """Bring the cluster up, where that is something to do."""

    def down(self) -> None:
        """Take the cluster down, and say what still runs of it."""


def backend_of(cluster: AnyCluster) -> Backend:
    """The one that knows a cluster."""
    backend: Backend = importlib.import_module(MODULES[cluster.kind]).Cluster(cluster)
    return backend
