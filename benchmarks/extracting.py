"""What the measurements of extraction share: photographs in one shard, an encoder of random weights, a plan."""

import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.photos import CLASSES, photo
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import FILE
from nml_ray.data.reader import ShardReader
from nml_ray.data.shards import Sample, write_shards
from nml_ray.features.plan import EncoderPlan, ExtractionPlan
from nml_ray.models.config import EncoderSettings
from nml_ray.models.decoding import Decoder, as_batch, form
from nml_ray.models.encoder import Encoder, build_encoder, write_encoder

SPLIT = "train"  # the one split whose images have several views


def one_shard(data: Path, count: int) -> Path:
    """A directory whose split `train` is one shard of `count` photographs, made if it is not there."""
    directory = data / f"one-shard-{count}"
    if not (directory / SPLIT / FILE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        samples = (Sample(f"photo{n:06d}", photo(n), "jpg", label=n % len(CLASSES)) for n in range(count))
        write_shards(samples, directory / SPLIT, samples_per_shard=count, classes=CLASSES)
    return directory


def encoder_at(directory: Path, settings: EncoderSettings, images: Path) -> Encoder:
    """An encoder of random weights, left in a new directory; BatchNorm has seen some of the images, so that features
    are of the size that a trained one's have."""
    encoder = build_encoder(settings)
    batch = ready(encoder, images, 32)[0]
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        encoder.train()(batch)
    encoder.eval()
    directory.mkdir()
    write_encoder(directory, encoder, settings)
    return encoder


def ready(encoder: Encoder, images: Path, size: int) -> list[torch.Tensor]:
    """The images of the split as the encoder takes them, in batches, decoded and normalised."""
    from concurrent.futures import ThreadPoolExecutor

    dataset, key = Dataset.open(images / SPLIT), form(encoder.input)
    with ThreadPoolExecutor(1) as pool:
        decoder = Decoder(dataset, ShardReader(dataset), [key], pool)
        return [
            as_batch(inputs[key][0], encoder.input, "cpu").clone() for inputs in decoder.batches(dataset.good, size)
        ]


def plan_of(images: Path, encoder: Path, attempt: Path, settings: dict[str, Any]) -> ExtractionPlan:
    """One encoder on one thread, beside one that decodes; features go to a directory that is made."""
    attempt.mkdir()
    plans = (EncoderPlan("encoder", str(encoder), str(attempt)),)
    return ExtractionPlan(str(images), settings, ("raw", "official"), plans)
