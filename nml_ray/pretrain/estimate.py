"""The size of a model, without memory or weights for it."""

from dataclasses import dataclass

import torch

from nml_ray.models.encoder import build_encoder
from nml_ray.pretrain.config import PretrainSettings


@dataclass(frozen=True)
class Estimate:
    """Parameters of an encoder, and FLOPs of one image's way through it, as it is trained."""

    parameters: int
    forward_flops: int


def estimate_of(settings: PretrainSettings) -> Estimate | None:
    """The encoder's size; its classifier, or the text beside it, comes on top. None where only real memory tells."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder = settings.encoder.model_copy(update={"weights": None})
    side = settings.train_size or encoder.size
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = build_encoder(encoder).eval()
            model(torch.zeros(1, encoder.channels, side, side))
    except Exception:  # not every encoder can be built without memory
        return None
    return Estimate(sum(one.numel() for one in model.parameters()), counter.get_total_flops())
