"""A node comes, a node dies: an elastic run takes its workers and goes on without, on the same samples and losses."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pyarrow import parquet

from nml_ray.pretrain import telemetry
from nml_ray.pretrain.capacity import Workers
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.trainer import train_on_ray
from nml_ray.pretrain.world import World
from tests.pretrain.elastic_runs import ENCODER, audited, losses, workers_by_step

CLUSTER = Path(__file__).with_name("elastic_cluster.py")
STEPS, LOOKED_AT = 62, 50  # with each number of workers; a change comes in the middle of an epoch

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.mark.usefixtures("shared_ray")
def test_an_elastic_run_takes_what_there_is(make_plan, tiny_data, tmp_path):
    plan = replace(make_plan(epochs=2, ratios=("0.3",)), decode_threads=1)
    (outcome,) = train_on_ray(plan, Workers(1, 2), str(tmp_path / "ray"))
    assert workers_by_step(outcome.facts) == [(0, 1)]
    assert audited(plan, outcome.facts, tiny_data).holds


@pytest.mark.kill
def test_an_elastic_run_grows_and_shrinks(make_plan, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0)
    settings = {"microbatch": 8, "epochs": 32, "encoder": ENCODER, "ratios": ("0.3",)}
    undisturbed = make_plan(store="undisturbed", **settings)
    train_group(undisturbed, World(), lambda *told: None)

    plan = replace(make_plan(store="elastic", **settings), decode_threads=1)
    command = [sys.executable, str(CLUSTER), json.dumps(asdict(plan)), str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]

    facts = json.loads((Path(plan.arms[0].attempt) / "outcome.json").read_text())["facts"]
    print("workers by step:", workers_by_step(facts))
    assert [workers for _, workers in workers_by_step(facts)] == [1, 2, 1]
    report = audited(plan, facts, tiny_data)
    assert report.holds, [str(finding) for finding in report.findings]

    told, expected = losses(plan), losses(undisturbed)
    assert sorted(told) == sorted(expected) == list(range(32 * 6))
    changes = [step for step, _ in workers_by_step(facts)[1:]]
    assert changes[1] - changes[0] >= LOOKED_AT and changes[1] + LOOKED_AT <= len(told)
    for change in changes:
        differences = [abs(told[step] - expected[step]) for step in range(change, change + LOOKED_AT)]
        print(f"{LOOKED_AT} steps from {change} on: the loss differs by at most {max(differences):.1e}")
        assert max(differences) < 1e-3
    curves = [
        parquet.read_table(Path(one.arms[0].attempt) / "curves.parquet").to_pandas() for one in (plan, undisturbed)
    ]
    for name in ("loss_clean", "loss_flipped"):
        print(f"{name} of an epoch differs by at most {(curves[0][name] - curves[1][name]).abs().max():.1e}")
