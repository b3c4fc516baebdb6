"""What an encoder's images look like, and how any decoded image is brought into that form for evaluation."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class InputSpec:
    """The input of an encoder.

    `resize` is the length of the shorter side before the centre crop of `size` x `size`, or (height, width) for
    encoders that squash. `mean` and `std` are per channel on the 0..1 scale. PIL's filters are antialiased.
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int]
    interpolation: Interpolation = "bicubic"


def fit_image(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Convert, resize and centre-crop a decoded image to uint8 [size, size, channels].

    Nothing is resampled where the image already has the size: it is then the same pixels.
    """
    mode = "L" if spec.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    width, height = resized_to(image.width, image.height, spec.resize)
    if (width, height) != image.size:
        image = image.resize((width, height), _FILTERS[spec.interpolation])
    if (width, height) != (spec.size, spec.size):
        left, top = round((width - spec.size) / 2), round((height - spec.size) / 2)
        image = image.crop((left, top, left + spec.size, top + spec.size))
    pixels = np.asarray(image)
    return pixels[:, :, None] if spec.channels == 1 else pixels


def resized_to(width: int, height: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the resize; the longer side is rounded down, as torchvision does."""
    if not isinstance(resize, int):
        return resize[1], resize[0]
    short, long = sorted((width, height))
    longer = max(resize, resize * long // short)
    return (longer, resize) if width > height else (resize, longer)


def normalised(
    images: NDArray[np.uint8] | torch.Tensor, spec: InputSpec, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """uint8 images [N, H, W, C] -> float32 [N, C, H, W] in channels-last memory: (x / 255 - mean) / std.

    The bytes travel to the device, the arithmetic runs there.
    """
    batch = torch.as_tensor(images).to(device, non_blocking=True)
    scale, shift = _affine(spec.mean, spec.std, batch.device)
    pixels = batch.float().mul_(scale).add_(shift)
    return pixels.permute(0, 3, 1, 2)


@lru_cache
@torch.inference_mode(False)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept on the device: to bring them there each time would hold the host up each time."""
    deviation = torch.tensor(std, dtype=torch.float64)
    scale = 1 / (255 * deviation)
    shift = -torch.tensor(mean, dtype=torch.float64) / deviation
    return scale.float().to(device), shift.float().to(device)
