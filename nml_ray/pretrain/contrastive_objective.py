"""What the contrastive arms of a group share: texts, the images that are classified by text, how an arm ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nml_ray.data.dataset import Dataset
from nml_ray.models.clip import build_pair, tokenizer_of
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.contrastive_arm import ContrastiveArm, Texts
from nml_ray.pretrain.evaluate import scores_of
from nml_ray.pretrain.export import export_pair
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.validation import Score
from nml_ray.pretrain.world import World
from nml_ray.pretrain.zero_shot import prompts

NO_LABELS: Mapping[str, Any] = {"recovered_flipped": None}  # there is no label that could be recovered


class ContrastiveObjective:
    """Builds, evaluates and exports contrastive arms.

    Raises:
        UserError: the images that are classified by text do not fit the settings.
    """

    def __init__(self, plan: GroupPlan, settings: PretrainSettings, dataset: Dataset, device: torch.device) -> None:
        self.plan, self.settings, self.device = plan, settings, device
        clip = settings.contrastive
        self.images = Dataset.open(Path(plan.zero_shot)) if clip.zero_shot else None
        texts = prompts(clip.zero_shot, self.images.classes) if clip.zero_shot and self.images else ()
        self.texts = Texts(dataset, tokenizer_of(settings.encoder, clip.text), texts)

    def build(self, name: str, given: NDArray[np.int32], clean: NDArray[np.int32]) -> ContrastiveArm:
        """An arm that is given the captions of the samples `given`, int32 [N] by sample number."""
        settings, clip = self.settings, self.settings.contrastive
        pair = build_pair(settings.encoder, clip.text, self.plan.seed).to(self.device)
        if settings.compile:
            pair.encoder.compile()
            pair.text.compile()
        arm = ContrastiveArm.build(
            name,
            pair,
            given,
            clean,
            settings.optimiser,
            average=settings.average,
            precision=settings.precision,
            batch=settings.batch,
        )
        arm.clip, arm.batch, arm.texts = clip, settings.batch, self.texts
        return arm

    def evaluate(self, arms: Sequence[ContrastiveArm], world: World) -> list[Mapping[str, Any]]:
        """What each arm's curve has at the end of an epoch in place of true labels predicted: zero-shot accuracy.

        On images set apart for validation it is the validation accuracy too, which chooses the best checkpoint.
        """
        scores = scores_of(arms, self.images, self.plan, self.settings, world)
        return [self._columns(score) if score else NO_LABELS for score in scores]

    def _columns(self, score: Score) -> Mapping[str, Any]:
        columns = {**NO_LABELS, "zero_shot": score.accuracy, "zero_shot_top5": score.top5}
        zero_shot = self.settings.contrastive.zero_shot
        return {**columns, "validation_accuracy": score.accuracy} if zero_shot and zero_shot.chooses else columns

    def export(self, arm: ContrastiveArm, directory: Path) -> None:
        """Leave the image tower as an encoder, and the whole pair."""
        export_pair(arm.result, self.settings.encoder, self.settings.contrastive.text, directory)
