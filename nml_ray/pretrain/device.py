"""The device that a run trains on, and how far its host may run ahead of it."""

import torch

from nml_ray.models.device import Precision, ready_device


def training_device(name: str) -> torch.device:
    """The torch device of that name, made ready for training (`ready_device`).

    On a GPU the fastest convolutions are searched for, with the first batch: its bits are not promised (CONTRACTS).

    Raises:
        UserError: a CUDA device on a machine that has none.
    """
    device = ready_device(name)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return device


def steps_ahead(device: torch.device, precision: Precision) -> int:
    """How many steps a run may give its device before it reads the numbers of the first.

    With one the device never waits for its host. float16 reads each gradient's norm before it uses it.
    """
    return 1 if device.type == "cuda" and precision != "float16" else 0
