"""Measures of images: decoding alone, reading at random places, and the whole loader."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nml_ray.data.augment import Augmentation, ResizedCropAugmentation
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import UndecodableImage, decode_image
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.photo import photo
from nml_ray.data.reader import ShardReader
from nml_ray.data.resize import Resize, resized
from nml_ray.data.schedule import GlobalBatch
from nml_ray.data.shards import Sample, write_shards
from nml_ray.study.doctor.machine import forget

PHOTOS = 48
STEP = 32  # samples a thread of a measured step
QUALITY = 90
FETCH = 8 << 20  # bytes of a piece from an object store
FETCHES, FETCHES_MOST = 4, 1024  # pieces at a time, and in all
MARGIN = 256 / 224  # of the usual pre-resized short side over the side that is fed


@dataclass(frozen=True)
class Form:
    """What the loader makes of an image."""

    size: int = 224
    channels: int = 3
    augmentation: Augmentation = field(default_factory=ResizedCropAugmentation)


@dataclass(frozen=True)
class Smaller:
    """What shards with a shorter side would change: their side in pixels, how many times faster one thread decodes and
    augments from them, and how many times fewer bytes they hold."""

    side: int
    faster: float
    lighter: float


@contextmanager
def photographs() -> Iterator[Dataset]:
    """A small data set of photographs, for as long as the block lasts."""
    with TemporaryDirectory(prefix="nml-ray-doctor-") as directory:
        yield written([photo(number) for number in range(PHOTOS)], "jpg", Path(directory))


def written(images: Sequence[bytes], extension: str, directory: Path) -> Dataset:
    """Some images as a data set."""
    samples = [Sample(f"{number}", image, extension) for number, image in enumerate(images)]
    write_shards(samples, directory, samples_per_shard=len(samples))
    return Dataset.open(directory)


def some_numbers(dataset: Dataset, most: int) -> list[int]:
    """Sample numbers, anywhere in the data set, the same ones each time."""
    chosen = np.random.default_rng(0).permutation(len(dataset.good))[:most]
    return [int(number) for number in dataset.good[chosen]]


def decode_rate(images: Sequence[bytes], channels: int, threads: int, seconds: float) -> float:
    """Images a second that threads decode, from memory and to nowhere; those that cannot be decoded count too."""
    ends = time.perf_counter() + seconds

    def work(first: int) -> int:
        done = 0
        for image in cycle([*images[first:], *images[:first]]):
            with suppress(UndecodableImage):
                decode_image(image, channels)
            done += 1
            if time.perf_counter() > ends:
                break
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, [thread % len(images) for thread in range(threads)]))
    return done / (time.perf_counter() - began)


def loader_rate(dataset: Dataset, form: Form, threads: int, seconds: float) -> float:
    """Images a second of the loader, after its first step: read (from memory, mostly), decoded, cropped, resized."""
    step = STEP * threads
    loader = Loader(dataset, LoaderPlan(0, step, form.channels, form.size, form.augmentation, _any(dataset, step)))
    loader.threads = threads
    done, began = 0, 0.0
    steps = loader.steps(0, 1 << 40)
    try:
        for batch in steps:
            if began:
                done += sum(len(microbatch.images) for microbatch in batch)
                if time.perf_counter() - began > seconds:
                    break
            else:
                began = time.perf_counter()
        return done / (time.perf_counter() - began)
    finally:
        steps.close()  # type: ignore[attr-defined]


def _any(dataset: Dataset, size: int) -> Callable[[int], GlobalBatch]:
    """Batches of samples from anywhere; each epoch is one step, so that every step draws its crops anew."""
    numbers = np.array(some_numbers(dataset, 4096), np.int64)

    def batch(step: int) -> GlobalBatch:
        places = np.arange(step * size, step * size + size) % len(numbers)
        return GlobalBatch(step, numbers[places], np.zeros(size, np.int64))

    return batch


def local_tars(dataset: Dataset, shards: Sequence[int]) -> list[Path]:
    """Tars by number; none where they lie on an object store."""
    return [] if dataset.directory.remote else [dataset.shard_location(shard).local for shard in shards]


def fetch_rate(dataset: Dataset, seconds: float) -> float:
    """Bytes a second from an object store, in large pieces, a few at a time."""
    shards = [shard for shard in dataset.info.shards if shard.bytes]
    pieces = [
        (shard, offset, min(FETCH, shard.bytes - offset)) for shard in shards for offset in range(0, shard.bytes, FETCH)
    ][:FETCHES_MOST]
    began, size = time.perf_counter(), 0
    with ThreadPoolExecutor(FETCHES) as pool:
        for first in range(0, len(pieces), FETCHES):
            some = pieces[first : first + FETCHES]
            size += sum(map(len, pool.map(lambda piece: dataset.files.some_bytes(*piece), some)))
            if time.perf_counter() - began > seconds:
                break
    return size / max(time.perf_counter() - began, 1e-9)


def random_read_rate(dataset: Dataset, threads: int, seconds: float) -> float:
    """Images a second that threads read, from places all over tars that the page cache was asked to forget.

    From an object store each image is a request of its own.
    """
    numbers = np.array(some_numbers(dataset, 20_000))
    forget(local_tars(dataset, np.unique(dataset.shard_number[numbers]).tolist()))
    reader = ShardReader(dataset, whole=False)
    ends = time.perf_counter() + seconds

    def work(own: Sequence[int]) -> int:
        for done, number in enumerate(own, 1):
            reader.read(number)
            if time.perf_counter() > ends:
                return done
        return len(own)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, [numbers[thread::threads].tolist() for thread in range(threads)]))
    return done / max(time.perf_counter() - began, 1e-9)


def smaller(dataset: Dataset, form: Form, seconds: float) -> Smaller | None:
    """What shards with a shorter side would change; None where images are no larger, or are not cropped anyway."""
    if not isinstance(form.augmentation, ResizedCropAugmentation):
        return None
    side = round(form.size * MARGIN)
    reader = ShardReader(dataset, whole=False)
    before, after = [], []
    for number in some_numbers(dataset, PHOTOS):
        image = reader.read(number)
        try:
            small = resized(image, Resize(side, QUALITY))
        except UndecodableImage:
            continue
        before.append(image)
        after.append(image if small is None else small)
    if before == after:
        return None
    rates = []
    for images in (before, after):
        with TemporaryDirectory(prefix="nml-ray-doctor-") as directory:
            rates.append(loader_rate(written(images, "jpg", Path(directory)), form, 1, seconds / 2))
    return Smaller(side, rates[1] / rates[0], sum(map(len, before)) / sum(map(len, after)))
