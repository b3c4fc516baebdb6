"""Batches through encoders on a device, one batch ahead of the features that come back."""

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nml_ray.models.device import Precision, autocast
from nml_ray.models.transfer import Readback, Uploads

Floats = NDArray[np.float32]


class Forward:
    """The forward passes of an extraction.

    A GPU is given the next batch before the features of the last are read: decoding, copying and computing go on side
    by side. On a CPU a pass is over when it has been asked for.
    """

    def __init__(self, device: torch.device, precision: Precision = "float32") -> None:
        self.device, self._precision = device, precision
        self._uploads = Uploads(device)
        self._given: deque[tuple[Readback, Floats]] = deque()

    def bring(self, inputs: NDArray[Any]) -> Tensor:
        """A batch's arrays on the device, as they are; their memory is free again at once."""
        tensor = torch.from_numpy(inputs)
        return self._uploads.copy(tensor.pin_memory() if self.device.type == "cuda" else tensor)

    def give(self, encoder: nn.Module, batch: Tensor, features: Floats) -> None:
        """Pass a batch [N, ...] through an encoder; `features` [N, D] are there after `take`."""
        with torch.inference_mode(), autocast(self._precision, self.device):
            found = encoder(batch)
        self._given.append((Readback(found.float()), features))

    @property
    def given(self) -> int:
        """Passes whose features have not been taken."""
        return len(self._given)

    def take(self, left: int = 0) -> None:
        """Write the features of the oldest passes to where they belong, until so many are left."""
        while len(self._given) > left:
            numbers, features = self._given.popleft()
            features[:] = numbers.read()
