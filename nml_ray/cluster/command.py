"""The command that runs a submitted job on any kind of cluster: the supervisor, and below it `nml-ray run`."""

import shlex

from nml_ray.cluster.submission import Submission


def supervised(submission: Submission, python: str, stop_seconds: int, address: str = "auto") -> list[str]:
    """The arguments of the process that runs a submission in the directory of its code.

    Args:
        submission: see `Submission`.
        python: interpreter there.
        stop_seconds: that the job gets to reach a checkpoint.
        address: of Ray, as `nml-ray run --address` takes it; empty where the job starts a Ray of its own.
    """
    joined = ["--address", address] if address else []
    run = [python, "-m", "nml_ray", "run", *submission.arguments, "--storage", submission.storage, *joined]
    supervisor = [python, "-m", "nml_ray.cluster.supervisor", "--stop-seconds", str(stop_seconds)]
    return [*supervisor, submission.storage, submission.id, "--", *run]


def shell_line(command: list[str]) -> str:
    """A command as a POSIX shell takes it, without a shell that stays above it."""
    return f"exec {shlex.join(command)}"
