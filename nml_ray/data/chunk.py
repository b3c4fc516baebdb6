"""Some rows of a microbatch, filled by one thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nml_ray.data.augment import Augmentation, CropDraws, ResizedCropAugmentation, ShiftAugmentation, flips, shift
from nml_ray.data.decode import PixelArray, UndecodableImage, decode_image
from nml_ray.data.draw import Draws
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import GlobalBatch
from nml_ray.data.transform import write_crop


@dataclass(frozen=True)
class LoaderPlan:
    """What fixes every microbatch. `schedule(step)` gives the global batch of a step."""

    seed: int
    microbatch: int
    channels: int
    size: int
    augmentation: Augmentation
    schedule: Callable[[int], GlobalBatch]


@dataclass(frozen=True)
class Rows:
    """Rows of a microbatch: what belongs there, and where it is written.

    `batch` are the samples of these rows alone, `planned` their key hashes by the index; `images` uint8 [N, H, W, C]
    and `hashes` uint64 [N] are filled.
    """

    batch: GlobalBatch
    planned: Draws
    images: PixelArray
    hashes: Draws

    def __getitem__(self, some: slice) -> "Rows":
        batch = GlobalBatch(self.batch.epoch, self.batch.numbers[some], self.batch.copies[some])
        return Rows(batch, self.planned[some], self.images[some], self.hashes[some])


@dataclass(frozen=True)
class Filled:
    """Why rows could not be decoded (their images are left undefined), and the seconds that it took."""

    reasons: dict[int, str]
    read: float
    decode: float


def fill(rows: Rows, plan: LoaderPlan, reader: ShardReader, ended: threading.Event) -> Filled:
    """Read, decode and augment. Raises `CancelledError` soon after `ended` is set."""
    began = time.perf_counter()
    augmentation, images = plan.augmentation, rows.images
    drawn = plan.seed, rows.planned, rows.batch.epoch, rows.batch.copies
    mirrored = flips(*drawn) if augmentation.flip else np.zeros(len(images), np.bool_)
    samples = _Samples(reader, plan.channels)
    reasons = {}
    write = _cropped(augmentation, drawn, mirrored) if isinstance(augmentation, ResizedCropAugmentation) else _whole
    for row, number in enumerate(rows.batch.numbers.tolist()):
        if ended.is_set():
            raise CancelledError
        try:
            rows.hashes[row] = samples.header_hash(number)
            write(row, images[row], samples.pixels(number))
        except UndecodableImage as error:
            reasons[row] = str(error)
    if isinstance(augmentation, ShiftAugmentation):
        images[:] = shift(images, augmentation, *drawn)
        images[mirrored] = images[mirrored, :, ::-1]
    return Filled(reasons, samples.seconds, time.perf_counter() - began - samples.seconds)


_Drawn = tuple[int, Draws, int, NDArray[np.int64]]
_Write = Callable[[int, PixelArray, PixelArray], None]


def _cropped(augmentation: ResizedCropAugmentation, drawn: _Drawn, mirrored: NDArray[np.bool_]) -> _Write:
    draws = CropDraws(augmentation, *drawn)

    def write(row: int, out: PixelArray, pixels: PixelArray) -> None:
        write_crop(out, pixels, lambda width, height: draws.box(row, width, height), bool(mirrored[row]))

    return write


def _whole(_: int, out: PixelArray, pixels: PixelArray) -> None:
    write_crop(out, pixels, None, False)


class _Samples:
    """Decodes samples; the copies of one that follow one another (repeated augmentation) are decoded once."""

    def __init__(self, reader: ShardReader, channels: int) -> None:
        self._reader, self._channels = reader, channels
        self._number = -1
        self._held: bytes | PixelArray | UndecodableImage
        self._hash: np.uint64
        self.seconds = 0.0  # spent on reading

    def header_hash(self, number: int) -> np.uint64:
        self._read(number)
        return self._hash

    def pixels(self, number: int) -> PixelArray:
        self._read(number)
        if isinstance(self._held, bytes):
            try:
                self._held = decode_image(self._held, self._channels)
            except UndecodableImage as error:
                self._held = error
        if isinstance(self._held, UndecodableImage):
            raise self._held
        return self._held

    def _read(self, number: int) -> None:
        if number != self._number:
            began = time.perf_counter()
            self._held, self._hash = self._reader.read_hashed(number)
            self.seconds += time.perf_counter() - began
            self._number = number
