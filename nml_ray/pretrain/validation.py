"""Validation while pre-training: clean-labelled images of the same classes, decoded once for all arms."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.order import validation_order
from nml_ray.data.reader import ShardReader
from nml_ray.models.decoding import Decoder, form
from nml_ray.models.preprocess import InputSpec, normalised
from nml_ray.models.transfer import sent
from nml_ray.pretrain.world import World

Predict = Callable[[Tensor], Tensor]  # normalised images [N, C, H, W] -> logits [N, K]


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy, top-1 and top-5 accuracy over a validation set."""

    loss: float
    accuracy: float
    top5: float


@dataclass(frozen=True)
class Validation:
    """The good samples of a data set, shared out over the workers.

    Attributes:
        dataset: labelled by the classes of the training set, in their order.
        spec: what the images are brought into (resized, centre-cropped).
        batch: images of a forward pass.
        threads: that decode.
        device: where the models are.
    """

    dataset: Dataset
    spec: InputSpec
    batch: int
    threads: int
    device: torch.device

    @torch.no_grad()
    def evaluate(self, models: Sequence[Predict], world: World) -> list[Score]:
        """Score each model, in the state it is in; every worker takes part and gets the same scores.

        Raises:
            UserError: an image cannot be decoded.
        """
        order, weights = validation_order(len(self.dataset.good), self.batch, world.rank, world.size)
        numbers = self.dataset.good[order]
        sums = torch.zeros((len(models), 4), dtype=torch.float64, device=self.device)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self.threads, thread_name_prefix="validation"))
            reader = stack.enter_context(closing(ShardReader(self.dataset)))
            reader.prefetch(numbers.reshape(-1), world.size)
            decoder = Decoder(self.dataset, reader, [form(self.spec)], pool)
            batches = decoder.batches(numbers.reshape(-1), self.batch)
            for batch, row, weight in zip(batches, numbers, torch.from_numpy(weights), strict=True):
                images = normalised(batch[form(self.spec)][0], self.spec, self.device)
                labels = sent(torch.from_numpy(self.dataset.label[row]).long(), self.device)
                counted = sent(weight, self.device)
                sums += torch.stack([_sums(predict(images), labels, counted) for predict in models])
        sums = world.sum_(sums.cpu())
        return [Score(*(one[1:] / one[0]).tolist()) for one in sums]


def _sums(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weight, loss, and predictions right at once and among five, of a batch: float64 [4]."""
    losses = cross_entropy(logits.float(), labels, reduction="none")
    correct = logits.argmax(1) == labels
    among = (logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]).any(1)
    parts = torch.stack([weights, losses * weights, correct * weights, among * weights])
    return parts.sum(1, dtype=torch.float64)


def check_classes(training: Dataset, validation: Dataset) -> None:
    """Validation images must be labelled as the training images are.

    Raises:
        UserError: other classes, or another order of them.
    """
    if list(training.classes) == list(validation.classes):
        return
    pairs = zip(training.classes, validation.classes, strict=False)
    place, names = next(
        ((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]),
        (min(len(training.classes), len(validation.classes)), None),
    )
    found = f"class {place} is '{names[1]}'" if names else f"{len(validation.classes)} classes"
    expected = f"'{names[0]}'" if names else f"{len(training.classes)}"
    raise UserError(
        found,
        where=f"{validation.directory} (data.shards.pretrain_validation)",
        expected=f"{expected}, as in {training.directory}: the same classes in the same order",
    )
