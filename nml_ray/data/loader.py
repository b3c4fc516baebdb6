"""Shards in, microbatches out: threads read, decode and augment ahead of the consumer.

The loader's whole state is the step that it is asked to start from; samples, places and draws are closed forms of it.
Each thread writes its images straight into the step's batch. The batches are a ring, reused from step to step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nml_ray.data.chunk import Filled, LoaderPlan, Rows, fill
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import PixelArray
from nml_ray.data.order import worker_microbatches
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import GlobalBatch

__all__ = ["Completion", "Hole", "Loader", "LoaderPlan", "LoaderTimers", "Microbatch", "nearest_good"]

CHUNKS = 8, 64  # fewest and most samples that a thread takes at a time: numpy's calls are shared by a chunk's samples
PREFETCH = 2  # steps decoded ahead of the consumer
LOOK_AHEAD = 64  # steps whose tars are brought from an object store


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
    The memory of `images` is used again: it is valid until the next step is asked for (see `Loader.hold`). The other
    arrays stay.
    """

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    images: PixelArray
    weights: NDArray[np.float32]
    hashes: NDArray[np.uint64]
    holes: Sequence[Hole] = ()


class Completion(Protocol):
    """Something under way, such as a copy to a device (`torch.cuda.Event` is one)."""

    def synchronize(self) -> None:
        """Return when it is complete."""


@dataclass
class LoaderTimers:
    """Seconds so far.

    Attributes:
        wait: the consumer waited for a batch.
        read: reading bytes, summed over the decoding threads.
        decode: decoding and augmenting, summed over the decoding threads.
        copy: the consumer moved images to its device and normalised them; its own to count.
    """

    wait: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    copy: float = 0.0


@dataclass
class Loader:
    """Reads the microbatches m with m mod `workers` = `rank` of each step, on `threads` threads of its own.

    `pinned` batches lie in page-locked memory, which a CUDA device copies from without a detour. Such a copy runs on
    its own: `hold` the step's images until it is complete.

    The threads also call `beside`, where there is one, with the sample numbers of each microbatch that they make: for
    what the consumer can have ready by then. Nobody waits for it, and what it raises is not heard of.
    """

    dataset: Dataset
    plan: LoaderPlan
    rank: int = 0
    workers: int = 1
    threads: int = 1
    pinned: bool = False
    timers: LoaderTimers = field(default_factory=LoaderTimers)
    beside: Callable[[NDArray[np.int64]], object] | None = None
    _streams: list["_Stream"] = field(default_factory=list, init=False, repr=False)
    _held: list[Completion] = field(default_factory=list, init=False, repr=False)

    def hold(self, until: Completion) -> None:
        """Do not use the memory of the last step's images again before something is complete."""
        self._held.append(until)

    def release(self) -> None:
        """Wait for everything that the images given out are held for."""
        while self._held:
            self._held.pop().synchronize()

    def steps(self, start: int, stop: int) -> Iterator[list[Microbatch]]:
        """The microbatches of this worker for the steps start .. stop - 1, in order.

        Images are valid until the next step is asked for. An error of a thread is raised at the step it belongs to.
        The threads end with the iterator, or when it is closed.
        """
        stream = _Stream(self, start, stop)
        self._streams.append(stream)
        try:
            pending: deque[list[_PendingMicrobatch]] = deque()
            ahead = start
            for _ in range(start, stop):
                while ahead < stop and len(pending) <= PREFETCH:
                    pending.append(stream.request())
                    ahead += 1
                began = time.perf_counter()
                ready = [_assemble(request, self.timers) for request in pending.popleft()]
                self.timers.wait += time.perf_counter() - began
                yield ready
        finally:
            self._streams.remove(stream)
            stream.end()

    def close(self) -> None:
        """End the threads now, without waiting for the iterators of `steps` to be closed; they are of no use then."""
        for stream in list(self._streams):
            stream.end()


@dataclass(frozen=True)
class _PendingMicrobatch:
    places: NDArray[np.int64]
    rows: Rows
    length: int  # of a chunk
    chunks: list[Future[Filled]]


class _Stream:
    """The threads of one run through the steps, and the ring of batches that they fill."""

    def __init__(self, loader: Loader, start: int, stop: int) -> None:
        self._loader, self._plan = loader, loader.plan
        self._reader = ShardReader(loader.dataset)
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(loader.threads, thread_name_prefix="decode")
        self._ring: deque[PixelArray] = deque()
        self._steps = iter(range(start, stop))
        self._batches: deque[GlobalBatch] = deque()

    def request(self) -> list[_PendingMicrobatch]:
        """Have the threads fill the next batch of the ring with the microbatches of the next step."""
        batch, size = self._next_step(), self._plan.microbatch
        own = worker_microbatches(len(batch.numbers) // size, self._loader.rank, self._loader.workers)
        images = self._next_batch(len(own))
        return [self._request_microbatch(batch, number, images[place]) for place, number in enumerate(own)]

    def _next_step(self) -> GlobalBatch:
        """Its global batch; the tars of the steps after it are brought here, where they lie on an object store."""
        loader, size = self._loader, self._plan.microbatch
        remote = loader.dataset.files.remote
        for step in islice(self._steps, 1 + LOOK_AHEAD * remote - len(self._batches)):
            self._batches.append(self._plan.schedule(step))
            if remote:
                microbatches = self._batches[-1].numbers.reshape(-1, size)
                own = microbatches[worker_microbatches(len(microbatches), loader.rank, loader.workers)]
                self._reader.prefetch(own.ravel(), loader.workers)
        return self._batches.popleft()

    def _next_batch(self, microbatches: int) -> PixelArray:
        """uint8 [microbatches, N, H, W, C]: the one that the consumer has given up, once there are enough."""
        if len(self._ring) <= PREFETCH:
            plan = self._plan
            shape = microbatches, plan.microbatch, plan.size, plan.size, plan.channels
            self._ring.append(torch.empty(shape, dtype=torch.uint8, pin_memory=self._loader.pinned).numpy())
        else:
            self._ring.rotate(-1)
            self._loader.release()
        return self._ring[-1]

    def _request_microbatch(self, batch: GlobalBatch, number: int, images: PixelArray) -> _PendingMicrobatch:
        size = len(images)
        places = np.arange(number * size, (number + 1) * size)
        part = GlobalBatch(batch.epoch, batch.numbers[places], batch.copies[places])
        rows = Rows(part, self._loader.dataset.key_hash[part.numbers], images, np.empty(size, np.uint64))
        if self._loader.beside:
            self._pool.submit(self._loader.beside, part.numbers)
        fewest, most = CHUNKS
        length = max(fewest, min(most, -(-size // self._loader.threads)))
        chunks = [
            self._pool.submit(fill, rows[first : first + length], self._plan, self._reader, self._ended)
            for first in range(0, size, length)
        ]
        return _PendingMicrobatch(places, rows, length, chunks)

    def end(self) -> None:
        """Drop what is not begun, let the threads stop at their next sample, and wait for that."""
        self._ended.set()
        self._reader.close()
        self._pool.shutdown(cancel_futures=True)


def _assemble(request: _PendingMicrobatch, timers: LoaderTimers) -> Microbatch:
    """Wait for the chunks of a microbatch and fill its holes."""
    reasons: dict[int, str] = {}
    for number, chunk in enumerate(request.chunks):
        filled = chunk.result()
        reasons |= {number * request.length + row: why for row, why in filled.reasons.items()}
        timers.read += filled.read
        timers.decode += filled.decode
    images, numbers = request.rows.images, request.rows.batch.numbers
    weights = np.ones(len(images), np.float32)
    holes = []
    for row, reason in reasons.items():
        filler = nearest_good(row, len(images), reasons)
        images[row] = images[filler] if filler >= 0 else 0
        weights[row] = 0
        holes.append(
            Hole(int(request.places[row]), int(numbers[row]), reason, int(numbers[filler]) if filler >= 0 else -1)
        )
    return Microbatch(request.places, numbers, images, weights, request.rows.hashes, holes)


def nearest_good(row: int, rows: int, bad: dict[int, str]) -> int:
    """The row nearest to a bad one that is good, the lower on a tie; -1 where all are bad."""
    good = [other for other in range(rows) if other not in bad]
    return min(good, key=lambda other: (abs(other - row), other), default=-1)
