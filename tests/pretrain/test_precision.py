"""Autocast and the loss scale."""

import pytest
import torch

from nml_ray.pretrain.precision import GROWTH_STEPS, LossScale, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_run_in_the_precision(precision, dtype):
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_scale_follows_torchs_rule():
    theirs = torch.amp.GradScaler("cpu", init_scale=256.0)
    ours = LossScale(batch=256)
    assert ours.scale == theirs.scale(torch.ones(())).item()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    for gradient in [*[1.0] * (GROWTH_STEPS + 1), float("inf"), 1.0, float("nan"), *[1.0] * GROWTH_STEPS]:
        weight.grad = torch.tensor([gradient])
        theirs.step(optimiser)
        theirs.update()
        ours.update(torch.isfinite(weight.grad).all().item())
        assert ours.scale == theirs.get_scale()


def test_state_is_carried_over():
    scale, again = LossScale(100), LossScale(100)
    assert scale.scale == 2.0**9
    for finite in (True, False, True, True):
        scale.update(finite)
    again.restore(scale.state())
    assert again.state() == {"scale": 2.0**8, "good_steps": 2}


def test_a_gradient_that_is_never_finite_exhausts_the_scale():
    scale = LossScale(1)
    for _ in range(49):
        assert not scale.exhausted
        scale.update(finite=False)
    assert scale.exhausted
