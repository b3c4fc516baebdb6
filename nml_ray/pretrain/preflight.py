"""What would end a run in its first seconds is found before its workers are started."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.models.clip import build_pair
from nml_ray.models.encoder import build_encoder, seeded
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.objectives import objective_of
from nml_ray.pretrain.plan import GroupPlan


@dataclass(frozen=True)
class Misfit:
    """Why an encoder cannot be trained as the settings say: the field of `pretrain` at fault, what was found in it and
    what is expected."""

    field: str
    found: str
    expected: str = ""


def refuse_model(plan: GroupPlan) -> None:
    """Build the plan's model on this process's CPU, pass one image and a small microbatch through it, and let it go.

    Raises:
        UserError: its name, weights, size, channels or microbatch do not fit, or the images that it is evaluated on.
    """
    settings = PretrainSettings.model_validate(plan.settings)
    dataset = Dataset.open(Path(plan.data))
    objective_of(replace(plan, device="cpu"), settings, dataset)
    try:
        if settings.objective == "clip":
            encoder = build_pair(settings.encoder, settings.contrastive.text, plan.seed).encoder
        else:
            encoder = build_encoder(settings.encoder, plan.seed)
        misfit = _misfit(encoder, settings)
    except (RuntimeError, ValueError, AssertionError) as error:  # of the library that builds it
        misfit = _not_built(settings, error)
    if misfit:
        raise UserError(misfit.found, where=f"pretrain.{misfit.field}", expected=misfit.expected)


def misfit_of_shapes(settings: PretrainSettings) -> Misfit | None:
    """What `refuse_model` would find without data and weights; nothing is computed where nothing is found."""
    bare = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"weights": None})})
    try:
        with torch.device("meta"):
            fits = _misfit(build_encoder(bare.encoder), bare) is None
    except Exception:  # not every encoder can be built without memory
        fits = False
    if fits:
        return None
    try:
        return _misfit(build_encoder(bare.encoder), bare)
    except UserError as error:
        return Misfit("encoder", str(error).removeprefix("encoder.size: "))
    except (RuntimeError, ValueError, AssertionError) as error:
        return _not_built(bare, error)


def _misfit(encoder: nn.Module, settings: PretrainSettings) -> Misfit | None:
    """What training and evaluation would find; the encoder is of no use afterwards."""
    name = settings.encoder.name
    trained = settings.train_size or settings.encoder.size
    for side in {settings.encoder.size, trained}:
        if error := _error(encoder.eval(), settings, 1, side):
            found = f"{name} does not take images of {side} x {side} pixels ({error})"
            return Misfit("encoder", found, "another encoder.size or train_size")
    few = min(2, settings.microbatch_size())
    error = _error(encoder.train(), settings, few, trained)
    if not error:
        return None
    if few == 1 and not _error(encoder, settings, 2, trained):
        found = f"{name} cannot be trained on one image of {trained} x {trained} pixels at a time ({error})"
        return Misfit("microbatch", found, "at least 2")
    found = f"{name} cannot be trained on images of {trained} x {trained} pixels ({error})"
    return Misfit("encoder", found, "another encoder.size or train_size, or another encoder")


def _error(encoder: nn.Module, settings: PretrainSettings, count: int, side: int) -> str:
    """What a pass of so many images comes to, in training mode forward and backward; "" where all is well."""
    images = torch.zeros(count, settings.encoder.channels, side, side)
    try:
        with seeded(0), torch.inference_mode(not encoder.training):
            features = encoder(images)
            if encoder.training:
                features.sum().backward()
    except Exception as error:  # any library's own way to say so
        return _one_line(error)
    return ""


def _not_built(settings: PretrainSettings, error: Exception) -> Misfit:
    found = f"{settings.encoder.name} cannot be built for images of {settings.encoder.size} ({_one_line(error)})"
    return Misfit("encoder", found, "another encoder.size or another encoder")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
