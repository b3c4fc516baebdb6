"""Weights from local files into modules. Tensors only: nothing is ever unpickled into objects."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nml_ray.config.errors import UserError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema", "net")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
_SHOWN = 3


Tensors = dict[str, Tensor]


def load_weights(
    module: nn.Module, path: Path, ignore: Sequence[str] = (), choose: Callable[[Tensors], Tensors] = dict
) -> None:
    """Load a `.safetensors` or `.pth`/`.pt`/`.bin` file of tensors into `module`.

    Prefixes that wrappers leave ("module.", "_orig_mod.", "backbone.") and nestings ("state_dict", "model") are
    seen through. Tensors whose names begin with one of `ignore` (a classifier that was taken off) are left out.
    `choose` picks from a larger model's tensors what is the module's, under the module's names.

    Raises:
        UserError: the file is absent, of another kind, holds objects, lacks tensors, has others or other shapes.
    """
    tensors = read_tensors(path)
    expected = module.state_dict()
    tensors = choose(_without_prefixes(tensors, expected))
    tensors = {name: tensor for name, tensor in tensors.items() if not _belongs(name, ignore, expected)}
    # BatchNorm's step counter came late to torch; older files lack it, and evaluation does not read it.
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    wrong = [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in (
            (missing, "tensors are missing"),
            (extra, "tensors are unknown"),
            (shapes, "tensors have another shape"),
        )
        if names
    ]
    if wrong:
        raise UserError("; ".join(wrong), where=str(path), expected=f"the {len(expected)} tensors of the encoder")
    state = OrderedDict(tensors)
    state._metadata = expected._metadata  # type: ignore[attr-defined]  # MNASNet asks for its version
    module.load_state_dict(state, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name to tensor, on the CPU. Raises `UserError` where the file is absent or is anything else."""
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected="a .safetensors or .pth file of weights")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot be read as plain tensors ({reason})",
            where=str(path),
            expected="a .safetensors file or a state dict saved by torch, without other objects",
        ) from None
    return _unwrapped(content, path)


def renamed(names: Sequence[str], tensors: Tensors) -> Tensors:
    """Tensors of an EfficientNet under timm's names, where they have those of the package efficientnet_pytorch.

    Both list the same tensors in the same order; `names` are the encoder's, which has no classifier.
    """
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("_fc.")}
    if next(iter(own), "") != "_conv_stem.weight" or len(own) != len(names):
        return dict(tensors)
    return dict(zip(names, own.values(), strict=True))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(str(error), where=str(path), expected="a whole safetensors file") from None


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(2):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content, Mapping) and key in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError("holds no state dict", where=str(path), expected="a mapping of names to tensors")
    return dict(content)


def _without_prefixes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes that all names share, unless the module's own names carry them."""
    renamed = dict(tensors)
    while True:
        prefix = next((prefix for prefix in _PREFIXES if renamed and all(n.startswith(prefix) for n in renamed)), "")
        if not prefix or any(name.startswith(prefix) for name in expected):
            return renamed
        renamed = {name.removeprefix(prefix): tensor for name, tensor in renamed.items()}


def _belongs(name: str, parts: Sequence[str], expected: Mapping[str, Tensor]) -> bool:
    return name not in expected and any(name == part or name.startswith(f"{part}.") for part in parts)


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
