"""Our loader as the measurements use it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.data_peers import MEAN, SCALE, SIZE, STD
from nml_ray.data.augment import ResizedCropAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import PixelArray
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule

SEED = 0


def opened(
    directory: Path, batch: int, threads: int, scale: tuple[float, float] = SCALE, microbatch: int | None = None
) -> tuple[Loader, Schedule]:
    """A loader of random resized crops, and its schedule."""
    dataset = Dataset.open(directory)
    schedule = Schedule(dataset, OrderSettings(), SEED, batch, microbatch)
    augmentation = ResizedCropAugmentation(scale=scale)
    plan = LoaderPlan(SEED, schedule.microbatch, 3, SIZE, augmentation, schedule.batch)
    return Loader(dataset, plan, threads=threads), schedule


def epoch(directory: Path, batch: int, threads: int, floats: bool = False) -> Iterator[int]:
    """Sizes of the batches of one epoch (whole batches only); with `floats` each is made what the peers deliver."""
    loader, schedule = opened(directory, batch, threads)
    for microbatches in loader.steps(0, schedule.steps_per_epoch):
        size = 0
        for microbatch in microbatches:
            size += len(microbatch.images)
            if floats:
                normalised(microbatch.images)
        yield size


def normalised(images: PixelArray) -> torch.Tensor:
    """uint8 [N, H, W, C] to float32 [N, C, H, W] of mean 0 and standard deviation 1 by ImageNet's figures."""
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    return planes.float().sub_(mean).div_(std)
