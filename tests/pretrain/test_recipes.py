"""Whole recipes in the loop: they resume and share bit for bit, validate and export what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import load_file
from torch.nn.functional import linear

from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import Microbatch
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import load_encoder
from nml_ray.models.preprocess import InputSpec
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.inputs import Inputs
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.objective import seeded_objective
from nml_ray.pretrain.recipe_config import MixingSettings, OptimiserSettings
from nml_ray.pretrain.validation import Validation
from nml_ray.pretrain.world import World

pytestmark = pytest.mark.long

STRONG = {
    "optimiser": {"name": "lamb", "learning_rate": 0.01, "weight_decay": 0.02, "clip_norm": 1.0},
    "loss": {"kind": "bce", "threshold": 0.2},
    "label_smoothing": 0.1,
    "mixing": {"mixup": 0.2, "cutmix": 1.0},
    "randaugment": {"magnitude": 7},
    "average": {"decay": 0.9},
    "repeats": 2,
}
HALF = {"precision": "bfloat16", "optimiser": {"name": "sgd", "learning_rate": 0.05}, "mixing": {"mixup": 0.4}}
TIMM = {
    "encoder": {"name": "timm:resnet10t", "channels": 3, "size": 32, "drop_rate": 0.2, "drop_path_rate": 0.2},
    "epochs": 1,
}


class Killed(Exception):
    """Stands for the process's death at a chosen point of the loop."""


def train(plan, until_images=None):
    def report(done, total, unit):
        if until_images is not None and done >= until_images:
            raise Killed

    outcomes = train_group(plan, World(), report)
    assert [outcome.error for outcome in outcomes] == [""] * len(outcomes)


def weights(plan, number):
    attempt = Path(plan.arms[number].attempt)
    return {**load_file(attempt / "encoder.safetensors"), **load_file(attempt / "head.safetensors")}


def curves(plan, number):
    return parquet.read_table(Path(plan.arms[number].attempt) / "curves.parquet").to_pylist()


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("recipe", [STRONG, HALF, TIMM], ids=["strong", "half", "timm"])
def test_a_recipe_resumes_and_shares_with_equal_bits(make_plan, tiny_data, recipe):
    undisturbed, killed, alone = (
        replace(make_plan(ratios, store=store, **recipe), validation=str(tiny_data), checkpoint_steps=2)
        for ratios, store in ((("0", "0.3"), "undisturbed"), (("0", "0.3"), "killed"), (("0.3",), "alone"))
    )
    train(undisturbed)
    with pytest.raises(Killed):
        train(killed, until_images=5 * 32)
    resumed = replace(make_plan(store="killed", **recipe), validation=str(tiny_data))
    train(resumed)
    train(alone)
    assert same(weights(undisturbed, 0), weights(resumed, 0))
    assert curves(undisturbed, 1) == curves(resumed, 1)
    assert same(weights(undisturbed, 1), weights(alone, 0))
    assert not same(weights(undisturbed, 0), weights(undisturbed, 1))


def test_validation_scores_what_is_exported(make_plan, tiny_data):
    plan = replace(make_plan(epochs=4, average={"decay": 0.8}), validation=str(tiny_data))
    train(plan)
    rows = curves(plan, 0)
    assert rows[-1]["validation_accuracy"] > rows[0]["validation_accuracy"]
    encoder = load_encoder(Path(plan.arms[0].attempt))
    head = load_file(Path(plan.arms[0].attempt) / "head.safetensors")

    def exported(batch: torch.Tensor) -> torch.Tensor:
        return linear(encoder(batch), torch.from_numpy(head["weight"]), torch.from_numpy(head["bias"]))

    again = Validation(Dataset.open(tiny_data), encoder.input, 16, 1, torch.device("cpu"))
    (score,) = again.evaluate([exported], World())
    assert score.accuracy == rows[-1]["validation_accuracy"]
    assert np.isclose(score.loss, rows[-1]["validation_loss"], rtol=1e-6)


def test_training_images_may_be_smaller_than_those_of_use(make_plan):
    plan = make_plan(epochs=1, train_size=8)
    train(plan)
    assert load_encoder(Path(plan.arms[0].attempt)).input.size == 12


def made_arm(**options) -> Arm:
    settings = options.pop("optimiser", OptimiserSettings(learning_rate=0.1, name="sgd"))
    model = seeded_objective(EncoderSettings(width=2, channels=1, size=12), 5, 0.0, 0)
    labels = (np.arange(32) % 5).astype(np.int32)
    wrong = labels.copy()
    wrong[::2] = (wrong[::2] + 1) % 5
    return Arm.build("arm", model, wrong, labels, settings, **options)


def images() -> torch.Tensor:
    return torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_a_gradient_is_clipped_as_a_whole():
    free = made_arm()
    clipped = made_arm(optimiser=OptimiserSettings(name="sgd", clip_norm=0.01))
    for arm in (free, clipped):
        arm.begin_step()
        arm.accumulate(images(), torch.arange(32), torch.ones(32))
        arm.update(World(), 0.0)
    norms = [torch.linalg.vector_norm(arm.gradients[:-8]).item() for arm in (free, clipped)]
    assert norms[0] == pytest.approx(free.gradient_norm) == pytest.approx(clipped.gradient_norm)
    assert norms[1] == pytest.approx(0.01, rel=1e-5)


def test_mixed_samples_count_as_the_one_that_fills_them():
    arm, keys = made_arm(), np.arange(32, dtype=np.uint64)
    settings = PretrainSettings(batch=32, mixing=MixingSettings(mixup=0.5, cutmix=1.0))
    inputs = Inputs(settings, 0, InputSpec(1, 12, (0.5,), (0.5,), 12), keys, torch.device("cpu"))
    pixels = np.zeros((32, 12, 12, 1), np.uint8)
    weights = np.ones(32, np.float32)
    weights[3] = 0
    fed = inputs.prepare(Microbatch(np.arange(32), np.arange(32), pixels, weights, keys), 0)
    arm.begin_step()
    arm.accumulate(fed.images, fed.numbers, fed.weights, fed.mixing)
    arm.update(World(), 0.0)
    filled = np.where(fed.mixing.shares.numpy() >= 0.5, np.arange(32), 31 - np.arange(32))
    filled = np.delete(filled, 3)
    assert arm.counts[0] == (filled % 2 == 1).sum()
    assert arm.counts[3] == (filled % 2 == 0).sum()


def test_a_float16_step_that_overflows_is_skipped():
    arm = made_arm(precision="float16", batch=32)
    before = [parameter.detach().clone() for parameter in arm.model.parameters()]
    start, arm.scale.scale = arm.scale.scale, 1e38
    arm.begin_step()
    arm.accumulate(images(), torch.arange(32), torch.ones(32))
    arm.update(World(), 0.1)
    assert arm.scale.scale == 0.5e38 and arm.optimiser.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, arm.model.parameters(), strict=True))
    arm.scale.scale = start
    plain = made_arm(batch=32)
    for one in (arm, plain):
        one.begin_step()
        one.accumulate(images(), torch.arange(32), torch.ones(32))
        one.update(World(), 0.1)
    assert arm.gradient_norm == pytest.approx(plain.gradient_norm, rel=0.05)


@pytest.mark.slow
def test_a_compiled_model_agrees_to_rounding():
    eager, compiled = made_arm(), made_arm(compiled=True)
    for arm in (eager, compiled):
        arm.begin_step()
        arm.accumulate(images(), torch.arange(32), torch.ones(32))
        arm.update(World(), 0.1)
    torch.testing.assert_close(compiled.gradients, eager.gradients, rtol=1e-4, atol=1e-5)
