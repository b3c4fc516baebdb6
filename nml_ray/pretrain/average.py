"""An exponential moving average of a model's weights and BatchNorm statistics."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nml_ray.pretrain.recipe_config import AverageSettings


class WeightAverage:
    """average = d * average + (1 - d) * model after each step, from the initial weights on.

    `tensors` has the names of the model's state; what is not a real number there (BatchNorm counts its batches) is the
    model's newest.
    """

    def __init__(self, model: nn.Module, settings: AverageSettings) -> None:
        self._settings = settings
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's weights after `step`, counted from 0."""
        state = model.state_dict()
        real = [name for name, value in state.items() if value.is_floating_point()]
        own, newest = [self.tensors[name] for name in real], [state[name] for name in real]
        torch._foreach_lerp_(own, newest, 1 - average_decay(step, self._settings))
        for name in state.keys() - set(real):
            self.tensors[name].copy_(state[name])

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a copy of `tensors`."""
        for name, value in self.tensors.items():
            value.copy_(tensors[name])


def average_decay(step: int, settings: AverageSettings) -> float:
    """The weight of the past at a step counted from 0."""
    return min(settings.decay, (1 + step) / (10 + step)) if settings.warmup else settings.decay
