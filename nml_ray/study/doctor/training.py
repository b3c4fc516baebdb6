"""Measures of computing: real steps of a job's encoder on random images."""

import time
from collections.abc import Callable

import numpy as np
import torch

from nml_ray.data.loader import Microbatch
from nml_ray.models.config import EncoderSettings
from nml_ray.models.device import Precision, autocast
from nml_ray.models.encoder import build_encoder
from nml_ray.models.preprocess import normalised
from nml_ray.pretrain.arm import Arm
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.inputs import Inputs
from nml_ray.pretrain.objective import seeded_objective
from nml_ray.pretrain.world import World

CPU = torch.device("cpu")
PROBE = 4  # images of the first step; it grows from there


def step_rate(
    settings: PretrainSettings,
    classes: int,
    arms: int,
    threads: int,
    seconds: float,
    size: int | None = None,
    device: torch.device = CPU,
) -> float:
    """Images a second of training steps: copy, RandAugment, normalisation and mixing of each microbatch, every arm
    forward and backward over it in the job's precision, then its optimiser.

    Without compiling.

    Args:
        settings: encoder, optimiser, microbatch.
        classes: of the classifier.
        arms: that share the images.
        threads: of torch.
        seconds: about how long; a microbatch that takes longer is measured in part.
        size: of the microbatch; that of the settings when None.
        device: of the models.
    """
    torch.set_num_threads(threads)
    size = size or settings.microbatch_size()
    rng = np.random.default_rng(0)
    labels, hashes = rng.integers(0, classes, size, np.int32), rng.integers(0, 1 << 63, size, np.uint64)
    built = []
    for number in range(arms):
        model = seeded_objective(settings.encoder, classes, settings.label_smoothing, seed=0, loss=settings.loss)
        recipe = settings.optimiser, settings.average, settings.precision
        built.append(Arm.build(f"{number}", model.to(device), labels, labels, *recipe, batch=settings.batch))
    pixels = _pixels(settings.encoder, size, settings.train_size)
    inputs = Inputs(settings, 0, built[0].model.encoder.input, hashes, device)
    per_step = settings.batch // size

    def work(count: int) -> None:
        places, weights = np.arange(count), np.ones(count, np.float32)
        fed = inputs.prepare(Microbatch(places, places, pixels[:count].numpy(), weights, hashes[:count]), 0)
        for arm in built:
            arm.add([fed], [0], World())

    def update() -> None:
        for arm in built:
            arm.update(World(), 0.0)
            arm.begin_step()

    rate = _rate(work, size, seconds, device)
    update()
    began = time.perf_counter()
    update()
    wait(device)
    each = (time.perf_counter() - began) / (per_step * size)  # the optimiser's share of an image
    return 1 / (1 / rate + each)


def forward_rate(
    settings: EncoderSettings,
    batch: int,
    threads: int,
    seconds: float,
    precision: Precision = "float32",
    device: torch.device = CPU,
) -> float:
    """Images a second of an encoder's forward pass alone, as extraction runs it; weights are random."""
    torch.set_num_threads(threads)
    encoder = build_encoder(settings.model_copy(update={"weights": None})).to(device)
    pixels = _pixels(settings, batch)

    @torch.inference_mode()
    def work(count: int) -> None:
        with autocast(precision, device):
            encoder(normalised(pixels[:count], encoder.input, device))

    return _rate(work, batch, seconds, device)


def _pixels(encoder: EncoderSettings, count: int, size: int | None = None) -> torch.Tensor:
    rng = np.random.default_rng(0)
    side = size or encoder.size
    shape = (count, side, side, encoder.channels)
    return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(ask: Callable[[int], None], size: int, seconds: float, device: torch.device) -> float:
    """Images a second, at most `size` at once: fewer only where that many take too long, for small batches are slow."""

    def work(count: int) -> None:
        ask(count)
        wait(device)

    now = min(PROBE, size)
    work(now)
    while True:
        began = time.perf_counter()
        work(now)
        if now == size or time.perf_counter() - began > seconds / 4:
            break
        now = min(size, 4 * now)
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds / 2:
        work(now)
        done += now
    return done / (time.perf_counter() - began)
