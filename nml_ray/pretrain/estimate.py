"""The size of a model, without memory or weights for it; of our own encoder even without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nml_ray.models.small_size import small_resnet_size
from nml_ray.pretrain.config import PretrainSettings

if TYPE_CHECKING:
    from nml_ray.models.config import EncoderSettings

OWN = "small_resnet"


@dataclass(frozen=True)
class Estimate:
    """Parameters of a model, FLOPs of one sample's way through it, and dimensions of the encoder's features."""

    parameters: int
    forward_flops: int
    dim: int


def estimate_of(settings: PretrainSettings) -> Estimate | None:
    """What is trained: the encoder on images of the size that it is trained on, and for clip the text tower on one
    caption; a classifier comes on top. None where only real memory tells."""
    side = settings.train_size or settings.encoder.size
    if settings.objective != "clip":
        return estimate_of_encoder(settings.encoder, side)
    if settings.encoder.name != OWN:
        return _of_pair(settings, side)
    image, text = estimate_of_encoder(settings.encoder, side), settings.contrastive.text
    assert image
    projection = 8 * settings.encoder.width * text.dim
    parameters = image.parameters + projection + (text.buckets + 1) * text.dim + 1
    return Estimate(parameters, image.forward_flops + 2 * projection, image.dim)  # a sum of embeddings is no product


def estimate_of_encoder(encoder: "EncoderSettings", side: int | None = None) -> Estimate | None:
    """An encoder on an image of `side` pixels (its own size when None); None where only real memory, or its own files,
    tell."""
    side = side or encoder.size
    if encoder.name == OWN:
        return Estimate(*small_resnet_size(encoder.width, encoder.channels, side), 8 * encoder.width)
    if encoder.from_directory:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nml_ray.models.encoder import build_encoder

    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = build_encoder(encoder.model_copy(update={"weights": None})).eval()
            model(torch.zeros(1, encoder.channels, side, side))
    except Exception:  # not every encoder can be built without memory
        return None
    return Estimate(sum(one.numel() for one in model.parameters()), counter.get_total_flops(), model.dim)


def _of_pair(settings: PretrainSettings, side: int) -> Estimate | None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from nml_ray.models.clip import build_pair, tokenizer_of

    encoder, text = settings.encoder.model_copy(update={"weights": None}), settings.contrastive.text
    try:
        tokens = tokenizer_of(encoder, text)([""])
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            pair = build_pair(encoder, text, 0)
            pair.image_features(torch.zeros(1, encoder.channels, side, side))
            pair.text_features(torch.zeros_like(tokens, device="meta"))
    except Exception:  # not every tower can be built without memory
        return None
    return Estimate(sum(one.numel() for one in pair.parameters()), counter.get_total_flops(), pair.encoder.dim)
