"""The command of a submitted job."""

from nml_ray.cluster.command import job_command
from nml_ray.cluster.submission import Submission


def submission(*arguments: str) -> Submission:
    return Submission("demo-1", "demo", {"kind": "local"}, "/data/runs", ("jobs/a b.yaml", *arguments), "0f", "")


def test_the_supervisor_starts_the_run():
    assert job_command(submission("--set", "name=x"), "python3", stop_seconds=30) == [
        *("python3", "-m", "nml_ray.cluster.supervisor", "--stop-seconds", "30"),
        *("--of", "demo", "local", "0f", "", "/data/runs", "demo-1", "--"),
        *("python3", "-m", "nml_ray", "run", "jobs/a b.yaml", "--set", "name=x", "--storage", "/data/runs"),
        *("--stop-seconds", "15", "--submission", "demo-1", "--address", "auto"),
    ]


def test_a_run_without_ray_joins_none():
    assert "--address" not in job_command(submission("--inline"), "python3")
    assert "--address" not in job_command(submission(), "python3", address="")
