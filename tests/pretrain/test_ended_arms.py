"""An arm whose numbers are not finite ends alone and, within its attempt, for good."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch.nn import init

from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.resume import committed, step_of
from nml_ray.storage.mirror import working_root
from tests.pretrain.killed_loop import Killed, train
from tests.pretrain.test_workers import train as train_on_workers

pytestmark = pytest.mark.long


def steps_of(plan, number):
    return [step_of(checkpoint) for checkpoint in committed(Path(plan.arms[number].attempt))]


def same_encoders(first, second):
    one, other = (load_file(Path(plan.arms[0].attempt) / "encoder.safetensors") for plan in (first, second))
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def spoilt(monkeypatch):
    """The arm 0.3 breaks at step 8, whenever it comes there; says how often it did."""
    begin, broken = BaseArm.begin_step, []

    def begin_step(arm):
        begin(arm)
        if arm.name.endswith("0.3") and arm.optimiser.steps == 8:
            broken.append(arm.name)
            init.constant_(arm.model.head.weight, float("nan"))

    monkeypatch.setattr(BaseArm, "begin_step", begin_step)
    return broken


@pytest.mark.parametrize("images", [11 * 32, 15 * 32])
def test_workers_started_again_go_on_without_the_arm_that_ended(make_plan, spoilt, images):
    undisturbed = make_plan(("0",), store="undisturbed")
    train(undisturbed)
    plan = replace(make_plan(), checkpoint_steps=1)
    with pytest.raises(Killed):
        train(plan, images)
    assert steps_of(plan, 1) == [7, 8]
    good, bad = train(plan)
    assert (good.error, bad.error) == ("", "loss is nan")
    assert [begun["from_step"] for begun in good.facts["lineage"]] == [0, images // 32 - 1]
    assert len(spoilt) == 1, "it does not come back to life"
    assert steps_of(plan, 1) == [7, 8], "a later attempt can go on from there"
    assert same_encoders(undisturbed, plan)


def test_an_arm_stays_ended_where_the_others_go_back_to_before_its_end(make_plan, spoilt):
    plan = replace(make_plan(), checkpoint_steps=6)
    with pytest.raises(Killed):
        train(plan, 10 * 32)
    good, bad = train(plan)
    assert (good.error, bad.error, len(spoilt)) == ("", "loss is nan", 1)
    assert good.facts["lineage"][-1]["from_step"] == 6


def test_nothing_is_trained_again_where_all_arms_have_ended(make_plan, spoilt):
    plan = replace(make_plan(("0.3",)), checkpoint_steps=1)
    for _ in range(2):
        assert [outcome.error for outcome in train(plan)] == ["loss is nan"]
    assert len(spoilt) == 1
    assert steps_of(plan, 0) == [7, 8]


def test_a_new_attempt_tries_again(make_plan, spoilt):
    for _ in range(2):
        assert train(make_plan())[1].error == "loss is nan"
    assert len(spoilt) == 2


def test_another_machine_knows_of_the_end(make_plan, spoilt, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    plan = replace(make_plan(store=working_root(str(bucket.at("runs")))), checkpoint_steps=1)
    with pytest.raises(Killed):
        train(plan, 15 * 32)
    told = plan.carried()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    working_root(str(bucket.at("runs")))
    good, bad = train(there := GroupPlan.from_data(told))
    assert there.arms[0].attempt != plan.arms[0].attempt
    assert (good.error, bad.error, len(spoilt)) == ("", "loss is nan", 1)
    assert good.facts["lineage"][-1]["from_step"] >= 9


@pytest.mark.slow
def test_two_workers_agree_on_the_end(make_plan, tmp_path, monkeypatch):
    settings = {"microbatch": 8, "epochs": 2}
    undisturbed = make_plan(store="undisturbed", **settings)
    train_on_workers(undisturbed, 2, tmp_path / "meet")
    monkeypatch.setenv("BREAK_AT", "5")
    plan = replace(make_plan(**settings), checkpoint_steps=1)
    train_on_workers(plan, 2, tmp_path / "meet", stop=10 * 32)
    assert steps_of(plan, 0)[-1] > steps_of(plan, 1)[-1] == 5
    train_on_workers(plan, 2, tmp_path / "meet")
    facts = json.loads((Path(plan.arms[0].attempt) / "facts.json").read_bytes())
    assert facts["lineage"][-1]["from_step"] > 5
    assert same_encoders(undisturbed, plan)
