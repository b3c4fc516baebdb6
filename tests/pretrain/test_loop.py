"""The loop's promises, bit for bit: a resumed run is the undisturbed one, a shared arm is the arm alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import feather, parquet
from safetensors.numpy import load_file

from nml_ray.config.errors import UserError
from nml_ray.data.config import NoiseArm
from nml_ray.data.dataset import Dataset
from nml_ray.data.labels import noise_ledger
from nml_ray.data.shards import write_shards
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.world import World
from tests.pretrain.conftest import CLASSES, tiny_samples
from tests.pretrain.killed_loop import Killed, train

pytestmark = pytest.mark.long


def weights(plan, number):
    attempt = Path(plan.arms[number].attempt)
    return {**load_file(attempt / "encoder.safetensors"), **load_file(attempt / "head.safetensors")}


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_learns_and_splits_its_curves(make_plan):
    plan = make_plan(epochs=8, optimiser={"learning_rate": 0.03})
    outcomes = train(plan)
    assert [outcome.error for outcome in outcomes] == ["", ""]
    curves = parquet.read_table(Path(plan.arms[1].attempt) / "curves.parquet").to_pylist()
    assert [row["epoch"] for row in curves] == list(range(8))
    assert curves[-1]["accuracy_clean"] > 0.75
    assert curves[-1]["recovered_flipped"] > curves[-1]["accuracy_flipped"]
    clean = parquet.read_table(Path(plan.arms[0].attempt) / "curves.parquet").to_pylist()
    assert clean[-1]["loss_flipped"] is None


def test_an_arm_of_a_shared_run_equals_the_arm_alone(make_plan):
    shared, alone = make_plan(("0", "0.1", "0.3")), make_plan(("0.3",), store="alone")
    train(shared)
    train(alone)
    assert same(weights(shared, 2), weights(alone, 0))
    assert not same(weights(shared, 1), weights(shared, 2))


@pytest.mark.parametrize(
    ("optimiser", "images"), [("adamw", 5 * 32), ("adamw", 6 * 32), ("adamw", 17 * 32), ("sgd", 7 * 32)]
)
def test_a_resumed_run_equals_the_undisturbed_one(make_plan, optimiser, images):
    settings = {"optimiser": {"name": optimiser, "learning_rate": 0.01}}
    undisturbed = make_plan(store="undisturbed", **settings)
    train(undisturbed)
    killed = replace(make_plan(store="killed", **settings), checkpoint_steps=4)
    with pytest.raises(Killed):
        train(killed, until_images=images)
    resumed = make_plan(store="killed", **settings)
    outcomes = train(resumed)
    begun = {"attempt": "attempt-0002", "from_step": images // 32 // 4 * 4, "workers": 1}
    assert outcomes[0].facts["lineage"][-1] == begun
    for number in range(2):
        assert same(weights(undisturbed, number), weights(resumed, number))
        curves = [Path(plan.arms[number].attempt) / "curves.parquet" for plan in (undisturbed, resumed)]
        assert parquet.read_table(curves[0]).equals(parquet.read_table(curves[1]))


def test_arms_killed_between_their_commits_resume_at_their_common_step(make_plan):
    killed = replace(make_plan(store="killed"), checkpoint_steps=2)
    with pytest.raises(Killed):
        train(killed, until_images=5 * 32)
    newest = sorted((Path(killed.arms[1].attempt) / "checkpoints").glob("step-*"))[-1]
    newest.rename(newest.with_name("aside-x"))
    resumed = make_plan(store="killed")
    assert train(resumed)[0].facts["lineage"][-1]["from_step"] == 2
    undisturbed = make_plan(store="undisturbed")
    train(undisturbed)
    assert same(weights(undisturbed, 1), weights(resumed, 1))


def test_the_feeding_log_holds_each_sample_once_with_the_ledgers_label(make_plan, tiny_data):
    plan = make_plan(epochs=2)
    train(plan)
    dataset = Dataset.open(tiny_data)
    ledger = noise_ledger(dataset, NoiseArm.from_hashed(plan.arms[1].noise))
    label_of = dict(zip(dataset.key_hash[dataset.good].tolist(), ledger.given.tolist(), strict=True))
    logs = sorted((Path(plan.arms[1].attempt) / "fed").glob("*.arrow"))
    for epoch, path in enumerate(logs):
        log = feather.read_table(path)
        hashes = log["key_hash"].to_pylist()
        assert len(set(hashes)) == len(hashes) == 6 * 32
        assert [label_of[value] for value in hashes] == log["label"].to_pylist()
        assert set(log["step"].to_pylist()) == set(range(6 * epoch, 6 * epoch + 6))
        assert log["place"].to_pylist()[:32] == list(range(32))


def test_undecodable_images_keep_their_place_at_weight_zero(make_plan, tmp_path):
    write_shards(tiny_samples(203, broken=(7, 150)), tmp_path / "broken", samples_per_shard=60, classes=CLASSES)
    plan = replace(make_plan(data=tmp_path / "broken"), undecodable_limit=0.05)
    outcomes = train(plan)
    assert 4 <= outcomes[0].facts["undecodable"] <= 6
    holes = [json.loads(line) for line in (Path(plan.arms[0].attempt) / "holes-0.jsonl").read_text().splitlines()]
    assert {hole["key"] for hole in holes} == {"sample-0007", "sample-0150"}
    strict = replace(make_plan(data=tmp_path / "broken", store="strict"), undecodable_limit=0.0)
    with pytest.raises(UserError, match="could not be decoded"):
        train(strict)


def test_an_arm_that_diverges_ends_alone(make_plan, monkeypatch):
    build = Arm.build.__func__

    def spoiled(cls, name, model, *rest):
        if name.endswith("0.3"):
            torch.nn.init.constant_(model.head.weight, float("nan"))
        return build(cls, name, model, *rest)

    alone = make_plan(("0",), store="alone")
    train(alone)
    monkeypatch.setattr(Arm, "build", classmethod(spoiled))
    plan = make_plan()
    good, bad = train(plan)
    assert not good.error
    assert "nan" in bad.error
    assert same(weights(plan, 0), weights(alone, 0))
    assert [outcome.error for outcome in train(make_plan(("0.3",), store="hopeless"))] == ["loss is nan"]


@pytest.mark.parametrize("encoder", ["small_resnet", "torchvision:mobilenet_v3_small"])
def test_no_global_generator_is_touched_and_dropout_is_keyed(make_plan, encoder):
    settings = {"encoder": {"name": encoder, "width": 4, "channels": 3, "size": 32}, "epochs": 1}
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    shared, alone = make_plan(**settings), make_plan(("0.3",), store="alone", **settings)
    train(shared)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.manual_seed(6)
    train(alone)
    assert same(weights(shared, 1), weights(alone, 0))


def test_gradients_are_the_mean_over_the_batch_whatever_the_microbatch(make_plan, tiny_data):
    from nml_ray.models.config import EncoderSettings
    from nml_ray.pretrain.config import OptimiserSettings
    from nml_ray.pretrain.objective import seeded_objective

    model = seeded_objective(EncoderSettings(width=2, channels=1, size=12), 5, 0.0, 0)
    labels = np.arange(32) % 5
    arm = Arm.build("arm", model, labels, labels, OptimiserSettings())
    model.eval()  # BatchNorm would tie a sample to its microbatch
    images = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(model(images, torch.from_numpy(labels))[0].mean(), list(model.parameters()))
    arm.begin_step()
    for numbers in torch.arange(32).split(8):
        arm.accumulate(images[numbers], numbers, torch.ones(len(numbers)))
    _, weight = arm.update(World(), 0.0)
    assert weight == 32
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
