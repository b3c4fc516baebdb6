"""Clean runs pass the audit, also those that were killed and resumed; a record that does not fit its plan does not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.pretrain.resume import committed, step_of
from tests.pretrain.audit.audited import (
    audit,
    finish,
    only,
    plan_over,
    train,
    two_attempts,
)
from tests.pretrain.conftest import group_plan


def test_an_undisturbed_run_holds(clean, data):
    report = audit(clean, data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert [(epoch.samples, epoch.fed, epoch.dropped, epoch.excluded) for epoch in report.epochs] == [
        (203, 192, 10, 1),
        (203, 192, 10, 1),
    ]
    assert sum(epoch.holes for epoch in report.epochs) >= 2
    assert (report.attempts, report.replayed, report.workers) == ((("attempt-0001", 0),), 0, 1)


@pytest.mark.parametrize(("every", "until", "resumed", "replayed"), [(4, 7, 4, 0), (2, 11, 10, 0), (0, 8, 6, 0)])
def test_a_killed_and_resumed_run_holds(data, tmp_path, every, until, resumed, replayed):
    train(replace(plan_over(tmp_path / "store", data), checkpoint_steps=every), until)
    plan = plan_over(tmp_path / "store", data)
    report = audit(finish(plan, train(plan)), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts == (("attempt-0001", 0), ("attempt-0002", resumed))
    assert report.replayed == replayed


def test_steps_that_were_fed_again_are_replayed_not_twice(data, tmp_path):
    train(replace(plan_over(tmp_path / "store", data), checkpoint_steps=2), 9)
    (attempt,) = (tmp_path / "store" / "pretrain").glob("*/attempt-0001")
    for checkpoint in sorted((attempt / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(checkpoint)  # the next attempt resumes at 6, though the log reaches 8
    plan = plan_over(tmp_path / "store", data)
    report = audit(finish(plan, train(plan)), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts[-1] == ("attempt-0002", 6)
    assert report.replayed == 2 * 32
    assert sum(epoch.twice for epoch in report.epochs) == 0


def test_an_attempt_whose_workers_were_started_again_holds(data, tmp_path):
    plan = replace(plan_over(tmp_path / "store", data), checkpoint_steps=2)
    train(plan, 9)
    for checkpoint in sorted((Path(plan.arms[0].attempt) / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(checkpoint)
    report = audit(finish(plan, train(replace(plan, checkpoint_steps=3))), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts == (("attempt-0001", 0), ("attempt-0001", 6))
    assert report.replayed == 2 * 32


def test_an_arm_that_was_ahead_and_went_back_holds_when_it_goes_on_alone(data, tmp_path):
    """Killed between the commits of two arms, and again before the next; then each arm goes on without the other."""

    def both():
        return replace(group_plan(tmp_path / "store", data, epochs=2), undecodable_limit=0.05, checkpoint_steps=2)

    plan = both()
    train(plan, 9)
    ahead, behind = (Path(arm.attempt) for arm in plan.arms)
    shutil.rmtree(committed(behind)[-1])
    assert [step_of(committed(attempt)[-1]) for attempt in (ahead, behind)] == [8, 6]
    train(plan, 7)
    pair = both()
    alone = replace(pair, arms=pair.arms[:1])
    shutil.move(behind.parent, tmp_path / "other")
    report = audit(finish(alone, train(alone)), data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert report.attempts[-1][1] == 6


@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 2)])
def test_the_logs_of_all_ranks_are_joined_whatever_their_number(data, tmp_path, ranks):
    two_attempts(tmp_path / "store", data, ranks)
    report = audit(tmp_path / "store", data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert (report.workers, report.replayed) == (2, 3 * 32)


def test_repeats_are_no_samples_fed_twice(repeated, data):
    report = audit(repeated, data)
    assert report.holds, [str(finding) for finding in report.findings]
    assert [(one.samples, one.fed, one.dropped, one.excluded, one.twice) for one in report.epochs] == [
        (203, 96, 106, 1, 0)
    ] * 2


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("steps", 13, "record.json says steps 13, the plan 12"),
        ("dropped_per_epoch", 9, "record.json says dropped_per_epoch 9, the plan 10"),
        ("lineage", [{"attempt": "attempt-0001", "from_step": 3}], "attempts do not follow from step 0 on"),
        ("lineage", [], "attempts do not follow from step 0 on"),
        ("lineage", [{"attempt": "attempt-0001"}], "attempts do not follow from step 0 on"),
        ("lineage", [{"from_step": 0}], "attempts do not follow from step 0 on"),
    ],
)
def test_a_record_that_does_not_fit_the_plan_is_named(store, data, name, value, text):
    (path,) = (store / "pretrain").glob("*/record.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    (finding,) = only(audit(store, data), "record", 1)
    assert text in finding.text
