"""Encoders by name: `small_resnet`, `torchvision:NAME`, `timm:NAME`, `open_clip:NAME`; those a pre-training left.

An encoder maps normalised images [N, channels, size, size] to features [N, dim]; it carries its `dim` and its `input`.
One of texts maps tokens [N, 2, L]. Models of transformers, which are made from files alone: `models.transformer`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.models import openclip
from nml_ray.models.config import CHECKPOINT, TRANSFORMERS, EncoderSettings
from nml_ray.models.preprocess import InputSpec
from nml_ray.models.pretrained import load_weights, renamed
from nml_ray.models.small_resnet import build_small_resnet
from nml_ray.models.tokens import TextSpec

SETTINGS_FILE = "encoder.json"
WEIGHTS_FILE = "encoder.safetensors"
# No second classifiers half way, whose outputs training would get beside the features; and their published weights
# take images normalised in their own way, into which torchvision's models turn ImageNet's.
INCEPTIONS = {"init_weights": True, "aux_logits": False, "transform_input": True}


class Encoder(nn.Module):
    """A backbone without its classifier. Features are flattened to [N, dim]."""

    def __init__(self, backbone: nn.Module, dim: int, spec: InputSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim
        self.input = spec

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features.flatten(1)


class TextEncoder(nn.Module):
    """Tokens int64 [N, 2, L] (see `models.tokens`) -> features [N, dim]."""

    def __init__(self, backbone: nn.Module, dim: int, spec: TextSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim
        self.input = spec

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.backbone(tokens)
        return features


@dataclass(frozen=True)
class Backbone:
    """What a family of encoders builds.

    `head` names the parameters of the classifier that was taken off; `choose` picks from a larger model's tensors.
    """

    module: nn.Module
    dim: int
    spec: InputSpec
    head: Sequence[str] = ()
    choose: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


@dataclass(frozen=True)
class Family:
    """Encoders that share a prefix: how one is built, which names there are, and what parts a name from the tag of its
    published weights, where names may have one."""

    build: Callable[[str, EncoderSettings], Backbone]
    names: Callable[[], list[str]]
    tag: str = ""


def build_encoder(settings: EncoderSettings, seed: int = 0) -> Encoder:
    """The encoder that `settings` names, on the CPU and in evaluation mode.

    Weights come from the local file `settings.weights`; without one they are random, a function of `seed` alone (the
    state of torch's global generator is left as it was).

    Raises:
        UserError: unknown name; size or channels that the encoder does not take; weights that are absent, do not fit
            or hold anything but tensors.
    """
    family, name = _family(settings.name)
    with seeded(seed):
        backbone = family.build(name, settings)
    if settings.weights is not None:
        load_weights(backbone.module, Path(settings.weights), ignore=backbone.head, choose=backbone.choose)
    return assembled(backbone, settings)


def load_encoder(directory: Path) -> Encoder | TextEncoder:
    """The encoder that pre-training left: `encoder.json` (settings, dim, mean, std) and `encoder.safetensors`.

    The weights may be named as the encoder's own parameters or as those of its backbone.

    Raises:
        UserError: a file is absent or does not fit the other.
    """
    description = read_description(directory)
    settings = description.settings
    if settings.name.startswith(TRANSFORMERS):
        from nml_ray.models.transformer import load_transformer

        return load_transformer(directory)
    family, name = _family(settings.name)
    with seeded(0):
        backbone = family.build(name, settings)
    load_weights(backbone.module, directory / WEIGHTS_FILE, ignore=backbone.head, choose=backbone.choose)
    return assembled(backbone, settings)


@dataclass(frozen=True)
class Description:
    """What `encoder.json` says."""

    settings: EncoderSettings
    dim: int


def read_description(directory: Path) -> Description:
    """Read `encoder.json`; its mean and std override those of the settings."""
    path = directory / SETTINGS_FILE
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), expected="the directory of a finished pre-training") from None
    own = {name: tuple(data[name]) for name in ("mean", "std") if data.get(name) is not None}
    settings = EncoderSettings.model_validate({**data["settings"], **own, "weights": None})
    return Description(settings, int(data["dim"]))


def write_encoder(directory: Path, encoder: Encoder, settings: EncoderSettings) -> None:
    """Leave `encoder.json` and `encoder.safetensors` so that `load_encoder` gives the same encoder."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    save_file(weights, str(directory / WEIGHTS_FILE))
    facts = {
        "settings": settings.model_dump(mode="json"),
        "dim": encoder.dim,
        "mean": list(encoder.input.mean),
        "std": list(encoder.input.std),
    }
    (directory / SETTINGS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global CPU generator starts from `seed`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def encoder_names() -> list[str]:
    """Every valid name."""
    return [f"{prefix}:{name}" if prefix else name for prefix, family in FAMILIES.items() for name in family.names()]


def check_name(full_name: str) -> None:
    """Raises `UserError` where there is no encoder of that name. Names of `transformers:` models are free."""
    if full_name != CHECKPOINT and not full_name.startswith(TRANSFORMERS):
        _family(full_name)


def _family(full_name: str) -> tuple[Family, str]:
    prefix, _, name = full_name.rpartition(":")
    family = FAMILIES.get(prefix)
    if full_name == CHECKPOINT or full_name.startswith(TRANSFORMERS):
        raise UserError(
            f"{full_name} cannot be pre-trained here",
            where="encoder.name",
            expected="it as one of the job's `encoders`",
        )
    if family is None or (name.partition(family.tag)[0] if family.tag else name) not in family.names():
        raise UserError(
            f"there is no encoder '{full_name}'",
            where="encoder.name",
            expected="small_resnet, torchvision:NAME, timm:NAME or open_clip:NAME",
            nearest=nearest_name(full_name, encoder_names()),
        )
    return family, name


def assembled(backbone: Backbone, settings: EncoderSettings) -> Encoder:
    """The encoder around a backbone, in evaluation mode and the settings' memory format."""
    encoder = Encoder(backbone.module, backbone.dim, backbone.spec).eval()
    return encoder.to(memory_format=torch.channels_last) if settings.channels_last else encoder


def _statistics(settings: EncoderSettings, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The settings' mean and std where given, else the encoder's own."""
    chosen = {"mean": tuple(settings.mean or mean), "std": tuple(settings.std or std)}
    for name, values in chosen.items():
        if len(values) != settings.channels:
            raise UserError(
                f"{len(values)} values", where=f"encoder.{name}", expected=f"one a channel: {settings.channels}"
            )
    return chosen


def _require_rgb(settings: EncoderSettings) -> None:
    if settings.channels != 3:
        raise UserError(
            f"{settings.name} with {settings.channels} channel(s)",
            where="encoder.channels",
            expected="3 (grey images are converted)",
        )


def _small_resnet(name: str, settings: EncoderSettings) -> Backbone:
    module = build_small_resnet(settings.width, settings.channels)
    half = (0.5,) * settings.channels
    spec = InputSpec(settings.channels, settings.size, resize=settings.size, **_statistics(settings, half, half))
    return Backbone(module, module.dim, spec)


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(name: str, settings: EncoderSettings) -> Backbone:
    import torchvision

    _require_rgb(settings)
    options: Mapping[str, Any] = INCEPTIONS if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        options = {"image_size": settings.size}
    module = torchvision.models.get_model(name, weights=None, **options)
    dim, head = _take_head_off(module)
    if options is INCEPTIONS:
        head += ["aux1", "aux2", "AuxLogits"]
    known = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    resize = max(settings.size, round(settings.size * known.resize_size[0] / known.crop_size[0]))
    statistics = _statistics(settings, known.mean, known.std)
    interpolation = known.interpolation.value
    return Backbone(
        module, dim, InputSpec(3, settings.size, resize=resize, interpolation=interpolation, **statistics), head
    )


def _take_head_off(module: nn.Module) -> tuple[int, list[str]]:
    """Replace a torchvision model's last linear layer by the identity: its input width, and its parameters' names."""
    name = next(name for name in ("fc", "classifier", "heads", "head") if hasattr(module, name))
    head = getattr(module, name)
    if isinstance(head, nn.Linear):
        setattr(module, name, nn.Identity())
        return head.in_features, [name]
    if isinstance(head[-1], nn.Linear):
        last, removed = head[-1], [key for key, layer in head.named_children() if layer is head[-1]]
        head[-1] = nn.Identity()
        return last.in_features, [f"{name}.{key}" for key in removed]
    channels = next(layer.in_channels for layer in head if isinstance(layer, nn.Conv2d))  # squeezenet
    setattr(module, name, nn.AdaptiveAvgPool2d(1))
    return channels, [name]


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _timm(name: str, settings: EncoderSettings) -> Backbone:
    import timm
    from timm.data import resolve_model_data_config

    _require_rgb(settings)
    drops = {rate: getattr(settings, rate) for rate in ("drop_rate", "drop_path_rate") if getattr(settings, rate)}
    try:
        module = timm.create_model(name, pretrained=False, num_classes=0, **drops)
    except TypeError as error:
        raise UserError(str(error), where="encoder", expected=f"settings that {settings.name} takes") from None
    except RuntimeError as error:
        raise unknown_tag(name, error) from None
    config: dict[str, Any] = resolve_model_data_config(module)
    published = cast(dict[str, Any], module.pretrained_cfg)
    if published.get("fixed_input_size") and config["input_size"][-1] != settings.size:
        raise UserError(
            f"{settings.name} with images of {settings.size}",
            where="encoder.size",
            expected=f"{config['input_size'][-1]}, the only size that it takes",
        )
    scaled = int(settings.size / config["crop_pct"])
    spec = InputSpec(
        channels=3,
        size=settings.size,
        resize=(scaled, scaled) if config["crop_mode"] == "squash" else scaled,
        interpolation="bicubic" if config["interpolation"] == "random" else config["interpolation"],
        **_statistics(settings, config["mean"], config["std"]),
    )
    heads = published.get("classifier") or ()
    dim = cast(int, getattr(module, "head_hidden_size", None) or module.num_features)
    choose = partial(renamed, list(module.state_dict()))
    return Backbone(module, dim, spec, (heads,) if isinstance(heads, str) else tuple(heads), choose)


def unknown_tag(name: str, error: RuntimeError) -> UserError:
    """What timm says of NAME.TAG, with the nearest tag that there is."""
    import timm

    tagged = [f"timm:{known}" for known in timm.list_pretrained(name.split(".")[0] + "*")]
    return UserError(str(error), where="encoder.name", nearest=nearest_name(f"timm:{name}", tagged))


def _open_clip(name: str, settings: EncoderSettings) -> Backbone:
    return open_clip_backbone(cast(nn.Module, openclip.build_model(name, settings.size).visual), name, settings)


def open_clip_backbone(tower: nn.Module, name: str, settings: EncoderSettings) -> Backbone:
    """The image tower of an open_clip model; its features are those that meet the texts, before they are scaled."""
    _require_rgb(settings)
    known = openclip.preprocessing(name)
    spec = InputSpec(
        3,
        settings.size,
        resize=(settings.size, settings.size) if known.squash else settings.size,
        interpolation=known.interpolation,
        **_statistics(settings, known.mean, known.std),
    )
    return Backbone(tower, openclip.image_dim(name), spec, choose=openclip.of_image_tower)


FAMILIES: dict[str, Family] = {
    "": Family(_small_resnet, lambda: ["small_resnet"]),
    "torchvision": Family(_torchvision, _torchvision_names),
    "timm": Family(_timm, _timm_names, tag="."),
    "open_clip": Family(_open_clip, lambda: list(openclip.configurations()), tag="/"),
}
"""Prefix (the part before the colon) to family. A new one is one entry here."""
