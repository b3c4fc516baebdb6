"""The CLIP pair: an image tower and a text tower whose features meet in one space (Radford et al. 2021).

`open_clip:NAME` brings both towers. Beside any other encoder stands a small text tower, and a linear map takes the
encoder's features to the common space. Either way the encoder is what a pre-training leaves for extraction.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from nml_ray.config.errors import UserError
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import Encoder, assembled, build_encoder, check_name, open_clip_backbone, seeded
from nml_ray.models.openclip import as_published, build_model, context_length, with_text_apart
from nml_ray.models.pretrained import load_weights, read_tensors
from nml_ray.models.text import BagOfTokens
from nml_ray.models.text_config import TextSettings
from nml_ray.models.tokenizer import BytePairs, HashedParts, Tokenizer

WEIGHTS_FILE = "clip.safetensors"
SETTINGS_FILE = "clip.json"
OPEN_CLIP = "open_clip:"
START_LOG_SCALE = math.log(1 / 0.07)
CONTEXT = 96
"""Tokens of a caption for the small tower: some six words with their parts."""


class ImageTextPair(nn.Module):
    """Two towers and the factor of their cosines."""

    def __init__(self, encoder: Encoder, projection: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(START_LOG_SCALE))
        """Logarithm of the factor."""

    def image_features(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> unit vectors [N, D], float32."""
        return normalize(self.projection(self.encoder(images)).float(), dim=-1)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Token numbers int64 [N, L] -> unit vectors [N, D], float32."""
        return normalize(self.text(tokens).float(), dim=-1)


def build_pair(encoder: EncoderSettings, text: TextSettings, seed: int) -> ImageTextPair:
    """The pair of a pre-training seed, on the CPU and in evaluation mode; torch's global generator is left as it was.

    The encoder's `weights` may be those of its image tower or, for open_clip, of a whole model.

    Raises:
        UserError: as `build_encoder`.
    """
    pair = _open_clip_pair(encoder, text, seed) if _is_open_clip(encoder) else _small_pair(encoder, text, seed)
    if encoder.channels_last:
        pair = pair.to(memory_format=torch.channels_last)
    return pair.eval()


def tokenizer_of(encoder: EncoderSettings, text: TextSettings) -> Tokenizer:
    """What turns captions into the tokens of the pair's text tower."""
    if _is_open_clip(encoder):
        return BytePairs(text.context or context_length(_name(encoder)))
    return HashedParts(text.buckets, text.context or CONTEXT)


def published_weights(pair: ImageTextPair, encoder: EncoderSettings) -> dict[str, Tensor]:
    """All of the pair's weights by name; those of an open_clip pair as `open_clip.create_model` reads them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in pair.state_dict().items()}
    if not _is_open_clip(encoder):
        return tensors
    renamed = {re.sub(r"^encoder\.backbone\.", "visual.", name): tensor for name, tensor in tensors.items()}
    return as_published(_name(encoder), renamed)


def write_pair(directory: Path, pair: ImageTextPair, encoder: EncoderSettings, text: TextSettings) -> None:
    """Leave `clip.safetensors` and `clip.json` so that `load_pair` gives the same pair."""
    save_file(published_weights(pair, encoder), directory / WEIGHTS_FILE)
    facts = {"encoder": encoder.model_dump(mode="json"), "text": text.model_dump(mode="json")}
    (directory / SETTINGS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def load_pair(directory: Path) -> tuple[ImageTextPair, Tokenizer]:
    """The pair that pre-training left, in evaluation mode, and its tokenizer.

    Raises:
        UserError: a file is absent or does not fit the other.
    """
    path = directory / SETTINGS_FILE
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected="the directory of a finished pre-training by clip")
    facts = json.loads(path.read_text())
    encoder, text = EncoderSettings.model_validate(facts["encoder"]), TextSettings.model_validate(facts["text"])
    weights = directory / WEIGHTS_FILE
    if _is_open_clip(encoder):
        pair = build_pair(encoder.model_copy(update={"weights": str(weights)}), text, 0)
    else:
        pair = build_pair(encoder, text, 0)
        load_weights(pair, weights)
    return pair, tokenizer_of(encoder, text)


def _is_open_clip(encoder: EncoderSettings) -> bool:
    return encoder.name.startswith(OPEN_CLIP)


def _name(encoder: EncoderSettings) -> str:
    return encoder.name.removeprefix(OPEN_CLIP)


def _small_pair(encoder: EncoderSettings, text: TextSettings, seed: int) -> ImageTextPair:
    image = build_encoder(encoder, seed)
    with seeded(seed):
        projection = nn.Linear(image.dim, text.dim, bias=False)
        return ImageTextPair(image, projection, BagOfTokens(text.buckets + 1, text.dim))


def _open_clip_pair(encoder: EncoderSettings, text: TextSettings, seed: int) -> ImageTextPair:
    name = _name(encoder)
    check_name(encoder.name)
    with seeded(seed):
        model: Any = build_model(name, encoder.size, text.context)
    if encoder.weights is not None:
        path = Path(encoder.weights)
        if any("visual." in known for known in read_tensors(path)):
            load_weights(model, path, choose=with_text_apart)
        else:
            load_weights(model.visual, path)
    image = assembled(open_clip_backbone(model.visual, name, encoder), encoder)
    pair = ImageTextPair(image, nn.Identity(), model.text)
    pair.logit_scale = model.logit_scale
    return pair
