"""Batches of samples as encoders see them, made once for several encoders by threads, ahead of the forward pass."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.decode import PixelArray, UndecodableImage, open_image
from nml_ray.data.reader import ShardReader
from nml_ray.data.views import DrawnViews, Views
from nml_ray.models.preprocess import InputSpec, fit_image, normalised
from nml_ray.models.tokens import TextSpec, trimmed, write_tokens

CHUNK = 32  # samples a thread takes at a time
PREFETCH = 2  # batches decoded ahead of the forward pass

Spec = InputSpec | TextSpec
Inputs = Mapping[Spec, NDArray[Any]]
"""By form: images uint8 [V, N, H, W, C], tokens int32 [1, N, 2, L]."""


def form(spec: Spec) -> Spec:
    """A spec without its mean and deviation: encoders of one form share the decoded pixels."""
    return replace(spec, mean=(), std=()) if isinstance(spec, InputSpec) else spec


def as_batch(inputs: NDArray[Any] | torch.Tensor, spec: Spec, device: torch.device | str) -> torch.Tensor:
    """One view's images [N, H, W, C], normalised for an encoder, or tokens [N, 2, L], on the device."""
    if isinstance(spec, InputSpec):
        return normalised(inputs, spec, device)
    return torch.as_tensor(inputs).to(device, non_blocking=True).long()


@dataclass(frozen=True)
class Decoder:
    """Reads samples of one data set and brings each into every form (see `form`): its image, or its caption.

    With `skip`, samples that cannot be brought leave zeros in the batch, and their numbers and the reasons in
    `bad_images` or `bad_texts`.
    """

    dataset: Dataset
    reader: ShardReader
    forms: Sequence[Spec]
    pool: ThreadPoolExecutor
    views: Views = field(default_factory=Views)
    skip: bool = False
    bad_images: dict[int, str] = field(default_factory=dict)
    bad_texts: dict[int, str] = field(default_factory=dict)

    def skipped(self, spec: Spec) -> Mapping[int, str]:
        """The samples to leave out of the features of an encoder with this input, and why."""
        return self.bad_images if isinstance(spec, InputSpec) else self.bad_texts

    def batches(self, numbers: NDArray[np.int64], size: int) -> Iterator[Inputs]:
        """The samples in their order, `size` at a time (the last batch may be smaller).

        Raises:
            UserError: an image cannot be decoded, or a caption is missing, and it is not to be skipped.
        """
        starts = range(0, len(numbers), size)
        pending: deque[_Pending] = deque()
        ahead = iter(starts)
        for _ in starts:
            while len(pending) <= PREFETCH and (start := next(ahead, None)) is not None:
                pending.append(self._request(numbers[start : start + size]))
            inputs, chunks = pending.popleft()
            for chunk in chunks:
                chunk.result()
            yield {
                spec: batch if isinstance(spec, InputSpec) else trimmed(batch[0])[None]
                for spec, batch in inputs.items()
            }

    def _request(self, numbers: NDArray[np.int64]) -> "_Pending":
        inputs = {spec: self._room(spec, len(numbers)) for spec in self.forms}
        chunks = [
            self.pool.submit(self._fill, inputs, slice(start, start + CHUNK), numbers[start : start + CHUNK])
            for start in range(0, len(numbers), CHUNK)
        ]
        return inputs, chunks

    def _room(self, spec: Spec, count: int) -> NDArray[Any]:
        if isinstance(spec, TextSpec):
            return np.zeros((1, count, 2, spec.context), np.int32)
        room = np.zeros if self.skip else np.empty
        return room((self.views.count, count, spec.size, spec.size, spec.channels), np.uint8)

    def _fill(self, inputs: Inputs, rows: slice, numbers: NDArray[np.int64]) -> None:
        images = {spec: batch[:, rows] for spec, batch in inputs.items() if isinstance(spec, InputSpec)}
        texts = {spec: batch[0, rows] for spec, batch in inputs.items() if isinstance(spec, TextSpec)}
        drawn = DrawnViews(self.views, self.dataset.key_hash[numbers])
        for row, number in enumerate(numbers.tolist()):
            if images:
                with self._policy(number, self.bad_images):
                    image = open_image(self.reader.read(number), max(spec.channels for spec in images))
                    for spec, batch in images.items():
                        batch[0, row] = fit_image(image, spec)
                        if self.views.count > 1:
                            drawn.write(row, batch[:, row], _pixels(image, spec.channels))
            if texts:
                with self._policy(number, self.bad_texts):
                    text = self._caption(number)
                    for text_spec, tokens in texts.items():
                        write_tokens(tokens[row], text, text_spec)

    def _caption(self, number: int) -> str:
        caption = self.dataset.caption(number)
        if caption is None:
            raise UndecodableImage("it has no caption")
        return caption

    @contextmanager
    def _policy(self, number: int, bad: dict[int, str]) -> Iterator[None]:
        try:
            yield
        except UndecodableImage as error:
            if not self.skip:
                raise self._refusal(number, error) from None
            bad[number] = str(error)

    def _refusal(self, number: int, error: Exception) -> UserError:
        return UserError(
            f"sample {self.dataset.key(number)} cannot be decoded ({error})",
            where=str(self.dataset.directory),
            expected="images (captions for language models); `nml-ray data verify` finds those that are not, so that "
            "they are left out, as `extract.undecodable: skip` does",
        )


def _pixels(image: Image.Image, channels: int) -> PixelArray:
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


_Pending = tuple[dict[Spec, NDArray[Any]], list[Future[None]]]
