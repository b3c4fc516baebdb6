"""The command that runs a submitted job, the same on every kind of cluster."""

from nml_ray.cluster.submission import Submission
from nml_ray.cluster.supervisor import STOP_SECONDS


def job_command(
    submission: Submission, python: str, *, stop_seconds: int = STOP_SECONDS, address: str = "auto"
) -> list[str]:
    """What is started in the directory into which the code was unpacked; quote it where a shell reads it.

    Args:
        submission: the job; its arguments have neither --storage nor --address.
        python: the interpreter there.
        stop_seconds: what the job gets to end by itself.
        address: of the Ray that it joins; "" for one of its own. `--inline` needs none.
    """
    job = [python, "-m", "nml_ray", "run", *submission.arguments, "--storage", submission.storage]
    job += ["--stop-seconds", str(stop_seconds // 2)]  # for a checkpoint; the rest to end in order
    if "--inline" not in submission.arguments:
        job += ["--submission", submission.id, *(["--address", address] if address else [])]
    supervisor = [python, "-m", "nml_ray.cluster.supervisor", "--stop-seconds", str(stop_seconds)]
    kind = str(submission.cluster.get("kind", ""))
    supervisor += ["--of", submission.job, kind, submission.code, submission.submitted]
    return [*supervisor, submission.storage, submission.id, "--", *job]
