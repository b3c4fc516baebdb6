"""A loop that runs ahead of its device: what it learns late changes nothing, and no copy's memory is written over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nml_ray.config.errors import UserError
from nml_ray.data.shards import write_shards
from nml_ray.models.transfer import Uploads
from nml_ray.pretrain import loop, telemetry
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.device import steps_ahead
from nml_ray.pretrain.inputs import Inputs
from tests.pretrain.conftest import CLASSES, tiny_samples
from tests.pretrain.test_loop import Killed, same, train, weights

pytestmark = pytest.mark.long

TIMES = ("images_per_second", "data_wait_share", "resident_bytes")


@pytest.fixture
def one_ahead(monkeypatch):
    """Runs read each step's numbers a step later, as they do on a GPU."""
    return lambda: monkeypatch.setattr(loop, "steps_ahead", lambda device, precision: 1)


def told(plan, arm):
    """The arm's telemetry without clocks and memory."""
    lines = (Path(plan.arms[arm].attempt) / "telemetry.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES and "seconds" not in name}
        for line in lines
    ]


def test_only_a_gpu_is_run_ahead_of_and_not_where_a_norm_decides():
    assert steps_ahead(torch.device("cpu"), "float32") == 0
    assert steps_ahead(torch.device("cuda", 0), "bfloat16") == 1
    assert steps_ahead(torch.device("cuda", 0), "float16") == 0


def test_weights_telemetry_and_checkpoints_are_those_of_a_loop_that_waits(make_plan, tiny_data, monkeypatch, one_ahead):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0.0)

    def plan_of(store):
        plan = make_plan(store=store, mixing={"mixup": 0.2}, optimiser={"clip_norm": 1.0})
        return replace(plan, checkpoint_steps=4, validation=str(tiny_data))

    waiting, ahead, killed = plan_of("waiting"), plan_of("ahead"), plan_of("killed")
    train(waiting)
    one_ahead()
    train(ahead)
    with pytest.raises(Killed):
        train(killed, until_images=10 * 32)
    resumed = make_plan(store="killed", mixing={"mixup": 0.2}, optimiser={"clip_norm": 1.0})
    outcomes = train(replace(resumed, validation=str(tiny_data)))
    assert outcomes[0].facts["lineage"][-1]["from_step"] == 8
    for arm in (0, 1):
        assert same(weights(ahead, arm), weights(waiting, arm))
        assert same(weights(resumed, arm), weights(waiting, arm))
        assert told(ahead, arm) == told(waiting, arm)


def test_an_arm_that_diverges_ends_alone_though_it_is_learnt_a_step_later(make_plan, monkeypatch, one_ahead):
    monkeypatch.setattr(telemetry, "EVERY_SECONDS", 0.0)
    real, steps = Arm.accumulate, []

    def spoiled(arm, images, *more):
        if arm.name.endswith("0.3"):
            steps.append(arm)
            images = images * torch.nan if len(steps) > 2 * 3 else images  # from the fourth step on
        return real(arm, images, *more)

    alone = make_plan(("0",), store="alone")
    train(alone)
    monkeypatch.setattr(Arm, "accumulate", spoiled)
    one_ahead()
    plan = make_plan(("0", "0.3"))
    outcomes = train(plan)
    assert [outcome.error for outcome in outcomes] == ["", "loss is nan"]
    assert [line["step"] for line in told(plan, 1)] == [0, 1, 2]
    assert same(weights(plan, 0), weights(alone, 0))
    assert len(steps) == 2 * 5  # one more step than the one that failed


def test_too_many_undecodable_images_stop_the_run(tmp_path, make_plan, one_ahead):
    directory = tmp_path / "data"
    directory.mkdir()
    write_shards(tiny_samples(64, broken=tuple(range(9))), directory, samples_per_shard=64, classes=CLASSES)
    one_ahead()
    with pytest.raises(UserError, match="could not be decoded"):
        train(make_plan(data=directory))


class LateUploads(Uploads):
    """Copies that are complete only when somebody waits for them: until then their memory must stay as it is."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.completed = 0

    def copy(self, images):
        self.under_way.append((images, images.clone()))
        return self.under_way[-1][1]

    def done(self):
        return self

    def synchronize(self):
        for memory, copied in self.under_way:
            assert torch.equal(memory, copied)
        self.completed += len(self.under_way)
        self.under_way.clear()


def test_no_batch_is_written_over_before_its_copy_is_complete(make_plan, monkeypatch, one_ahead):
    uploads = LateUploads()
    monkeypatch.setattr(Inputs, "uploads", uploads)
    one_ahead()
    plan = make_plan(("0",))
    train(plan)
    steps = 18
    assert uploads.completed == 2 * (steps - 3)  # microbatches; after the last step but three no memory is used again


def test_batches_that_nobody_holds_are_written_over(make_plan, monkeypatch):
    """The rule above has something to watch: without it the copies find other images."""
    uploads = LateUploads()
    monkeypatch.setattr(Inputs, "uploads", uploads)
    monkeypatch.setattr(loop.Loader, "hold", lambda loader, until: None)
    train(make_plan(("0",)))
    with pytest.raises(AssertionError):
        uploads.synchronize()
