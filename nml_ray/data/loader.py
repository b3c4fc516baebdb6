"""Shards in, microbatches out: threads read, decode and augment ahead of the consumer.

The loader's whole state is the step that it is asked to start from; samples, places and draws are closed forms of it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.augment import Augmentation, ShiftAugmentation, crop_box, flips, resized, shift
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import PixelArray, UndecodableImage, open_image
from nml_ray.data.order import worker_microbatches
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import GlobalBatch

CHUNK = 64  # samples a thread takes at a time: large enough for numpy's calls, small enough to share a microbatch
PREFETCH = 2  # steps decoded ahead of the consumer


@dataclass(frozen=True)
class Hole:
    """A place whose image could not be decoded: kept, filled with another sample's image, weight 0."""

    place: int
    number: int
    reason: str
    filler: int


@dataclass(frozen=True)
class Microbatch:
    """Samples of one microbatch, as fed.

    `places` are places in the global batch, `numbers` sample numbers of the data set, `images` uint8 [N, H, W, C],
    `weights` float32 [N] (0 at holes), `hashes` the hash of each key as read from its tar member's own header.
    """

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    images: PixelArray
    weights: NDArray[np.float32]
    hashes: NDArray[np.uint64]
    holes: Sequence[Hole] = ()


@dataclass
class LoaderTimers:
    """Seconds: `wait` is the consumer's, the others are summed over the decoding threads."""

    wait: float = 0.0
    read: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class LoaderPlan:
    """What fixes every microbatch. `schedule(step)` gives the global batch of a step."""

    seed: int
    microbatch: int
    channels: int
    size: int
    augmentation: Augmentation
    schedule: Callable[[int], GlobalBatch]


@dataclass
class Loader:
    """Reads the microbatches m with m mod `workers` = `rank` of each step."""

    dataset: Dataset
    plan: LoaderPlan
    rank: int = 0
    workers: int = 1
    threads: int = 1
    timers: LoaderTimers = field(default_factory=LoaderTimers)

    def steps(self, start: int, stop: int) -> Iterator[list[Microbatch]]:
        """The microbatches of this worker for the steps start .. stop - 1, in order."""
        reader = ShardReader(self.dataset)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            pending: deque[list[_PendingMicrobatch]] = deque()
            ahead = start
            for _ in range(start, stop):
                while ahead < stop and len(pending) <= PREFETCH:
                    pending.append(self._request(ahead, reader, pool))
                    ahead += 1
                began = time.perf_counter()
                ready = [_assemble(request) for request in pending.popleft()]
                self.timers.wait += time.perf_counter() - began
                yield ready

    def _request(self, step: int, reader: ShardReader, pool: ThreadPoolExecutor) -> list["_PendingMicrobatch"]:
        batch = self.plan.schedule(step)
        epoch, numbers = batch.epoch, batch.numbers
        size = self.plan.microbatch
        requests = []
        for number in worker_microbatches(len(numbers) // size, self.rank, self.workers):
            first = number * size
            own = numbers[first : first + size]
            chunks = [
                pool.submit(self._load_chunk, own[k : k + CHUNK], epoch, reader) for k in range(0, len(own), CHUNK)
            ]
            requests.append(_PendingMicrobatch(np.arange(first, first + len(own)), own, chunks))
        return requests

    def _load_chunk(self, numbers: NDArray[np.int64], epoch: int, reader: ShardReader) -> "_Chunk":
        plan = self.plan
        images = np.zeros((len(numbers), plan.size, plan.size, plan.channels), np.uint8)
        hashes = np.empty(len(numbers), np.uint64)
        reasons: dict[int, str] = {}
        planned = self.dataset.key_hash[numbers]
        for row, number in enumerate(numbers):
            began = time.perf_counter()
            data, hashes[row] = reader.read(int(number)), reader.header_hash(int(number))
            read = time.perf_counter()
            try:
                images[row] = self._pixels(data, planned[row], epoch)
            except UndecodableImage as error:
                reasons[row] = str(error)
            self.timers.read += read - began
            self.timers.decode += time.perf_counter() - read
        if isinstance(plan.augmentation, ShiftAugmentation):
            images = shift(images, plan.augmentation, plan.seed, planned, epoch)
        if plan.augmentation.flip:
            mirrored = flips(plan.seed, planned, epoch)
            images[mirrored] = images[mirrored, :, ::-1]
        return _Chunk(images, hashes, reasons)

    def _pixels(self, data: bytes, key_hash: np.uint64, epoch: int) -> PixelArray:
        plan = self.plan
        image = open_image(data, plan.channels)
        box = (0, 0, image.width, image.height)
        if not isinstance(plan.augmentation, ShiftAugmentation):
            box = crop_box(image.width, image.height, plan.augmentation, plan.seed, key_hash, epoch)
        return resized(image, box, plan.size)


@dataclass(frozen=True)
class _Chunk:
    images: PixelArray
    hashes: NDArray[np.uint64]
    reasons: dict[int, str]


@dataclass(frozen=True)
class _PendingMicrobatch:
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    chunks: list[Future[_Chunk]]


def _assemble(request: _PendingMicrobatch) -> Microbatch:
    chunks = [chunk.result() for chunk in request.chunks]
    images = np.concatenate([chunk.images for chunk in chunks])
    reasons = {first * CHUNK + row: why for first, chunk in enumerate(chunks) for row, why in chunk.reasons.items()}
    weights = np.ones(len(images), np.float32)
    holes = []
    for row, reason in reasons.items():
        filler = nearest_good(row, len(images), reasons)
        images[row] = images[filler] if filler >= 0 else 0
        weights[row] = 0
        number = int(request.numbers[filler]) if filler >= 0 else -1
        holes.append(Hole(int(request.places[row]), int(request.numbers[row]), reason, number))
    hashes = np.concatenate([chunk.hashes for chunk in chunks])
    return Microbatch(request.places, request.numbers, images, weights, hashes, holes)


def nearest_good(row: int, rows: int, bad: dict[int, str]) -> int:
    """The row nearest to a bad one that is good, the lower on a tie; -1 where all are bad."""
    good = [other for other in range(rows) if other not in bad]
    return min(good, key=lambda other: (abs(other - row), other), default=-1)
