"""A real job on a real Slurm: it reaches its limit of time, goes on, is stopped, and a new submission on two nodes
ends it, with the bits of an undisturbed run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.cluster.collect import collect
from nml_ray.cluster.config import CodeSettings, SlurmCluster
from nml_ray.cluster.slurm import Cluster
from nml_ray.cluster.submission import Submission, new_id
from nml_ray.storage.artifact import read_progress
from tests.cluster import slurm_daemons
from tests.cluster.slurm_daemons import Slurm, left_of, wait_until
from tests.small_icons import small_icons

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]

JOB = Path(__file__).parents[2] / "jobs/demo.yaml"
EPOCHS = 500  # Slurm looks at limits of time every 30 s: a minute of work on a quiet machine, the double of that
SETTINGS: tuple[str, ...] = ("threads=1", "pretrain.encoder.width=4", f"pretrain.epochs={EPOCHS}", "pretrain.batch=128")
SETTINGS += ("noise.ratios=[0]", "run.checkpoint_steps=20")
PATIENCE = 600


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if reason := slurm_daemons.missing():
        pytest.skip(reason)
    with Slurm() as daemons:
        yield daemons


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    settings = [small_icons(tmp_path_factory.mktemp("icons")), *SETTINGS]
    return [*(word for setting in settings for word in ("--set", setting)), "--until", "pretrain"]


def submit(cluster: Cluster, storage: Path, arguments: list[str]) -> Submission:
    code = storage.parent / "code"
    code.mkdir(exist_ok=True)
    (code / "job.yaml").write_bytes(JOB.read_bytes())
    package = collect(CodeSettings(directory=str(code)), code / "job.yaml").package
    data = cluster.cluster.model_dump(mode="json")
    words = ("job.yaml", *arguments)
    made = Submission(new_id("demo"), "demo", data, str(storage), words, package.digest, "2026-11-24T15:36:41Z")
    return replace(made, handle=cluster.submit(made, package))


def trained(storage: Path) -> float:
    """Samples that the newest attempt at pre-training has passed, of all attempts together."""
    attempts = sorted(storage.glob("pretrain/*/attempt-*"))
    said = read_progress(attempts[-1]) if attempts else None
    return said.done if said else 0


def encoder(storage: Path) -> tuple[bytes, list[int]]:
    """The encoder, and the steps from which the attempts at it went on."""
    (record,) = storage.glob("pretrain/*/record.json")
    said = json.loads(record.read_bytes())
    weights = (record.parent / said["attempt"] / "encoder.safetensors").read_bytes()
    return weights, [entry["from_step"] for entry in said["lineage"]]


def test_limit_of_time_stop_and_a_new_submission_end_in_the_same_bits(slurm, arguments, tmp_path, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    storage = tmp_path / "disturbed"
    given = {"kind": "slurm", "directory": str(tmp_path / "shared"), "python": sys.executable, "time": "50"}
    given |= {"cpus_per_node": "2", "memory_per_node": "3GiB", "stop_seconds": "90", "restarts": "2", "nodes": "1"}
    one = Cluster(SlurmCluster.model_validate(given))
    first = submit(one, storage, arguments)
    job = first.handle["job"]

    def output() -> str:
        path = tmp_path / "shared" / first.id / "output.log"
        return path.read_text() if path.exists() else ""

    def limit(minutes: int) -> None:
        slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    try:
        wait_until(lambda: trained(storage) > 0, "first step", PATIENCE)
        limit(minutes=minutes_of(slurm, job) + 2)  # in a minute at least; Slurm warns 2.5 minutes before: now
        wait_until(lambda: "queued again" in output(), "warning of the limit", PATIENCE)
        wait_until(lambda: slurm.state(job) == "PENDING", "queue", PATIENCE)
        limit(minutes=50)
        assert [path.name for path in storage.glob("pretrain/*/record.json")] == [], (
            "the work was done before the limit"
        )
        before = trained(storage)
        wait_until(lambda: output().count("has come up") == 2 and trained(storage) > before, "second attempt", PATIENCE)
        one.stop(first)
        told = "".join(one.follow(first))
        assert told.endswith("nml-ray: stopped\n")
        assert one.status(first).state == "stopped"
        wait_until(lambda: left_of(job) == [], "end of everything")

        two = Cluster(SlurmCluster.model_validate({**given, "nodes": "2"}))
        second = submit(two, storage, arguments)
        told = "".join(two.follow(second))
        assert two.status(second).state == "succeeded"
        assert "Ray has come up on 2 nodes" in told
        wait_until(lambda: left_of(second.handle["job"]) == [], "end of everything")
    except BaseException:
        print(output())
        raise

    undisturbed = tmp_path / "undisturbed"
    command = [sys.executable, "-m", "nml_ray", "run", str(JOB), *arguments, "--inline", "--storage", str(undisturbed)]
    subprocess.run(command, check=True)
    weights, steps = encoder(storage)
    assert weights == encoder(undisturbed)[0]
    assert len(steps) == 3 and 0 == steps[0] < steps[1] < steps[2]


def minutes_of(slurm: Slurm, job: str) -> int:
    """For how long a job has run, rounded down."""
    return int(slurm.call("squeue", "--noheader", "--jobs", job, "--Format=TimeUsed").split(":")[-2])
