"""An exponential moving average of a model's weights and BatchNorm statistics."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from nml_ray.pretrain.recipe_config import AverageSettings

Model = TypeVar("Model", bound=nn.Module)


class WeightAverage(Generic[Model]):
    """average = d * average + (1 - d) * model after each step, from the initial weights on.

    `model` is the averaged model, in evaluation mode. What is not a real number in its state (BatchNorm counts its
    batches) is the newest.
    """

    def __init__(self, model: Model, settings: AverageSettings) -> None:
        self._settings = settings
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Take in the model's weights after `step`, counted from 0."""
        average, newest = self.model.state_dict(), model.state_dict()
        real = [name for name, value in newest.items() if value.is_floating_point()]
        share = 1 - average_decay(step, self._settings)
        torch._foreach_lerp_([average[name] for name in real], [newest[name] for name in real], share)
        counts = [name for name in newest if name not in set(real)]
        if counts:
            torch._foreach_copy_([average[name] for name in counts], [newest[name] for name in counts])


def average_decay(step: int, settings: AverageSettings) -> float:
    """The weight of the past at a step counted from 0."""
    return min(settings.decay, (1 + step) / (10 + step)) if settings.warmup else settings.decay
