"""Numbers that are not finite: a gradient ends its arm, figures are told as none."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

from nml_ray.data.loader import LoaderTimers
from nml_ray.pretrain import counts, telemetry
from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.best import best_epoch
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.resume import committed
from nml_ray.pretrain.world import World
from nml_ray.storage.artifact import Attempt

pytestmark = pytest.mark.long


def train(plan):
    return train_group(plan, World(), lambda *_: None)


def strictly(text):
    """JSON as others read it."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gradient_that_is_not_finite_in_the_last_step_ends_the_arm(make_plan, monkeypatch, precision):
    begin = BaseArm.begin_update

    def begin_update(arm, world, rate):
        if arm.optimiser.steps == 5 and arm.name.endswith("0.3"):
            arm.gradients[0] = float("inf")
        return begin(arm, world, rate)

    monkeypatch.setattr(BaseArm, "begin_update", begin_update)
    plan = make_plan(epochs=1, precision=precision)
    good, bad = train(plan)
    assert (good.error, bad.error) == ("", "the norm of the gradient is inf")
    assert not (Path(plan.arms[1].attempt) / "encoder.safetensors").exists()


def test_a_run_whose_validation_loss_is_not_finite_can_be_finished(make_plan, tiny_data):
    settings = {"epochs": 1, "optimiser": {"name": "sgd", "learning_rate": 1e38, "warmup_epochs": 0}}
    plan = replace(make_plan(batch=192, microbatch=64, **settings), validation=str(tiny_data))
    for outcome, arm in zip(train(plan), plan.arms, strict=True):
        attempt = Path(arm.attempt)
        assert outcome.error == ""
        assert outcome.facts["final"]["validation_loss"] is None
        (row,) = parquet.read_table(attempt / "curves.parquet").to_pylist()
        assert row["validation_loss"] is None and row["loss_clean"] > 0
        for file in (*committed(attempt)[0].glob("state.json"), *attempt.glob("telemetry.jsonl")):
            for line in file.read_text().splitlines():
                strictly(line)
        assert Attempt(attempt).finish(**outcome.facts).record["final"] == outcome.facts["final"]


def test_numbers_that_are_not_finite_are_none():
    curve = {"epoch": 3, "loss_clean": math.nan, "validation_loss": math.inf, "accuracy_clean": 0.5, "x": None}
    assert counts.finite(curve) == {**curve, "loss_clean": None, "validation_loss": None}


def test_the_best_epoch_has_an_accuracy():
    curves = [{"epoch": epoch, "validation_accuracy": value} for epoch, value in enumerate((math.nan, 0.25, None))]
    assert best_epoch(curves) == curves[1]
    assert best_epoch(curves[:1]) is None


def test_telemetry_has_no_bare_nan(tmp_path):
    lines = telemetry.Telemetry([tmp_path], LoaderTimers(), batch=32)
    lines.end_epoch(5, [{"epoch": 0, "validation_loss": math.nan}])
    lines.close()
    assert strictly((tmp_path / "telemetry.jsonl").read_text())["validation_loss"] is None
