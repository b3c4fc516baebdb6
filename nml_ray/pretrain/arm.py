"""One noise arm in training: model, optimiser, one flat gradient buffer, and its counts of clean and flipped.

What an arm does with its share of a batch depends on the objective: `Arm` learns labels, `ContrastiveArm` captions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nml_ray.models.encoder import seeded
from nml_ray.models.transfer import Readback, sent
from nml_ray.pretrain.average import WeightAverage
from nml_ray.pretrain.counts import COUNTS, sample_counts
from nml_ray.pretrain.inputs import Fed
from nml_ray.pretrain.mixing import Mixing
from nml_ray.pretrain.objective import Supervised
from nml_ray.pretrain.optimiser import Optimiser, build_optimiser, clip_
from nml_ray.pretrain.precision import LossScale, Precision, autocast
from nml_ray.pretrain.recipe_config import AverageSettings, OptimiserSettings
from nml_ray.pretrain.validation import Predict
from nml_ray.pretrain.world import World


class ArmFailed(Exception):
    """This arm cannot go on (its loss or gradient is not finite); the others can."""


Model = TypeVar("Model", bound=nn.Module)


@dataclass
class BaseArm(ABC, Generic[Model]):
    """One arm on the device of its model.

    Attributes:
        name: of the arm.
        model: in training mode.
        given, clean: the labels int32 [N] of the whole data set, by sample number, on the CPU.
        optimiser: of all parameters.
        gradients: of all parameters, flat, then the step's weight and counts.
        forward: the model's, perhaps compiled.
        precision: in which matrix products run.
        clip_norm: largest norm of the gradient, if there is one.
        average: of the weights, if one is kept.
        scale: of the loss, for float16.
        counts: since the epoch began.
        gradient_norm: of the last step, before clipping.
    """

    name: str
    model: Model
    given: Tensor
    clean: Tensor
    optimiser: Optimiser
    gradients: Tensor
    forward: nn.Module
    precision: Precision = "float32"
    clip_norm: float | None = None
    average: WeightAverage[Model] | None = None
    scale: LossScale | None = None
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(COUNTS))
    gradient_norm: float = math.nan

    @classmethod
    def build(
        cls,
        name: str,
        model: Model,
        given: NDArray[np.int32],
        clean: NDArray[np.int32],
        settings: OptimiserSettings,
        average: AverageSettings | None = None,
        precision: Precision = "float32",
        compiled: bool = False,
        batch: int = 1,
    ) -> Self:
        """Gradients of all parameters live in one flat buffer whose tail carries the step's weight and counts, so
        that workers meet in a single all-reduce (plain DDP regroups its buckets and loses bits at three workers).

        `batch` is the global one, from which the loss scale of float16 starts.
        """
        averaged = WeightAverage(model, average) if average else None
        parameters = list(model.parameters())
        total = sum(parameter.numel() for parameter in parameters)
        gradients = torch.zeros(total + 1 + COUNTS, device=parameters[0].device)
        first = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.grad = _like(gradients[first : first + size], parameter)
            first += size
        model.train()
        return cls(
            name,
            model,
            torch.from_numpy(given),
            torch.from_numpy(clean),
            build_optimiser(model, settings),
            gradients,
            cast(nn.Module, torch.compile(model)) if compiled else model,
            precision,
            settings.clip_norm,
            averaged,
            LossScale(batch) if precision == "float16" else None,
        )

    @property
    def result(self) -> Model:
        """What is validated and exported: the averaged model where there is one."""
        return self.average.model if self.average else self.model

    def begin_step(self) -> None:
        """Forget the last step's gradients."""
        self.gradients.zero_()

    @abstractmethod
    def add(self, fed: Sequence[Fed], seeds: Sequence[int], world: World) -> None:
        """Add the gradients and counts of this worker's share of a batch.

        `seeds` are those of dropout and drop-path in each microbatch, the same for all arms and whatever the worker
        (CONTRACTS, Randomness).
        """

    def foresee(self, numbers: NDArray[np.int64]) -> None:  # most arms have nothing to prepare
        """Make ready what `add` will need of samples, by number; other threads call it, some steps ahead."""

    def count(self, losses: Tensor, predicted: Tensor, given: Tensor, clean: Tensor, weights: Tensor) -> None:
        """Add samples to the step's weight and counts; all arguments are [N]."""
        tail = self.gradients[-1 - COUNTS :]
        tail[0] += weights.sum()
        tail[1:] += sample_counts(losses.detach(), predicted, given, clean, weights)

    def update(self, world: World, rate: float) -> tuple[float, float]:
        """`begin_update` and `end_update` at once."""
        return self.end_update(self.begin_update(world, rate))

    def begin_update(self, world: World, rate: float) -> Readback:
        """Meet the other workers, take the optimiser step; returns the step's numbers for `end_update`.

        A GPU has only been told to by then. To read its numbers is to wait for it, so that is for later, when it has
        the next step's work already; float16 alone must know now whether the gradient can be used.

        Raises:
            ArmFailed: float16 gradients are not finite at any scale.
        """
        world.sum_(self.gradients)
        gradients, tail = self.gradients[: -1 - COUNTS], self.gradients[-1 - COUNTS :]
        weight = tail[0].clamp(min=1)
        gradients /= weight * self.scale.scale if self.scale else weight
        norm = torch.linalg.vector_norm(gradients)
        numbers = Readback(torch.cat([tail, norm[None]]))
        if self._can_step(numbers):
            if self.clip_norm:
                clip_(gradients, norm, self.clip_norm)
            self.optimiser.step(rate)
            average_buffers(self.model, world)
            if self.average:
                self.average.update(self.model, self.optimiser.steps - 1)
        return numbers

    def end_update(self, numbers: Readback) -> tuple[float, float]:
        """Note the step that `begin_update` took; returns the mean loss and the whole batch's weight.

        Raises:
            ArmFailed: the loss is not finite, or the gradient and with it the weights are not; of float16, whose step
                was left out then, only the loss counts.
        """
        weight, counts, loss, norm = _told(numbers)
        if not math.isfinite(loss):
            raise ArmFailed(f"loss is {loss}")
        if self.scale is None and not math.isfinite(norm):
            raise ArmFailed(f"the norm of the gradient is {norm}")
        self.counts += counts
        self.gradient_norm = norm
        return loss, weight

    def _can_step(self, numbers: Readback) -> bool:
        """Whether a float16 gradient can be used; the loss scale follows."""
        if self.scale is None:
            return True
        _, _, loss, norm = _told(numbers)
        if not math.isfinite(loss):
            return False  # the arm's end
        finite = math.isfinite(norm)
        self.scale.update(finite)
        if self.scale.exhausted:
            raise ArmFailed("the gradient is not finite at any loss scale")
        return finite

    @abstractmethod
    def forward_one(self, image: Tensor) -> None:
        """Pass one sample, [1, C, H, W], through everything that a training step passes it through."""

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[Predict]:
        """Inside, the result's scores of the evaluated classes for normalised images, in evaluation mode."""


class Arm(BaseArm[Supervised]):
    """Trained on labels, one microbatch after another."""

    def add(self, fed: Sequence[Fed], seeds: Sequence[int], world: World) -> None:
        """Add one microbatch after another."""
        for one, seed in zip(fed, seeds, strict=True):
            with seeded(seed):
                self.accumulate(one.images, one.numbers, one.weights, one.mixing)

    def accumulate(self, images: Tensor, numbers: Tensor, weights: Tensor, mixing: Mixing | None = None) -> None:
        """Add one microbatch.

        Args:
            images: normalised and mixed, [N, C, H, W].
            numbers: sample numbers, int64 [N], on the CPU.
            weights: float32 [N], 0 at holes.
            mixing: how the images are mixed; the sample in place i counts, for the split into clean and flipped, as
                the one of its two that fills most of the image.
        """
        device = images.device
        given, clean = (sent(labels[numbers].long(), device) for labels in (self.given, self.clean))
        with autocast(self.precision, device):
            if mixing is None:
                losses, predicted = self.forward(images, given)
            else:
                losses, predicted = self.forward(images, given, given.flip(0), mixing.shares)
                own = mixing.shares >= 0.5
                given, clean = (torch.where(own, labels, labels.flip(0)) for labels in (given, clean))
        total = (losses * weights).sum()
        (total * self.scale.scale if self.scale else total).backward()
        self.count(losses, predicted, given, clean, weights)

    def forward_one(self, image: Tensor) -> None:
        """Pass one image through encoder and classifier."""
        self.model.logits(image)

    @contextmanager
    def evaluating(self) -> Iterator[Predict]:
        """Inside, the result's logits of normalised images, in evaluation mode."""
        self.result.eval()

        def predict(images: Tensor) -> Tensor:
            with autocast(self.precision, images.device):
                return self.result.logits(images)

        yield predict
        self.model.train()


def _told(numbers: Readback) -> tuple[float, NDArray[np.float64], float, float]:
    """Weight, counts, mean loss and norm of the gradient of a step."""
    weight, *counts, norm = numbers.read().astype(np.float64).tolist()
    return weight, np.array(counts), (counts[1] + counts[4]) / max(weight, 1), norm


def _like(flat: Tensor, parameter: Tensor) -> Tensor:
    """A view of a flat buffer with a parameter's shape and its (dense, perhaps channels-last) strides."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())


def average_buffers(model: nn.Module, world: World) -> None:
    """Give every worker the mean of the workers' BatchNorm statistics; alone, nothing happens."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world.size == 1 or not buffers:
        return
    flat = world.sum_(torch.cat([buffer.reshape(-1) for buffer in buffers])) / world.size
    parts = flat.split([buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [part.view_as(buffer) for buffer, part in zip(buffers, parts, strict=True)])
