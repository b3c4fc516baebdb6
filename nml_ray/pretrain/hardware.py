"""What a run takes of its machine: memory, and the share of the device's arithmetic that the models need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from nml_ray.pretrain.arm import BaseArm
from nml_ray.pretrain.precision import Precision

# Dense peaks in 1e12 FLOP/s as their makers publish them: 16-bit matrix units (summing in float32), and float32
# without TF32. The first name that the device's name contains counts.
PEAKS: Mapping[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "GH200": (989, 67),
    "H20": (148, 44),
    "H800": (989, 67),
    "A800": (312, 19.5),
    "A100": (312, 19.5),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "A30": (165, 10.3),
    "A40": (150, 37.4),
    "RTX A6000": (155, 38.7),
    "RTX 6000 Ada": (364, 91.1),
    "RTX 3090": (71, 35.6),
    "RTX 4090": (165, 82.6),
    "RTX 5090": (210, 104.8),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100": (125, 15.7),
    "T4": (65, 8.1),
}


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


def peak_of(device: str, precision: Precision) -> float | None:
    """FLOP/s of a device by its name, such as "NVIDIA H100 80GB HBM3"; None where it is not known."""
    for name, (half, single) in PEAKS.items():
        if name in device:
            return 1e12 * (single if precision == "float32" else half)
    return None


def forward_flops(arm: BaseArm[Any], image: Tensor) -> int:
    """FLOPs of one sample's way through an arm's model (matrix products and convolutions); the arm stays as it is."""
    from torch.utils.flop_counter import FlopCounterMode

    arm.model.eval()
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        arm.forward_one(image)
    arm.model.train()
    return counter.get_total_flops()
