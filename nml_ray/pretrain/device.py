"""The device that a run trains on, and how far its host may run ahead of it."""

import torch

from nml_ray.config.errors import UserError
from nml_ray.pretrain.precision import Precision


def training_device(name: str) -> torch.device:
    """The torch device of that name, made ready for training.

    float32 is float32 on a GPU too (PyTorch's own default lets convolutions round to TF32), and the fastest
    convolutions are searched for: bits of a GPU are not promised (CONTRACTS, Bits).

    Raises:
        UserError: a CUDA device on a machine that has none.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here", where="run.device", expected="cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for NCCL, and for streams and events that name no device
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def steps_ahead(device: torch.device, precision: Precision) -> int:
    """How many steps a run may give its device before it reads the numbers of the first.

    With one the device never waits for its host. float16 reads each gradient's norm before it uses it.
    """
    return 1 if device.type == "cuda" and precision != "float16" else 0
