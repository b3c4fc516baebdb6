"""Validation: every image once, whatever the number of workers and the size of the batches."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.shards import write_shards
from nml_ray.models.preprocess import InputSpec
from nml_ray.pretrain.validation import Validation, check_classes
from nml_ray.pretrain.world import World
from tests.pretrain.conftest import CLASSES, tiny_samples

SPEC = InputSpec(1, 12, (0.5,), (0.5,), resize=12)


class Recorded(World):
    """A worker whose sums are kept instead of sent."""

    kept: list[torch.Tensor] = []

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        self.kept.append(tensor.clone())
        return tensor


def band(images: torch.Tensor) -> torch.Tensor:
    """Logits that tell the class of the tiny images: the brightness of its two rows."""
    return images.mean(dim=(1, 3))[:, :10].reshape(-1, 5, 2).mean(2) * 20


def constant(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[1.0, 0, 0, 0, 0]]).expand(len(images), 5)


def validation(directory, batch: int) -> Validation:
    return Validation(Dataset.open(directory), SPEC, batch, 2, torch.device("cpu"))


def test_scores_are_the_means_over_all_images(tiny_data):
    right, blind = validation(tiny_data, 64).evaluate([band, constant], World())
    labels = torch.arange(203) % 5
    assert right.accuracy > 0.99
    assert blind.accuracy == 41 / 203
    expected = cross_entropy(constant(torch.zeros(203, 1)).double(), labels)
    assert np.isclose(blind.loss, expected.item(), rtol=1e-6)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_share_the_images(tiny_data, workers):
    Recorded.kept = []
    for rank in range(workers):
        validation(tiny_data, 16).evaluate([band, constant], Recorded(rank, workers))
    alone = validation(tiny_data, 203).evaluate([band, constant], World())
    total = torch.stack(Recorded.kept).sum(0)
    assert total[:, 0].tolist() == [203.0, 203.0]
    for one, score in zip(total, alone, strict=True):
        assert np.isclose(one[1] / one[0], score.loss, rtol=1e-5)
        assert one[2] / one[0] == score.accuracy


def test_other_classes_are_refused(tiny_data, tmp_path):
    other = [*CLASSES[:3], "class-x", "class-4"]
    write_shards(tiny_samples(10), tmp_path / "other", samples_per_shard=10, classes=other)
    write_shards(tiny_samples(10), tmp_path / "more", samples_per_shard=10, classes=[*CLASSES, "class-5"])
    training = Dataset.open(tiny_data)
    check_classes(training, training)
    with pytest.raises(UserError, match="class 3 is 'class-x'; expected 'class-3'"):
        check_classes(training, Dataset.open(tmp_path / "other"))
    with pytest.raises(UserError, match="6 classes; expected 5"):
        check_classes(training, Dataset.open(tmp_path / "more"))
