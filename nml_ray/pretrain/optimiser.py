"""Optimisers over named parameters: SGD and AdamW by PyTorch's fused kernels, LAMB in plain tensor code.

`torch.optim` would do the same arithmetic; its constructors import PyTorch's compiler, seconds in each process. State
is plain tensors by parameter name, ready for a safetensors file. Weight decay spares vectors (biases, normalisation).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from nml_ray.pretrain.recipe_config import OptimiserSettings

STEP = "step"


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a weight decay, by name."""

    parameters: Mapping[str, Tensor]
    weight_decay: float

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients, which every parameter must have."""
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]


class Optimiser(ABC):
    """Groups of parameters, the moments that belong to them, and the number of steps taken.

    Args:
        groups: every parameter in one of them.
        moments: names of the running averages kept of each parameter, as PyTorch calls them.
    """

    def __init__(self, groups: Sequence[ParameterGroup], moments: Sequence[str]) -> None:
        self.groups = [group for group in groups if group.parameters]
        self.steps = 0
        self.moments = {
            moment: {
                name: torch.zeros_like(value, memory_format=torch.preserve_format)
                for group in self.groups
                for name, value in group.parameters.items()
            }
            for moment in moments
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every parameter by its gradient at learning rate `rate`."""
        self.steps += 1
        for group in self.groups:
            self._update(group, rate)

    @abstractmethod
    def _update(self, group: ParameterGroup, rate: float) -> None: ...

    def _of(self, moment: str, group: ParameterGroup) -> list[Tensor]:
        return [self.moments[moment][name] for name in group.parameters]

    def state(self) -> dict[str, Tensor]:
        """The moments as "MOMENT.PARAMETER", and the steps taken."""
        moments = {
            f"{moment}.{name}": value for moment, values in self.moments.items() for name, value in values.items()
        }
        return {STEP: torch.tensor(self.steps), **moments}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.steps = int(state[STEP])
        for moment, values in self.moments.items():
            for name, value in values.items():
                value.copy_(state[f"{moment}.{name}"])


class SGD(Optimiser):
    """Nesterov momentum; weight decay is added to the gradient."""

    def __init__(self, groups: Sequence[ParameterGroup], momentum: float) -> None:
        super().__init__(groups, ["momentum_buffer"] if momentum else [])
        self._momentum = momentum

    def _update(self, group: ParameterGroup, rate: float) -> None:
        buffers: list[Tensor | None] = [*self._of("momentum_buffer", group)] if self._momentum else []
        sgd(
            list(group.parameters.values()),
            group.gradients,
            buffers or [None] * len(group.parameters),
            fused=True,
            weight_decay=group.weight_decay,
            momentum=self._momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self._momentum > 0,
            maximize=False,
        )


class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def __init__(self, groups: Sequence[ParameterGroup], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, ["exp_avg", "exp_avg_sq"])
        self._betas, self._eps = betas, eps

    def _update(self, group: ParameterGroup, rate: float) -> None:
        gradients = group.gradients
        before = torch.full((len(gradients),), self.steps - 1, dtype=torch.float32, device=gradients[0].device)
        adamw(
            list(group.parameters.values()),
            gradients,
            self._of("exp_avg", group),
            self._of("exp_avg_sq", group),
            [],
            list(before.unbind()),
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=rate,
            weight_decay=group.weight_decay,
            eps=self._eps,
            maximize=False,
        )


class Lamb(Optimiser):
    """LAMB (You et al. 2020, algorithm 2): Adam's direction plus decay, scaled per tensor to the norm of the weights.

    Both moments are corrected for their start at zero. Tensors without weight decay keep Adam's plain step, as NVIDIA's
    and timm's implementations have it.
    """

    def __init__(self, groups: Sequence[ParameterGroup], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, ["exp_avg", "exp_avg_sq"])
        self._betas, self._eps = betas, eps

    def _update(self, group: ParameterGroup, rate: float) -> None:
        parameters, gradients = list(group.parameters.values()), group.gradients
        first, second = self._of("exp_avg", group), self._of("exp_avg_sq", group)
        beta1, beta2 = self._betas
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)

        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, (1 - beta2**self.steps) ** 0.5)
        torch._foreach_add_(scale, self._eps)
        update = list(torch._foreach_div(first, 1 - beta1**self.steps))
        torch._foreach_div_(update, scale)
        if group.weight_decay:
            torch._foreach_add_(update, parameters, alpha=group.weight_decay)
            torch._foreach_mul_(update, trust_ratios(parameters, update))
        torch._foreach_add_(parameters, update, alpha=-rate)


def trust_ratios(weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """|weights| / |update| of each tensor; 1 where either is zero."""
    lengths, steps = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
    return list(torch.where((lengths > 0) & (steps > 0), lengths / steps, 1.0).unbind())


def clip_(gradients: Tensor, norm: Tensor, limit: float) -> None:
    """Scale a flat gradient buffer of the given norm, in place, so that its norm is at most `limit`."""
    gradients /= (norm / limit).clamp(min=1.0)


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[ParameterGroup]:
    """Matrices and kernels, which decay, and vectors, which do not."""
    named = dict(parameters)
    return [
        ParameterGroup({name: value for name, value in named.items() if value.ndim > 1}, weight_decay),
        ParameterGroup({name: value for name, value in named.items() if value.ndim <= 1}, 0.0),
    ]


def build_optimiser(model: nn.Module, settings: OptimiserSettings) -> Optimiser:
    """The optimiser that the settings name, over all parameters of a model."""
    groups = parameter_groups(model.named_parameters(), settings.weight_decay)
    if settings.name == "sgd":
        return SGD(groups, settings.momentum)
    betas = (settings.momentum, settings.beta2)
    if settings.name == "adamw":
        return AdamW(groups, betas, settings.epsilon or 1e-8)
    return Lamb(groups, betas, settings.epsilon or 1e-6)
