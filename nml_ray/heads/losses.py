"""The three regularisers of NMTune (paper, equations 3-5), exact and cheap.

Each value comes with its gradient in closed form, from the smaller of the two Gram matrices of Z [M, D]: M x M where
rows are fewer than dimensions, D x D otherwise. The singular values and their gradient stay in float64: through a
float32 Gram the gradient would lose three digits, and all of them where Z is nearly of low rank. There even the float64
Gram, which squares what is small, is not enough, and Z itself is decomposed.
All functions take `z` [..., M, D] with gradient and return one value for each of its matrices [...]; second derivatives
are not defined.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

Norm = Literal["paper", "official"]

SMALL_EIGENVALUE = 1e-7
"""Where an eigenvalue of the Gram is below this share of the largest, Z is decomposed: slower, by a factor of 5."""

ZERO_SIGMA = 1e-14
"""Singular values below this share of the largest are zero, where the subgradient 0 is taken."""


class _WithGradient(Function):
    """Values whose gradient with respect to `z` is known already."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        return above[..., None, None] * ctx.saved_tensors[0], None, None


def consistency(z: Tensor, features: Tensor, norm: Norm = "paper") -> Tensor:
    """Squared distance between the row-normalised Z and the row-normalised features, both [..., M, D] (equation 3).

    Summed over D and averaged over rows with norm `paper`; averaged over all M*D entries with norm `official`. No
    gradient flows into `features`.
    """
    with torch.no_grad():
        rows, dim = z.shape[-2:]
        lengths = z.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        unit = z / lengths
        apart = unit - functional.normalize(features, dim=-1)
        scale = 1 / rows if norm == "paper" else 1 / (rows * dim)
        value = apart.square().sum((-2, -1)) * scale
        along = (apart * unit).sum(dim=-1, keepdim=True)
        gradient = torch.addcmul(apart, unit, along, value=-1).mul_(2 * scale).div_(lengths)
    return _WithGradient.apply(z, value, gradient)


def covariance(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of the covariance of Z [..., M, D], divided by D (equation 4). M >= 2."""
    with torch.no_grad():
        rows, dim = z.shape[-2:]
        scale = 1 / (dim * (rows - 1) ** 2)
        centred = z - z.mean(dim=-2, keepdim=True)
        if rows < dim:
            gram = centred @ centred.mT
            diagonal = centred.square().sum(dim=-2)
            value = (gram.square().sum((-2, -1)) - diagonal.square().sum(-1)) * scale
            gradient = torch.addcmul(gram @ centred, centred, diagonal.unsqueeze(-2), value=-1)
        else:
            scatter = centred.mT @ centred
            scatter.diagonal(dim1=-2, dim2=-1).zero_()
            value = scatter.square().sum((-2, -1)) * scale
            gradient = centred @ scatter
    return _WithGradient.apply(z, value, gradient.mul_(4 * scale))


def singular_share(z: Tensor, top_k: int | Tensor = 1) -> Tensor:
    """Mean over the `top_k` largest of sigma_i / sum of sigma, the singular values of the uncentred Z [..., M, D].

    NMTune subtracts it (equation 5 with top_k = 1). `top_k` may be an int64 tensor [...], another number for each
    matrix. Duplicate rows make half the singular values zero, where the share is not differentiable: their part of the
    gradient is zero here. A matrix that is not finite gets NaN.
    """
    with torch.no_grad():
        wide = z.shape[-2] < z.shape[-1]
        exact = z.to(torch.float64)
        gram = exact @ exact.mT if wide else exact.mT @ exact
        finite = gram.isfinite().all(-1).all(-1)[..., None, None]  # the solver refuses all matrices where one is not
        eigenvalues, vectors = torch.linalg.eigh(torch.where(finite, gram, 0))
        sigma = eigenvalues.clamp_min(0).sqrt_()
        total = sigma.sum(-1, keepdim=True)
        counted = _counted(top_k, sigma)
        top = sigma[..., -top_k:].mean(-1) if isinstance(top_k, int) else (sigma * counted).sum(-1)
        share = top.unsqueeze(-1) / total
        slope = torch.where(sigma > 0, (counted - share) / (total * sigma), 0)
        projector = (vectors * slope.unsqueeze(-2)) @ vectors.mT
        gradient = projector @ exact if wide else exact @ projector
        share = share.squeeze(-1)
        small = eigenvalues[..., 0] < SMALL_EIGENVALUE * eigenvalues[..., -1]
        if small.any():
            share[small], gradient[small] = _decomposed(exact[small], counted.expand_as(sigma)[small])
    return _WithGradient.apply(z, share.to(z.dtype), gradient.to(z.dtype))


def _decomposed(z: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Share [K] and gradient [K, M, D] of matrices [K, M, D] by their singular value decompositions."""
    left, sigma, right = torch.linalg.svd(z, full_matrices=False)
    counted, total = counted.flip(-1), sigma.sum(-1, keepdim=True)
    share = (sigma * counted).sum(-1, keepdim=True) / total
    slope = torch.where(sigma > ZERO_SIGMA * sigma[..., :1], (counted - share) / total, 0)
    return share.squeeze(-1), (left * slope.unsqueeze(-2)) @ right


def _counted(top_k: int | Tensor, sigma: Tensor) -> Tensor:
    """1 / k at the k = min(top_k, n) last of n places, 0 elsewhere, [..., n] like ascending `sigma`."""
    from_last = torch.arange(sigma.shape[-1], 0, -1, device=sigma.device)
    k = torch.as_tensor(top_k, device=sigma.device).clamp(max=sigma.shape[-1]).unsqueeze(-1)
    return (from_last <= k).to(sigma.dtype) / k
