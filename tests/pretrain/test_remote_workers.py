"""Workers on several machines whose storage is on an object store: they share nothing else, and any others go on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nml_ray.pretrain.arrival import forget, resumable
from nml_ray.pretrain.fed import FedLog
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.storage.artifact import Attempt, Store
from nml_ray.storage.mirror import working_root
from tests.object_store import Bucket

WORKER = Path(__file__).with_name("gloo_worker.py")
STEPS = 12

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def plan_on(bucket: Bucket, make_plan, tmp_path, monkeypatch):
    """Plans of a driver with a working root of its own, a new attempt each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))

    def plan() -> GroupPlan:
        root = working_root(str(bucket.at("runs")))
        return replace(make_plan(store=root, microbatch=8, epochs=2), checkpoint_steps=2)

    return plan


def train(plan: GroupPlan, tmp_path: Path, machines: list[str], stop: int | None = None) -> None:
    """Run a plan with a worker on each machine, or until rank 0 is killed after `stop` images."""
    (tmp_path / "meet").unlink(missing_ok=True)
    tail = [json.dumps(plan.carried()), *([str(stop)] if stop else [])]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path / "meet"), str(rank), str(len(machines)), *tail],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / machine), "AWAIT_UPLOAD": ""},
        )
        for rank, machine in enumerate(machines)
    ]
    codes = [process.wait() for process in processes]
    assert (codes == [0] * len(machines)) if stop is None else codes[0] == -9


@pytest.mark.slow
def test_two_machines_and_two_others_after_a_kill(plan_on, make_plan, tmp_path):
    local = replace(make_plan(store="local", microbatch=8, epochs=2), checkpoint_steps=2)
    train(local, tmp_path, ["one", "two"])
    expected = load_file(Path(local.arms[-1].attempt) / "encoder.safetensors")

    killed = plan_on()
    train(killed, tmp_path, ["one", "two"], stop=9 * 32)
    attempts = [Path(killed.arms[-1].attempt)]
    assert resumable(attempts) and not (attempts[0] / "checkpoints").exists(), "the driver has no checkpoint"
    train(plan := plan_on(), tmp_path, ["three", "four"])
    for arm in plan.arms:
        attempt = Attempt(Path(arm.attempt))
        facts = json.loads(next((tmp_path / "three").glob(f"**/{attempt.path.name}/facts.json")).read_bytes())
        artifact = attempt.finish(**facts)
        forget(attempt)
        assert resumable([attempt.path, *attempt.earlier]) == {}
    weights = load_file(artifact.path / "encoder.safetensors")
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    begun, resumed = artifact.record["lineage"]
    assert resumed["from_step"] > 0
    log = FedLog.open(artifact.evidence().parent, artifact.record["lineage"], STEPS)
    assert log.problems == ()
    assert {(begun["attempt"], log.ranks(begun["attempt"])), (resumed["attempt"], log.ranks(resumed["attempt"]))} == {
        (begun["attempt"], 2),
        (resumed["attempt"], 2),
    }
    assert sum(len(rows) for rows in log.parts(0, STEPS)) == STEPS * 32
    assert Store(working_root(json.loads(plan.carried()["arms"][0]["attempt"])["storage"])).artifact(
        "pretrain", artifact.digest
    )


@pytest.mark.slow
def test_workers_that_are_started_again_on_other_machines_set_aside_what_was_fed_beyond(plan_on, tmp_path):
    plan = plan_on()
    train(plan, tmp_path, ["one", "two"], stop=9 * 32)
    train(plan, tmp_path, ["three"])  # fewer, as an elastic run
    attempt = Attempt(Path(plan.arms[-1].attempt))
    facts = json.loads(next((tmp_path / "three").glob(f"**/{attempt.path.name}/facts.json")).read_bytes())
    artifact = attempt.finish(**facts)
    log = FedLog.open(artifact.evidence().parent, facts["lineage"], STEPS)
    rows = [(int(s), int(p)) for part in log.parts(0, STEPS) for s, p in zip(part.step, part.place, strict=True)]
    assert len(rows) == len(set(rows)) == STEPS * 32
