"""Model FLOPs utilisation: FLOPs by hand, peaks by name."""

import numpy as np
import pytest
import torch

from nml_ray.data.dataset import Dataset
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.config import OptimiserSettings, PretrainSettings
from nml_ray.pretrain.hardware import Utilisation, forward_flops, peak_of, utilisation_of
from nml_ray.pretrain.objective import seeded_objective
from nml_ray.pretrain.objectives import objective_of


def arm_of(**encoder) -> Arm:
    model = seeded_objective(EncoderSettings(**encoder), 5, 0.0, 0)
    labels = np.zeros(4, np.int32)
    return Arm.build("arm", model, labels, labels, OptimiserSettings())


def test_flops_are_those_of_the_convolutions_and_the_classifier():
    arm = arm_of(width=4, channels=1, size=12)
    expected = 0

    def count(module, inputs, output):
        nonlocal expected
        each = module.weight[0].numel()
        expected += 2 * each * output.numel()

    layers = [module for module in arm.model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    before = {name: value.clone() for name, value in arm.model.state_dict().items()}
    assert forward_flops(arm, torch.zeros(1, 1, 12, 12)) == expected > 0
    for handle in handles:
        handle.remove()
    assert arm.model.training
    assert all(torch.equal(before[name], value) for name, value in arm.model.state_dict().items())


def test_both_towers_count(make_plan, tiny_data):
    clip = {"text": {"dim": 8, "buckets": 256}, "zero_shot": None}
    plan = make_plan(("0",), kind="caption_swap", objective="clip", clip=clip)
    settings, dataset = PretrainSettings.model_validate(plan.settings), Dataset.open(tiny_data)
    arm = objective_of(plan, settings, dataset).build("arm", *[np.zeros(len(dataset), np.int32)] * 2)
    image_tower = arm_of(**plan.settings["encoder"])
    classifier, projection = 2 * 5 * arm.model.encoder.dim, 2 * 8 * arm.model.encoder.dim
    image = torch.zeros(1, 1, 12, 12)
    assert forward_flops(arm, image) >= forward_flops(image_tower, image) - classifier + projection


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA L40S", "float16", 362e12),
        ("NVIDIA L40", "bfloat16", 181e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA GH200 480GB", "bfloat16", 989e12),
        ("NVIDIA H20", "bfloat16", 148e12),
        ("NVIDIA A10", "bfloat16", 125e12),
        ("Tesla T4", "float16", 65e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA GeForce GT 710", "bfloat16", None),
    ],
)
def test_peaks_by_name(name, precision, peak):
    assert peak_of(name, precision) == peak


def test_utilisation_is_of_all_arms_on_all_devices():
    assert Utilisation(image_flops=3e9, peak=1e12, devices=2).share(100, arms=2) == pytest.approx(0.3)
    assert utilisation_of(arm_of(width=4, channels=1, size=12), torch.zeros(1, 1, 12, 12), "float32", 1) is None
