"""The arms of a group scored on the same images, decoded once for all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from nml_ray.data.dataset import Dataset
from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.validation import Score, Validation
from nml_ray.pretrain.world import World


def scores_of(
    arms: Sequence[BaseArm[Any]], images: Dataset | None, plan: GroupPlan, settings: PretrainSettings, world: World
) -> Sequence[Score | None]:
    """The score of each arm's result; None without images. All workers take part."""
    if images is None or not arms:
        return [None for _ in arms]
    spec, device = arms[0].model.encoder.input, arms[0].gradients.device
    validation = Validation(images, spec, settings.microbatch_size(), plan.decode_threads, device)
    with ExitStack() as stack:
        return validation.evaluate([stack.enter_context(arm.evaluating()) for arm in arms], world)
