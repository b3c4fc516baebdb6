"""Image operations on batches of bytes, with parameters of each sample's own: uint8 [N, C, H, W] in and out.

They do what PIL's do, so that recipes tuned on PIL hold: the same bytes where PIL makes colours from colours, within
one grey level where it interpolates (`warped`). All of it is elementwise or integer, so a sample's result depends
neither on its company nor on the order of additions. (torchvision's kernels take one parameter for a whole batch.)
"""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def posterised(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` (int [N], 0 to 8) of each value."""
    mask = 256 - 2 ** (8 - bits)
    return images & _each(mask.to(torch.uint8))


def solarised(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the values that are not below the threshold, int [N], 0 to 256."""
    return torch.where(images.to(torch.int16) < _each(thresholds.to(torch.int16)), images, 255 - images)


def lightened_shadows(images: Tensor, added: Tensor) -> Tensor:
    """Add int [N] to the values below 128 ("SolarizeAdd")."""
    lighter = (images.to(torch.int16) + _each(added.to(torch.int16))).clamp_(max=255).to(torch.uint8)
    return torch.where(images < 128, lighter, images)


def coloured(images: Tensor, factors: Tensor) -> Tensor:
    """Saturation: factor 0 is grey, 1 the image itself; grey images stay as they are. Factors are float [N]."""
    return images if images.shape[1] == 1 else blended(_grey(images), images, factors)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Contrast: 0 is the mean grey level everywhere, 1 the image itself."""
    grey = _grey(images)
    pixels = grey.shape[2] * grey.shape[3]
    mean = (2 * grey.sum(dim=(1, 2, 3), keepdim=True) + pixels) // (2 * pixels)
    return blended(mean, images, factors)


def brightened(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness: 0 is black, 1 the image itself."""
    return blended(images.new_zeros(()), images, factors)


def sharpened(images: Tensor, factors: Tensor) -> Tensor:
    """Sharpness: 0 is smoothed by a 3 x 3 kernel (the outermost pixels are not), 1 the image itself."""
    smooth = images.to(torch.int16)
    rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[:, :, 1:-1, 1:-1]
    smooth[:, :, 1:-1, 1:-1] = (2 * sums + 13) // 26
    return blended(smooth, images, factors)


def blended(start: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """start + factor * (images - start), cut off at 0 and 255 and rounded down, as `PIL.Image.blend`."""
    start = start.float()
    mixed = (images.float() - start) * _each(factors.float()) + start
    return mixed.clamp_(0, 255).to(torch.uint8)


def autocontrasted(images: Tensor) -> Tensor:
    """Stretch each channel so that its darkest value becomes 0 and its lightest 255."""
    low, high = (value.to(torch.float64)[..., None] for value in (images.amin((2, 3)), images.amax((2, 3))))
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    scale = levels[255:] / (high - low)  # a Python number over a tensor is multiplied by the reciprocal
    tables = (levels * scale + -low * scale).clamp_(0, 255).to(torch.uint8)
    return looked_up(images, torch.where(high > low, tables, levels.to(torch.uint8)))


def equalised(images: Tensor) -> Tensor:
    """Map each channel so that its values are spread evenly over 0 to 255."""
    values = images.flatten(2).long()
    counts = torch.zeros((*values.shape[:2], 256), dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(counts[..., :1]).expand_as(values))
    lightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - lightest) // 255
    below = counts.cumsum(2) - counts
    tables = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    identity = torch.arange(256, dtype=torch.uint8, device=images.device)
    return looked_up(images, torch.where(step > 0, tables, identity))


def looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """Each value's entry in the table of its channel, uint8 [N, C, 256]."""
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


def warped(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Resample by affine maps, bilinearly.

    Args:
        images: uint8 [N, C, H, W].
        matrices: float [N, 2, 3], from a place (x, y, 1) of the output to one of the input, in pixels; the corner of
            the image is (0, 0), the centre of its first pixel (0.5, 0.5).
        fill: uint8 [C], what pixels get that come from outside the image.
    """
    height, width = images.shape[2:]
    matrices = matrices.float()
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    ones = torch.ones((height, width), device=images.device)
    places = torch.stack([x * ones, y * ones, ones])
    from_x, from_y = torch.einsum("nij,jhw->inhw", matrices, places)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    grid = torch.stack([2 * from_x / width - 1, 2 * from_y / height - 1], dim=3)
    found = grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], found.round_().to(torch.uint8), fill[None, :, None, None])


def _each(values: Tensor) -> Tensor:
    """[N] so that it broadcasts over [N, C, H, W]."""
    return values[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """The grey level of each pixel, int32 [N, 1, H, W], by PIL's integer weights (ITU-R 601-2)."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
