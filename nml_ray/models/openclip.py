"""Models of open_clip by name: those that need nothing but the package, whose tokenizer is its bundled one.

Its configurations are read from its folder: importing it takes seconds, which a mistyped name need not wait for.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from nml_ray.config.errors import UserError, nearest_name

VISUAL = "visual."
TEXT = "text."
_APART = "custom_text"  # of configurations whose published weights have the text tower under `text.`
_COMMON = (VISUAL, TEXT, "logit_scale", "logit_bias")


@cache
def configurations() -> Mapping[str, Mapping[str, Any]]:
    """Name to configuration of every model that can be built without a network."""
    spec = find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(path for folder in folders for path in (Path(folder) / "model_configs").glob("*.json"))
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    return {name: config for name, config in read.items() if _is_bundled(name, config)}


def _is_bundled(name: str, config: Mapping[str, Any]) -> bool:
    """Not for models whose tokenizer or text tower is fetched, nor for captioning ones."""
    fetched = {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"} & set(config.get("text_cfg", ()))
    return not fetched and "text_cfg" in config and "multimodal_cfg" not in config and "siglip" not in name.lower()


def configuration(name: str) -> Mapping[str, Any]:
    """The configuration of NAME, or of NAME/TAG, whose tag names published weights."""
    return configurations()[name.partition("/")[0]]


def published(name: str) -> Mapping[str, Any]:
    """What open_clip knows of the published weights of NAME/TAG; nothing for a name without tag.

    Raises:
        UserError: there are no such weights.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    base, _, tag = name.partition("/")
    if not tag:
        return {}
    if not (found := get_pretrained_cfg(base, tag)):
        tags = [f"open_clip:{base}/{known}" for known in list_pretrained_tags_by_model(base)]
        raise UserError(
            f"no weights of open_clip:{base} are published as '{tag}'",
            where="encoder.name",
            expected=", ".join(tags) or f"open_clip:{base}",
            nearest=nearest_name(f"open_clip:{name}", tags),
        )
    return found


def build_model(name: str, size: int, context: int | None = None) -> nn.Module:
    """A model with `visual`, `text` and `logit_scale`, its weights drawn from torch's global generator.

    Raises:
        UserError: the model does not take images of this size.
    """
    from open_clip.model import CustomTextCLIP

    config = copy.deepcopy(dict(configuration(name)))
    config.pop(_APART, None)
    if published(name).get("quick_gelu"):
        config["quick_gelu"] = True
    config["vision_cfg"] |= {"image_size": size, "timm_model_pretrained": False}
    if context:
        config["text_cfg"]["context_length"] = context
    try:
        return CustomTextCLIP(**config)
    except (ValueError, AssertionError, RuntimeError) as error:
        words = str(error) or type(error).__name__
        raise UserError(f"open_clip:{name} with images of {size}: {words}", where="encoder.size") from None


def image_dim(name: str) -> int:
    """Dimensions of the space where a model's images and texts meet."""
    return int(configuration(name)["embed_dim"])


def context_length(name: str) -> int:
    """Tokens of a caption that a model takes."""
    return int(configuration(name)["text_cfg"].get("context_length", 77))


@dataclass(frozen=True)
class Preprocessing:
    """The images that a model expects; `squash` gives up their shape for the whole of them, else the middle is cut."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"]
    squash: bool


def preprocessing(name: str = "") -> Preprocessing:
    """What a model expects; where it is untrained, as OpenAI's do."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    known = published(name)
    return Preprocessing(
        tuple(known.get("mean", OPENAI_DATASET_MEAN)),
        tuple(known.get("std", OPENAI_DATASET_STD)),
        "bilinear" if known.get("interpolation") == "bilinear" else "bicubic",
        known.get("resize_mode") == "squash",
    )


def of_image_tower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's part of a whole model's tensors, under its own names; what is the tower's already stays."""
    part = {name.removeprefix(VISUAL): tensor for name, tensor in tensors.items() if name.startswith(VISUAL)}
    return part or dict(tensors)


def with_text_apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole model's tensors with `text.` before those of the text tower, which most models of open_clip lack."""
    return {name if name.startswith(_COMMON) else TEXT + name: tensor for name, tensor in tensors.items()}


def as_published(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `with_text_apart`: names under which `open_clip.create_model(name, pretrained=...)` loads them."""
    return (
        dict(tensors)
        if configuration(name).get(_APART)
        else {own.removeprefix(TEXT): tensor for own, tensor in tensors.items()}
    )
