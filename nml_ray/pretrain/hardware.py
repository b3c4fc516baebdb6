"""What a run takes of its machine: memory, and the share of the device's arithmetic that the models need."""

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.peaks import peak_of
from nml_ray.pretrain.precision import Precision


def memory(device: torch.device) -> dict[str, int]:
    """Bytes that this process holds, and on a CUDA device those allocated now and at most so far."""
    held = {"resident_bytes": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        held["cuda_allocated_bytes"] = torch.cuda.memory_allocated(device)
        held["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return held


@dataclass(frozen=True)
class Utilisation:
    """Model FLOPs utilisation (Chowdhery et al. 2022, section 4.1): what the models need over what the devices can.

    Attributes:
        image_flops: FLOPs of one image in one arm, forwards and backwards; what is computed twice counts once.
        peak: FLOP/s of one device.
        devices: of the run.
    """

    image_flops: float
    peak: float
    devices: int

    def share(self, images_per_second: float, arms: int) -> float:
        """The utilisation, in [0, 1], of `arms` that each see that many images a second."""
        return self.image_flops * images_per_second * arms / (self.peak * self.devices)


def utilisation_of(arm: BaseArm[Any], image: Tensor, precision: Precision, devices: int) -> Utilisation | None:
    """The utilisation of arms like this one; None on a CPU, or on a GPU whose peak is not known.

    `image` is any one of the arm's form, [1, C, H, W], on its device.
    """
    if image.device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(image.device), precision)
    return Utilisation(3 * forward_flops(arm, image), peak, devices) if peak else None


def forward_flops(arm: BaseArm[Any], image: Tensor) -> int:
    """FLOPs of one sample's way through an arm's model (matrix products and convolutions); the arm stays as it is."""
    from torch.utils.flop_counter import FlopCounterMode

    arm.model.eval()
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        arm.forward_one(image)
    arm.model.train()
    return counter.get_total_flops()
