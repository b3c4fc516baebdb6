"""Heads of one shape as one: every tensor has a first dimension more, K heads long."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nml_ray.heads.config import HeadSetting, MlpOptions
from nml_ray.heads.modules import Head, new_head


class Stack:
    """K heads in training mode, fed K batches at once; each computes what it would compute alone.

    Attributes:
        parameters: what is trained, by its name in `Head`, each [K, ...] and with gradient; weights of linear layers
            lie transposed, [K, in, out], so that their gradients come out of the product in the same layout.
        template: a head of this shape, on the CPU; its weights mean nothing.
        buffers: the running statistics of BatchNorm, by name, each [K, ...].
    """

    def __init__(self, heads: Sequence[Head], device: torch.device | str = "cpu") -> None:
        """Stack heads of one shape; see `Stack.born` for new ones."""
        self.template = copy.deepcopy(heads[0])
        trained = dict(heads[0].named_parameters())
        tensors = {
            name: torch.empty((len(heads), *tensor.shape), dtype=tensor.dtype, device=device)
            for name, tensor in _turned(heads[0].state_dict()).items()
        }
        for place, head in enumerate(heads):
            for name, tensor in _turned(head.state_dict()).items():
                tensors[name][place] = tensor
        self.parameters = {name: tensor.requires_grad_() for name, tensor in tensors.items() if name in trained}
        self.buffers = {name: tensor for name, tensor in tensors.items() if name not in trained}

    @classmethod
    def born(
        cls, settings: Sequence[HeadSetting], seeds: Sequence[int], dim: int, classes: int, device: torch.device | str
    ) -> "Stack":
        """New heads, each as `new_head` makes it of its setting and seed; equal ones are drawn once."""
        made: dict[tuple[int, float], Head] = {}
        heads = []
        for setting, seed in zip(settings, seeds, strict=True):
            key = seed, setting.residual_init if isinstance(setting, MlpOptions) else 0.0
            if key not in made:
                made[key] = new_head(setting, dim, classes, seed)
            heads.append(made[key])
        return cls(heads, device)

    @property
    def dim(self) -> int:
        """D."""
        return self.template.classifier.in_features

    def head(self, place: int) -> Head:
        """A copy of one of the heads, on the device of the stack, in evaluation mode."""
        head = copy.deepcopy(self.template).to(self.parameters["classifier.weight"].device)
        own = {name: tensor.detach()[place] for name, tensor in {**self.parameters, **self.buffers}.items()}
        head.load_state_dict(_turned(own))
        return head.eval()

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Z [K, M, D] and logits [K, M, C] of rows [K, M, D]; statistics of BatchNorm move on."""
        z = rows
        if self.template.mlp is not None:
            for number, module in enumerate(self.template.mlp):
                z = self._layer(f"mlp.{number}", module, z)
            if "scale" in self.parameters:
                z = torch.addcmul(rows, self.parameters["scale"], z)
        return z, self._linear("classifier", z)

    def _layer(self, name: str, module: nn.Module, rows: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return self._linear(name, rows)
        if isinstance(module, nn.BatchNorm1d):
            return self._batch_norm(name, module, rows)
        return functional.relu(rows)

    def _linear(self, name: str, rows: Tensor) -> Tensor:
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        return torch.baddbmm(bias.unsqueeze(1), rows, weight)

    def _batch_norm(self, name: str, module: nn.BatchNorm1d, rows: Tensor) -> Tensor:
        """One BatchNorm over K * H channels."""
        count, size, width = rows.shape
        mean, variance, tracked = (
            self.buffers[f"{name}.{what}"] for what in ("running_mean", "running_var", "num_batches_tracked")
        )
        tracked += 1
        assert module.momentum is not None
        normal = functional.batch_norm(
            rows.transpose(0, 1).reshape(size, count * width),
            mean.view(-1),
            variance.view(-1),
            self.parameters[f"{name}.weight"].view(-1),
            self.parameters[f"{name}.bias"].view(-1),
            training=True,
            momentum=module.momentum,
            eps=module.eps,
        )
        return normal.view(size, count, width).transpose(0, 1)


def _turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one head with the weights of linear layers, its only true matrices, transposed."""
    return {
        name: tensor.mT if name.endswith(".weight") and tensor.ndim == 2 else tensor for name, tensor in tensors.items()
    }
