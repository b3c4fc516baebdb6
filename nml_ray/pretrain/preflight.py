"""What would end a run in its first seconds is found before its workers are started."""

from dataclasses import replace
from pathlib import Path

import torch

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.models.clip import build_pair
from nml_ray.models.encoder import build_encoder
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.objectives import objective_of
from nml_ray.pretrain.plan import GroupPlan


def refuse_model(plan: GroupPlan) -> None:
    """Build the plan's model on this process's CPU, pass one image through it, and let it go.

    Raises:
        UserError: its name, weights, size or channels do not fit, or the images that it is evaluated on.
    """
    settings = PretrainSettings.model_validate(plan.settings)
    dataset = Dataset.open(Path(plan.data))
    objective_of(replace(plan, device="cpu"), settings, dataset)
    if settings.objective == "clip":
        encoder = build_pair(settings.encoder, settings.contrastive.text, plan.seed).encoder
    else:
        encoder = build_encoder(settings.encoder, plan.seed)
    for side in {settings.encoder.size, settings.train_size or settings.encoder.size}:
        image = torch.zeros(1, settings.encoder.channels, side, side)
        try:
            with torch.inference_mode():
                encoder.eval()(image)
        except (RuntimeError, ValueError, AssertionError) as error:
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{settings.encoder.name} does not take images of {side} x {side} pixels ({words})",
                where="pretrain.encoder",
                expected="another encoder.size or train_size",
            ) from None
