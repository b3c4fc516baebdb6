"""AdamW for a fixed list of parameters: PyTorch's fused kernel through its functional form.

`torch.optim.AdamW` would do the same arithmetic; its constructor imports PyTorch's compiler, seconds in each process.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """PyTorch's defaults (betas 0.9 and 0.999, eps 1e-8); decay applies to every parameter (decoupled)."""

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in self._parameters]

    def step(self, learning_rate: float) -> None:
        """One update with the gradients there are, which every parameter must have; then the gradients are dropped."""
        self.update([parameter.grad for parameter in self._parameters if parameter.grad is not None], learning_rate)
        for parameter in self._parameters:
            parameter.grad = None

    def update(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """One update with these gradients, one for each parameter."""
        adamw(
            self._parameters,
            list(gradients),
            self._first,
            self._second,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
