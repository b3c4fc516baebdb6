"""What a group of arms is trained to do, as the loop sees it: arms to build, to evaluate and to export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nml_ray.data.dataset import Dataset
from nml_ray.pretrain.arm import Arm, BaseArm
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.contrastive_objective import ContrastiveObjective
from nml_ray.pretrain.evaluate import scores_of
from nml_ray.pretrain.export import export
from nml_ray.pretrain.objective import seeded_objective
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.validation import check_classes
from nml_ray.pretrain.world import World

Curve = Mapping[str, Any]
"""Columns of `curves.parquet`."""


class Objective(Protocol):
    """What all arms of a group share; arms given to it are those that it built."""

    def build(self, name: str, given: NDArray[np.int32], clean: NDArray[np.int32]) -> BaseArm[Any]:
        """An arm that is given labels (or others' captions), int32 [N] by sample number; `clean` are the true ones."""

    def evaluate(self, arms: Sequence[Any], world: World) -> Sequence[Curve]:
        """What each arm's curve has at the end of an epoch beside the training batches' sums; all workers take part."""

    def export(self, arm: Any, directory: Path) -> None:
        """Leave a trained encoder, and what was trained with it."""


def objective_of(plan: GroupPlan, settings: PretrainSettings, dataset: Dataset) -> Objective:
    """The objective of a plan over its training data.

    Raises:
        UserError: the images that it is evaluated on do not fit.
    """
    device = torch.device(plan.device)
    of = ContrastiveObjective if settings.objective == "clip" else SupervisedObjective
    return of(plan, settings, dataset, device)


class SupervisedObjective:
    """A classifier of the labels given, validated on images with clean ones."""

    def __init__(self, plan: GroupPlan, settings: PretrainSettings, dataset: Dataset, device: torch.device) -> None:
        self.plan, self.settings, self.device = plan, settings, device
        self.classes = len(dataset.classes)
        self.images = Dataset.open(Path(plan.validation)) if plan.validation else None
        if self.images:
            check_classes(dataset, self.images)

    def build(self, name: str, given: NDArray[np.int32], clean: NDArray[np.int32]) -> Arm:
        """An arm that is given labels."""
        settings = self.settings
        model = seeded_objective(
            settings.encoder, self.classes, settings.label_smoothing, self.plan.seed, settings.loss
        )
        return Arm.build(
            name,
            model.to(self.device),
            given,
            clean,
            settings.optimiser,
            settings.average,
            settings.precision,
            settings.compile,
            settings.batch,
        )

    def evaluate(self, arms: Sequence[Arm], world: World) -> Sequence[Curve]:
        """Validation loss and accuracy."""
        scores = scores_of(arms, self.images, self.plan, self.settings, world)
        return [
            {"validation_loss": score.loss, "validation_accuracy": score.accuracy} if score else {} for score in scores
        ]

    def export(self, arm: Arm, directory: Path) -> None:
        """Leave the encoder and the classifier."""
        export(arm.result, self.settings.encoder, directory)
