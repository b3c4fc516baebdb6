"""What models compute on, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from nml_ray.config.errors import UserError

Precision = Literal["float32", "bfloat16", "float16"]


def ready_device(name: str) -> torch.device:
    """The torch device of that name, made this process's own.

    float32 is float32 on a GPU too: PyTorch's own default lets convolutions round to TF32.

    Raises:
        UserError: a CUDA device on a machine that has none.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here", where="run.device", expected="cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_device(index)  # for NCCL, and for streams and events that name no device
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Inside, matrix products run in the given precision; float32 leaves everything as it is."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))
