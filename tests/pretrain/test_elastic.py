"""A run that goes on with another number of workers: the same samples and labels, a loss that stays with it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pretrain.elastic_runs import ENCODER, audited, losses, workers_by_step
from tests.pretrain.test_workers import train

STEPS, LOOKED_AT = 66, 50  # 11 epochs of 6 steps
BATCH, CHANGE = 32, 12


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
        assert workers_by_step(facts) == [(0, 1), (CHANGE, workers)]
        report = audited(resumed, facts, tiny_data)
        assert report.holds, [str(finding) for finding in report.findings]
