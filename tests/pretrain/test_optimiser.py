"""The optimisers against torch.optim (equal bits) and timm's LAMB (to rounding), over steps with changing rates."""

import copy

import pytest
import torch
from timm.optim.lamb import Lamb as TimmLamb
from torch import nn

from nml_ray.pretrain.optimiser import build_optimiser, clip_
from nml_ray.pretrain.recipe_config import OptimiserSettings


def small_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
    return model.to(memory_format=torch.channels_last)


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def groups(model: nn.Module, decay: float):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def reference(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(groups(model, 0.05), lr=0.0, betas=(0.9, 0.999), fused=True)
    momentum = 0.9 if name == "sgd" else 0.0
    return torch.optim.SGD(groups(model, 0.05), lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)


@pytest.mark.parametrize("name", ["adamw", "sgd", "sgd without momentum"])
def test_equal_bits_to_torch(name):
    theirs = small_model()
    ours = copy.deepcopy(theirs)
    settings = {"name": name.split()[0], "weight_decay": 0.05, "momentum": 0.0 if "without" in name else 0.9}
    torch_optimiser, optimiser = reference(name, theirs), build_optimiser(ours, OptimiserSettings(**settings))
    for step in range(30):
        gradients(theirs, step)
        gradients(ours, step)
        for group in torch_optimiser.param_groups:
            group["lr"] = 0.01 / (1 + step)
        torch_optimiser.step()
        optimiser.step(0.01 / (1 + step))
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("limit", [None, 1.0])
def test_lamb_is_timms(limit):
    theirs = small_model()
    ours = copy.deepcopy(theirs)
    timm_optimiser = TimmLamb(groups(theirs, 0.02), lr=0.0, max_grad_norm=limit)
    optimiser = build_optimiser(ours, OptimiserSettings(name="lamb", weight_decay=0.02))
    for step in range(100):
        gradients(theirs, step)
        gradients(ours, step)
        for group in timm_optimiser.param_groups:
            group["lr"] = 0.005
        timm_optimiser.step()
        if limit:
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in ours.parameters()])
            clip_(flat, torch.linalg.vector_norm(flat), limit)
            sizes = [parameter.numel() for parameter in ours.parameters()]
            for parameter, part in zip(ours.parameters(), flat.split(sizes), strict=True):
                parameter.grad = part.view_as(parameter.grad)
        optimiser.step(0.005)
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_zero_tensor_moves_at_trust_ratio_one():
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.grad = torch.ones(2, 3)
    build_optimiser(model, OptimiserSettings(name="lamb", weight_decay=0.1)).step(0.5)
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 3), -0.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_a_restored_optimiser_goes_on_with_equal_bits(name):
    whole, settings = small_model(), OptimiserSettings(name=name)
    optimiser = build_optimiser(whole, settings)
    for step in range(6):
        gradients(whole, step)
        optimiser.step(0.01)
        if step == 2:
            state = {key: value.clone().contiguous() for key, value in optimiser.state().items()}
            halves = copy.deepcopy(whole)
    resumed = build_optimiser(halves, settings)
    resumed.restore(state)
    for step in range(3, 6):
        gradients(halves, step)
        resumed.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_clipping_leaves_a_short_gradient_alone():
    short, long = torch.tensor([0.3, 0.4]), torch.tensor([3.0, 4.0])
    clip_(short, torch.linalg.vector_norm(short), 1.0)
    clip_(long, torch.linalg.vector_norm(long), 1.0)
    assert torch.equal(short, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(long, torch.tensor([0.6, 0.8]))


def test_vectors_do_not_decay():
    optimiser = build_optimiser(small_model(), OptimiserSettings(weight_decay=0.3))
    assert [(list(group.parameters), group.weight_decay) for group in optimiser.groups] == [
        (["0.weight", "3.weight"], 0.3),
        (["0.bias", "1.weight", "1.bias", "3.bias"], 0.0),
    ]
