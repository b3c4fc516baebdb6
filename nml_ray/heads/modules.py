"""The head: an optional MLP from D to D, and a linear classifier on what it returns."""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nml_ray.heads.config import HeadSetting, MlpOptions


class Head(nn.Module):
    """Z = features, mlp(features) or scale * mlp(features) + features [M, D]; logits = classifier(Z) [M, C].

    Tensors: `mlp.<i>.*` (Linear, BatchNorm1d if any, ReLU, ..., Linear), `scale` [1, D], `classifier.*`.
    """

    def __init__(self, mlp: nn.Sequential | None, scale: nn.Parameter | None, classifier: nn.Linear) -> None:
        super().__init__()
        self.mlp = mlp
        self.scale = scale
        self.classifier = classifier

    def transform(self, features: Tensor) -> Tensor:
        """Z [M, D], the features as the head sees them."""
        if self.mlp is None:
            return features
        z = self.mlp(features)
        return z if self.scale is None else torch.addcmul(features, self.scale, z)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        z = self.transform(features)
        return z, self.classifier(z)


def new_head(setting: HeadSetting, dim: int, classes: int, seed: int) -> Head:
    """A head with initial weights drawn from `seed` alone, in training mode.

    Linear layers of the MLP begin as PyTorch's own, the classifier Kaiming-uniform with bias 0.
    """
    mlp, scale = None, None
    if isinstance(setting, MlpOptions):
        mlp = _mlp(setting, dim)
        scale = nn.Parameter(torch.full((1, dim), setting.residual_init)) if setting.residual else None
    head = Head(mlp, scale, _Linear(dim, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in head.mlp or ():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.uniform_(-bound, bound, generator=generator)
        nn.init.kaiming_uniform_(head.classifier.weight, generator=generator)
        head.classifier.bias.zero_()
    return head.to(getattr(torch, setting.dtype))


class _Linear(nn.Linear):
    """Born without values, so that PyTorch's global generator is not drawn from.

    While it is trained each gradient of the weight lies where the last one lay, and takes its place: new memory of that
    size for every step would cost more than a third of the product itself at D = 2048 (`benchmarks/head_step.py`).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self._room: Tensor | None = None

    def reset_parameters(self) -> None:
        pass

    def train(self, mode: bool = True) -> Self:
        """Evaluation needs no room for gradients."""
        self._room = None
        return super().train(mode)

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            return _Affine.apply(rows, self.weight, self.bias, self)
        return super().forward(rows)

    def room(self) -> Tensor:
        """Where the gradient of the weight goes."""
        if self._room is None:
            self._room = torch.empty_like(self.weight)
        return self._room


class _Affine(Function):
    """rows @ weight^T + bias; the backward pass sets `weight.grad`, whatever it was."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, layer: _Linear) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.layer = layer
        return torch.addmm(bias, rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        below = above @ weight if ctx.needs_input_grad[0] else None
        ctx.layer.weight.grad = torch.mm(above.mT, rows, out=ctx.layer.room())
        return below, None, above.sum(0), None


def _mlp(setting: MlpOptions, dim: int) -> nn.Sequential:
    width = max(1, round(setting.ratio * dim))
    layers: list[nn.Module] = []
    for number in range(setting.layers):
        layers.append(_Linear(width if number else dim, width))
        if setting.batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, _Linear(width, dim))
