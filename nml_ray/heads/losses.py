"""The three regularisers of NMTune (paper, equations 3-5), exact and cheap.

Each value comes with its gradient in closed form, from the smaller of the two Gram matrices of Z [M, D]: M x M where
rows are fewer than dimensions, D x D otherwise. The singular values and their gradient stay in float64: through a
float32 Gram the gradient would lose three digits, and all of them where Z is nearly of low rank.
All functions take `z` with gradient and return a scalar tensor; second derivatives are not defined.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

Norm = Literal["paper", "official"]

ZERO_EIGENVALUE = 1e-14
"""Eigenvalues below this share of the largest belong to singular values of zero, where the subgradient 0 is taken."""


class _WithGradient(Function):
    """A value whose gradient with respect to `z` is known already."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        return above * ctx.saved_tensors[0], None, None


def consistency(z: Tensor, features: Tensor, norm: Norm = "paper") -> Tensor:
    """Squared distance between the row-normalised Z [M, D] and the row-normalised features [M, D] (equation 3).

    Summed over D and averaged over rows with norm `paper`; averaged over all M*D entries with norm `official`. No
    gradient flows into `features`.
    """
    with torch.no_grad():
        lengths = z.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit = z / lengths
        apart = unit - functional.normalize(features, dim=1)
        scale = 1 / len(z) if norm == "paper" else 1 / z.numel()
        value = apart.square().sum() * scale
        along = (apart * unit).sum(dim=1, keepdim=True)
        gradient = torch.addcmul(apart, unit, along, value=-1).mul_(2 * scale).div_(lengths)
    return _WithGradient.apply(z, value, gradient)


def covariance(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal entries of the covariance of Z [M, D], divided by D (equation 4). M >= 2."""
    with torch.no_grad():
        rows, dim = z.shape
        scale = 1 / (dim * (rows - 1) ** 2)
        centred = z - z.mean(dim=0)
        if rows < dim:
            gram = centred @ centred.T
            diagonal = centred.square().sum(dim=0)
            value = (gram.square().sum() - diagonal.square().sum()) * scale
            gradient = torch.addcmul(gram @ centred, centred, diagonal, value=-1)
        else:
            scatter = (centred.T @ centred).fill_diagonal_(0)
            value = scatter.square().sum() * scale
            gradient = centred @ scatter
    return _WithGradient.apply(z, value, gradient.mul_(4 * scale))


def singular_share(z: Tensor, top_k: int = 1) -> Tensor:
    """Mean over the `top_k` largest of sigma_i / sum of sigma, sigma the singular values of the uncentred Z [M, D].

    NMTune subtracts it (equation 5 with top_k = 1). Duplicate rows make half the singular values zero, where the
    share is not differentiable: their part of the gradient is zero here.
    """
    with torch.no_grad():
        wide = z.shape[0] < z.shape[1]
        exact = z.to(torch.float64)
        eigenvalues, vectors = torch.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
        resolved = eigenvalues > ZERO_EIGENVALUE * eigenvalues[-1]
        sigma = torch.where(resolved, eigenvalues, 0).sqrt_()
        total = sigma.sum()
        top_k = min(top_k, len(sigma))
        share = sigma[-top_k:].mean() / total
        slope = torch.full_like(sigma, -float(share))
        slope[-top_k:] += 1 / top_k
        slope = torch.where(resolved, slope / (total * sigma), 0)
        projector = (vectors * slope) @ vectors.T
        gradient = projector @ exact if wide else exact @ projector
    return _WithGradient.apply(z, share.to(z.dtype), gradient.to(z.dtype))
