"""Tensors on their way between the host and the device of the models, so that neither waits for the other's work.

A copy out of pageable memory holds the host up until the device has done all that it was given before; one out of
page-locked memory runs on its own. On a CPU everything here happens at once.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nml_ray.data.loader import Completion


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor (labels, weights) on the device, copied in its turn among what is computed there."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Uploads:
    """Copies images to the device on a stream of its own, beside what is computed there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, images: Tensor) -> Tensor:
        """The images on the device, for what is computed from now on; their memory on the host is in use until `done`
        says so. On a CPU it is the same memory."""
        if self._stream is None:
            return images.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            there = images.to(self.device, non_blocking=True)
        computing.wait_stream(self._stream)
        there.record_stream(computing)  # else its memory would be the next copy's while it is computed with
        return there

    def done(self) -> Completion | None:
        """What is complete once all copies so far are; None where they are already."""
        if self._stream is None:
            return None
        with torch.cuda.stream(self._stream):
            return computed(self.device)


def host_memory(tensor: Tensor) -> Tensor:
    """Memory on the host for copies of a tensor, laid out as it is; page-locked where the tensor is on a GPU."""
    return torch.empty_like(
        tensor, device="cpu", memory_format=torch.preserve_format, requires_grad=False, pin_memory=tensor.is_cuda
    )


def computed(device: torch.device) -> Completion | None:
    """What is complete once the device has done all that it was given so far; None where it has already."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # sleeps: the decoders need the core
    event.record(torch.cuda.current_stream(device))
    return event


class Readback:
    """A copy of a tensor that the device may still be computing, on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = host_memory(tensor)
        self._host.copy_(tensor.detach(), non_blocking=True)
        self._event = computed(tensor.device)

    def read(self) -> NDArray[np.generic]:
        """Its values; waits for the device to have come so far."""
        if self._event:
            self._event.synchronize()
        return self._host.numpy()
