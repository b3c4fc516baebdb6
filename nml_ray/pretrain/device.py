"""The device that a run trains on."""

import torch

from nml_ray.config.errors import UserError


def training_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        UserError: a CUDA device on a machine that has none.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here", where="run.device", expected="cpu")
    return device
