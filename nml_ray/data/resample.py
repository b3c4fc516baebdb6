"""A box of an image brought to the encoder's size, as PIL does it, in a fifth of PIL's time."""

from typing import cast

import numpy as np
import torch
from PIL import Image

from nml_ray.data.augment import Box
from nml_ray.data.decode import PixelArray

_FAST = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def resample(pixels: PixelArray, box: Box, size: int) -> PixelArray:
    """The box (left, top, right, bottom) of [H, W, C] as uint8 [size, size, C]; as it is where it has that size.

    Bicubic (a = -0.5), antialiased. On x86 with AVX2 this is torch's kernel for bytes in channels-last memory, which
    runs in the calling thread alone, in integers: the same bits on any number of threads. Elsewhere it is PIL's, as
    torch's general kernel would start threads of its own. The two agree to 70 dB over photographs.
    """
    left, top, right, bottom = box
    crop = pixels[top:bottom, left:right]
    if crop.shape[:2] == (size, size):
        return crop
    return by_torch(crop, size) if _FAST else by_pil(crop, size)


def by_torch(crop: PixelArray, size: int) -> PixelArray:
    """uint8 [H, W, C] to [size, size, C]."""
    # The batch's axis is added before the permutation: else torch takes the strides for channels first, 1.5 x slower.
    batch = torch.from_numpy(np.require(crop, requirements=("C", "W")))[None].permute(0, 3, 1, 2)
    height, width = crop.shape[:2]
    # Tall crops are resized vertically first, as PIL 13 does: bytes are rounded between the passes.
    # Not where one pass is all there is: torch would copy the other's bytes with threads of its own.
    if width != size and height - size > 2 * max(0, width - size):
        batch = _bicubic(batch, size, width)
    return cast(PixelArray, _bicubic(batch, size, size)[0].permute(1, 2, 0).numpy())


def _bicubic(batch: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)


def by_pil(crop: PixelArray, size: int) -> PixelArray:
    """uint8 [H, W, C] to [size, size, C]."""
    image = Image.fromarray(np.ascontiguousarray(crop[:, :, 0] if crop.shape[2] == 1 else crop))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, -1)


def write_mirrored(out: PixelArray, pixels: PixelArray) -> None:
    """Write [H, W, C] into `out`, left and right exchanged: by channel, which numpy copies 5 x faster than by pixel."""
    for channel in range(pixels.shape[2]):
        out[:, :, channel] = pixels[:, ::-1, channel]
