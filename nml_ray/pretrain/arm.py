"""One noise arm in training: model, optimiser, one flat gradient buffer, and its counts of clean and flipped."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nml_ray.pretrain.config import OptimiserSettings
from nml_ray.pretrain.counts import COUNTS, sample_counts
from nml_ray.pretrain.objective import Supervised
from nml_ray.pretrain.world import World


class ArmFailed(Exception):
    """This arm cannot go on (its loss is not finite); the others can."""


@dataclass
class Arm:
    """`given` and `clean` are the labels int32 [N] of the whole data set, by sample number."""

    name: str
    model: Supervised
    given: Tensor
    clean: Tensor
    optimiser: torch.optim.Optimizer
    gradients: Tensor
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(COUNTS))

    @classmethod
    def build(
        cls,
        name: str,
        model: Supervised,
        given: NDArray[np.int32],
        clean: NDArray[np.int32],
        settings: OptimiserSettings,
    ) -> "Arm":
        """Gradients of all parameters live in one flat buffer whose tail carries the step's weight and counts, so
        that workers meet in a single all-reduce (plain DDP regroups its buckets and loses bits at three workers)."""
        parameters = list(model.parameters())
        gradients = torch.zeros(sum(parameter.numel() for parameter in parameters) + 1 + COUNTS)
        first = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.grad = _like(gradients[first : first + size], parameter)
            first += size
        model.train()
        optimiser = build_optimiser(model, settings)
        return cls(name, model, torch.from_numpy(given), torch.from_numpy(clean), optimiser, gradients)

    def begin_step(self) -> None:
        """Forget the last step's gradients."""
        self.gradients.zero_()

    def accumulate(self, images: Tensor, numbers: Tensor, weights: Tensor) -> None:
        """Add one microbatch: normalised images [N, C, H, W], sample numbers [N], weights [N]."""
        given, clean = self.given[numbers].long(), self.clean[numbers].long()
        losses, predicted = self.model(images, given)
        (losses * weights).sum().backward()
        tail = self.gradients[-1 - COUNTS :]
        tail[0] += weights.sum()
        tail[1:] += sample_counts(losses.detach(), predicted, given, clean, weights)

    def update(self, world: World, rate: float) -> tuple[float, float]:
        """Meet the other workers, take the optimiser step; returns the mean loss and the whole batch's weight.

        Raises:
            ArmFailed: the loss is not finite.
        """
        world.sum_(self.gradients)
        tail = self.gradients[-1 - COUNTS :].double().numpy()
        loss = float((tail[2] + tail[5]) / max(tail[0], 1))
        if not math.isfinite(loss):
            raise ArmFailed(f"loss is {loss}")
        self.counts += tail[1:]
        self.gradients[: -1 - COUNTS] /= max(tail[0], 1)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        average_buffers(self.model, world)
        return loss, float(tail[0])


def _like(flat: Tensor, parameter: Tensor) -> Tensor:
    """A view of a flat buffer with a parameter's shape and its (dense, perhaps channels-last) strides."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())


def average_buffers(model: nn.Module, world: World) -> None:
    """Give every worker the mean of the workers' BatchNorm statistics; alone, nothing happens."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world.size == 1 or not buffers:
        return
    flat = world.sum_(torch.cat([buffer.reshape(-1) for buffer in buffers])) / world.size
    for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def build_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay spares biases and normalisation weights (vectors)."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.momentum, 0.999), fused=True)
