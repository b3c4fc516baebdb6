"""Batches of evaluation images, decoded once for several encoders by threads, ahead of the forward pass."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import UndecodableImage, open_image
from nml_ray.data.reader import ShardReader
from nml_ray.models.preprocess import InputSpec, fit_image

CHUNK = 32  # images a thread takes at a time
PREFETCH = 2  # batches decoded ahead of the forward pass

Images = Mapping[InputSpec, NDArray[np.uint8]]


def form(spec: InputSpec) -> InputSpec:
    """A spec without its mean and deviation: encoders of one form share the decoded pixels."""
    return replace(spec, mean=(), std=())


@dataclass(frozen=True)
class Decoder:
    """Reads samples of one data set and brings each into every form (see `form`)."""

    dataset: Dataset
    reader: ShardReader
    forms: Sequence[InputSpec]
    pool: ThreadPoolExecutor

    def batches(self, numbers: NDArray[np.int64], size: int) -> Iterator[Images]:
        """The samples in their order, `size` at a time (the last batch may be smaller): form -> uint8 [N, H, W, C].

        Raises:
            UserError: an image cannot be decoded.
        """
        starts = range(0, len(numbers), size)
        pending: deque[_Pending] = deque()
        ahead = iter(starts)
        for _ in starts:
            while len(pending) <= PREFETCH and (start := next(ahead, None)) is not None:
                pending.append(self._request(numbers[start : start + size]))
            images, chunks = pending.popleft()
            for chunk in chunks:
                chunk.result()
            yield images

    def _request(self, numbers: NDArray[np.int64]) -> "_Pending":
        images = {spec: np.empty((len(numbers), spec.size, spec.size, spec.channels), np.uint8) for spec in self.forms}
        chunks = [
            self.pool.submit(self._fill, images, start, numbers[start : start + CHUNK])
            for start in range(0, len(numbers), CHUNK)
        ]
        return images, chunks

    def _fill(self, images: Images, start: int, numbers: NDArray[np.int64]) -> None:
        channels = max(spec.channels for spec in self.forms)
        for row, number in enumerate(numbers, start):
            try:
                image = open_image(self.reader.read(int(number)), channels)
            except UndecodableImage as error:
                raise UserError(
                    f"sample {self.dataset.key(int(number))} cannot be decoded ({error})",
                    where=str(self.dataset.directory),
                    expected="images; those that `nml-ray data verify` finds undecodable are left out",
                ) from None
            for spec in self.forms:
                images[spec][row] = fit_image(image, spec)


_Pending = tuple[dict[InputSpec, NDArray[np.uint8]], list[Future[None]]]
