"""A run that goes on with another number of workers: the same samples and labels, a loss that stays with it.

The model has no BatchNorm, whose running statistics are a mean over the workers.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pretrain.audit.audited import audit, finish
from tests.pretrain.test_workers import train

STEPS, LOOKED_AT = 66, 50  # 11 epochs of 6 steps
BATCH, CHANGE = 32, 12
ENCODER = {"name": "timm:test_convnext", "size": 32, "channels": 3}


def losses(plan) -> dict[int, float]:
    """The loss of every step that counts, by step."""
    lines = (Path(plan.arms[-1].attempt) / "telemetry.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_other_numbers_of_workers(make_plan, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TELL_EVERY_STEP", "1")
    settings = {"microbatch": 8, "epochs": 11, "encoder": ENCODER, "ratios": ("0.3",)}
    undisturbed = make_plan(store="undisturbed", **settings)
    train(undisturbed, 1, tmp_path / "meet")
    expected = losses(undisturbed)
    assert sorted(expected) == list(range(STEPS))

    begun = replace(make_plan(store="begun", **settings), checkpoint_steps=CHANGE)
    train(begun, 1, tmp_path / "meet", stop=(CHANGE + 3) * BATCH)
    for workers in (1, 2, 3):
        store = tmp_path / f"resumed-{workers}"
        shutil.copytree(tmp_path / "begun", store)
        resumed = make_plan(store=store.name, **settings)
        train(resumed, workers, tmp_path / "meet")
        told = losses(resumed)
        assert sorted(told) == list(range(CHANGE, STEPS))
        differences = [abs(told[step] - expected[step]) for step in range(CHANGE, CHANGE + LOOKED_AT)]
        print(f"{workers} worker(s) after 1: the loss differs by at most {max(differences):.1e}")
        assert max(differences) < 1e-3

        facts = json.loads((Path(resumed.arms[0].attempt) / "facts.json").read_text())
        assert [(one["from_step"], one["workers"]) for one in facts["lineage"]] == [(0, 1), (CHANGE, workers)]
        report = audit(finish(resumed, facts), tiny_data)
        assert report.holds, [str(finding) for finding in report.findings]
