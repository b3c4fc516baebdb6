"""Zero-shot classification: an image belongs to the nearest class, a class is its name in prompts.

As in Radford et al. 2021, section 3.1.4.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.models.clip import ImageTextPair
from nml_ray.models.tokenizer import Tokenizer
from nml_ray.models.transfer import sent
from nml_ray.pretrain.clip_config import ZeroShotSettings

IMAGENET = "imagenet"
TEXTS = 256  # prompts of a forward pass


def prompts(settings: ZeroShotSettings, classes: Sequence[str]) -> list[list[str]]:
    """The prompts of each class, in label order.

    Raises:
        UserError: names for classes that the data does not have, or ImageNet's for other data.
    """
    names = _names(settings.names, classes)
    return [[template.replace("{}", name) for template in _templates(settings)] for name in names]


def _templates(settings: ZeroShotSettings) -> Sequence[str]:
    if settings.templates != IMAGENET:
        return settings.templates
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def _names(given: Mapping[str, str] | str | None, classes: Sequence[str]) -> Sequence[str]:
    where = "pretrain.clip.zero_shot.names"
    if isinstance(given, str):
        from open_clip import IMAGENET_CLASSNAMES

        if len(classes) != len(IMAGENET_CLASSNAMES):
            raise UserError(
                f"the data has {len(classes)} classes", where=where, expected=f"ImageNet's {len(IMAGENET_CLASSNAMES)}"
            )
        names: Sequence[str] = IMAGENET_CLASSNAMES
        return names
    for name in given or ():
        if name not in classes:
            raise UserError(
                f"the data has no class '{name}'",
                where=where,
                expected=f"some of its {len(classes)} classes",
                nearest=nearest_name(name, list(classes)),
            )
    return [(given or {}).get(name, name) for name in classes]


@torch.no_grad()
def class_features(pair: ImageTextPair, tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> Tensor:
    """Unit vectors [K, D]: of each class the mean of its prompts' features.

    Args:
        pair: in evaluation mode.
        tokenizer: of its text tower.
        texts: the K classes' prompts, the same number of each.
    """
    device = pair.logit_scale.device
    flat = [text for of_class in texts for text in of_class]
    parts = [
        pair.text_features(sent(tokenizer(flat[first : first + TEXTS]), device)) for first in range(0, len(flat), TEXTS)
    ]
    features = torch.cat(parts).unflatten(0, (len(texts), -1))
    return normalize(features.mean(1), dim=-1)
