"""The closed forms of NMTune's regularisers against the plain definitions under automatic differentiation."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nml_ray.heads import losses


def plain_consistency(z: Tensor, features: Tensor, norm: str) -> Tensor:
    apart = functional.normalize(z, dim=1) - functional.normalize(features.detach(), dim=1)
    return apart.square().mean() if norm == "official" else apart.square().sum(dim=1).mean()


def plain_covariance(z: Tensor) -> Tensor:
    matrix = torch.cov(z.T)
    return (matrix - matrix.diag().diag()).square().sum() / z.shape[1]


def plain_share(z: Tensor, top_k: int) -> Tensor:
    sigma = torch.linalg.svdvals(z)
    return (sigma / sigma.sum())[:top_k].mean()


def batch(rows: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + dim)
    scales = torch.logspace(0, -1.5, dim, dtype=torch.float64)
    z = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * scales + 0.5
    return z.to(dtype).requires_grad_()


def value_and_gradient(loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(z)
    (gradient,) = torch.autograd.grad(3 * value, z)  # 3: the upstream gradient must be honoured
    return value.detach(), gradient


def close(found: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=rtol, atol=atol)


TERMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "consistency_paper": (
        lambda z: losses.consistency(z, z.detach().roll(1, 0), "paper"),
        lambda z: plain_consistency(z, z.detach().roll(1, 0), "paper"),
    ),
    "consistency_official": (
        lambda z: losses.consistency(z, z.detach().roll(1, 0), "official"),
        lambda z: plain_consistency(z, z.detach().roll(1, 0), "official"),
    ),
    "covariance": (losses.covariance, plain_covariance),
    "share_top1": (lambda z: losses.singular_share(z, 1), lambda z: plain_share(z, 1)),
    "share_top5": (lambda z: losses.singular_share(z, 5), lambda z: plain_share(z, 5)),
}


@pytest.mark.parametrize(("rows", "dim"), [(12, 40), (40, 12), (24, 24), (7, 8)])
@pytest.mark.parametrize("term", TERMS)
def test_value_and_gradient_equal_the_plain_form(term: str, rows: int, dim: int) -> None:
    fast, plain = TERMS[term]
    z = batch(rows, dim)
    value, gradient = value_and_gradient(fast, z)
    expected_value, expected_gradient = value_and_gradient(plain, z)
    close(value, expected_value, rtol=1e-12, atol=0)
    close(gradient, expected_gradient, rtol=1e-9, atol=1e-12 * float(expected_gradient.abs().max()))


@pytest.mark.parametrize("term", TERMS)
def test_float32_keeps_the_float64_gradient(term: str) -> None:
    fast, plain = TERMS[term]
    z = batch(32, 64, torch.float32)
    value, gradient = value_and_gradient(fast, z)
    exact_value, exact_gradient = value_and_gradient(plain, z.detach().double().requires_grad_())
    assert value.dtype == gradient.dtype == torch.float32
    close(value.double(), exact_value, rtol=2e-6, atol=0)
    scale = float(exact_gradient.abs().max())
    close(gradient.double(), exact_gradient, rtol=0, atol=2e-6 * scale)


def test_singular_share_is_exact_where_float32_rows_are_nearly_of_low_rank() -> None:
    generator = torch.Generator().manual_seed(5)
    low = torch.randn(32, 3, generator=generator) @ torch.randn(3, 64, generator=generator)
    z = (low + 1e-4 * torch.randn(32, 64, generator=generator)).requires_grad_()
    _, gradient = value_and_gradient(losses.singular_share, z)
    _, exact = value_and_gradient(lambda z: plain_share(z, 1), z.detach().double().requires_grad_())
    assert float((gradient.double() - exact).abs().max() / exact.abs().max()) < 1e-6


def nearly_of_rank_3(rows: int, dim: int, rest: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return normal(rows, 3) @ normal(3, dim) + rest * normal(rows, dim)


@pytest.mark.parametrize("top_k", [1, 5])
@pytest.mark.parametrize(("rows", "dim"), [(32, 64), (64, 32)])
@pytest.mark.parametrize("rest", [1e-1, 1e-3, 1e-5, 1e-6, 1e-8])
def test_singular_share_is_exact_where_z_is_nearly_of_low_rank(rest: float, rows: int, dim: int, top_k: int) -> None:
    z = nearly_of_rank_3(rows, dim, rest).requires_grad_()
    value, gradient = value_and_gradient(lambda z: losses.singular_share(z, top_k), z)
    expected, exact = value_and_gradient(lambda z: plain_share(z, top_k), z)
    close(value, expected, rtol=1e-14, atol=0)
    close(gradient, exact, rtol=0, atol=1e-11 * float(exact.abs().max()))


def test_each_of_many_matrices_is_decomposed_where_it_needs_to_be() -> None:
    plain, near = batch(12, 40).detach(), nearly_of_rank_3(12, 40, 1e-6)
    each = [plain, near, plain[torch.arange(12) // 2], torch.full((12, 40), torch.nan, dtype=torch.float64), near]
    top_k = [1, 5, 2, 1, 1]
    values, gradients = value_and_gradient(
        lambda z: losses.singular_share(z, torch.tensor(top_k)).nan_to_num().sum(), torch.stack(each).requires_grad_()
    )
    alone = [
        value_and_gradient(partial(losses.singular_share, top_k=k), z.requires_grad_())
        for z, k in zip(each, top_k, strict=True)
    ]
    assert alone[3][0].isnan()
    close(values, torch.stack([value.nan_to_num() for value, _ in alone]).sum(), rtol=1e-13, atol=0)
    for gradient, (_, expected) in zip(gradients[[0, 1, 2, 4]], [alone[n] for n in (0, 1, 2, 4)], strict=True):
        close(gradient, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_duplicate_rows_get_equal_finite_gradients_that_do_not_jump() -> None:
    once = batch(8, 20).detach()
    z = torch.cat([once, once]).requires_grad_()
    value, gradient = value_and_gradient(losses.singular_share, z)
    alone, _ = value_and_gradient(losses.singular_share, once.clone().requires_grad_())
    close(value, alone, rtol=1e-9, atol=0)
    close(gradient[:8], gradient[8:], rtol=1e-7, atol=1e-12)
    assert torch.isfinite(gradient).all()


def test_more_shares_than_singular_values_means_all_of_them() -> None:
    assert float(losses.singular_share(batch(3, 8).detach(), 5)) == pytest.approx(1 / 3)


def test_no_gradient_flows_into_the_features() -> None:
    z, features = batch(6, 4), batch(7, 4).detach()[:6].requires_grad_()
    losses.consistency(z, features).backward()  # type: ignore[no-untyped-call]
    assert features.grad is None and z.grad is not None
