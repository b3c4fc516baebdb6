"""Which settings may be trained as one program, and how many of them fit into memory."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from nml_ray.heads.config import HeadSetting, MlpOptions, NMTune

Place = TypeVar("Place")

SHARE_OF_FREE = 0.85
"""Of the free memory a batch may take this much; the allocator's gaps and the libraries' workspaces take the rest."""


@dataclass(frozen=True)
class Data:
    """What the features of a fit are: `views` of `rows` samples with `dim` dimensions, `outputs` logits."""

    rows: int
    dim: int
    outputs: int
    views: int = 1


def uses_pairs(setting: HeadSetting, data: Data) -> bool:
    """Whether each step takes two views of every sample."""
    return isinstance(setting, NMTune) and setting.views == "pair" and data.views > 1


def shape(setting: HeadSetting, data: Data) -> Hashable:
    """Settings with equal shapes may be one batch: equal tensors, rows in a step, steps and arithmetic.

    All else may differ inside it: kind of head (but a linear probe), preset, weights, `top_k`, norm, learning rate,
    decay, warm-up, standardisation, residual scale, head seed.
    """
    mlp = None
    if isinstance(setting, MlpOptions):
        mlp = width(setting, data), setting.layers, setting.batch_norm, setting.residual
    return mlp, min(setting.batch, data.rows), setting.epochs, uses_pairs(setting, data), setting.dtype


def width(setting: MlpOptions, data: Data) -> int:
    """Units of a hidden layer."""
    return max(1, round(setting.ratio * data.dim))


def parameters(setting: HeadSetting, data: Data) -> int:
    """Numbers that are trained."""
    dim = data.dim
    count = (dim + 1) * data.outputs
    if isinstance(setting, MlpOptions):
        hidden = width(setting, data)
        count += (dim + 1) * hidden + (setting.layers - 1) * (hidden + 1) * hidden + (hidden + 1) * dim
        count += 2 * setting.layers * hidden * setting.batch_norm + dim * setting.residual
    return count


def bytes_of_one(setting: HeadSetting, data: Data) -> int:
    """Memory that one setting adds to a batch while it is trained, with what autograd keeps and frees again.

    Weights, gradients and AdamW's two moments; of each row the activations of every layer with their gradients; what
    the regularisers hold at once, with the singular values' part in float64.
    """
    number = _bytes(setting)
    rows = min(setting.batch, data.rows) * (2 if uses_pairs(setting, data) else 1)
    held = 4 * number * parameters(setting, data)
    each_row = 3 * data.dim + 4 * data.outputs
    if isinstance(setting, MlpOptions):
        each_row += setting.layers * width(setting, data) * (7 if setting.batch_norm else 4) + 3 * data.dim
    total = held + number * rows * each_row
    if isinstance(setting, NMTune):
        smaller = min(rows, data.dim)
        total += number * (6 * rows * data.dim + 2 * smaller**2) + 8 * (3 * rows * data.dim + 5 * smaller**2)
    return total


def features_bytes(settings: Sequence[HeadSetting], data: Data) -> int:
    """Memory of the features that a batch of these settings reads: as they are, standardised, or both."""
    number = _bytes(settings[0])
    views = data.views if any(uses_pairs(setting, data) for setting in settings) else 1
    return number * len({setting.standardise for setting in settings}) * views * data.rows * data.dim


def settings_that_fit(free: int, fixed: int, each: int) -> int:
    """How many settings of `each` bytes fit into `free` bytes beside `fixed` ones; at least one is always tried."""
    return max(1, int(free * SHARE_OF_FREE - fixed) // each)


def even_parts(places: Sequence[Place], most: int) -> list[Sequence[Place]]:
    """The places in order, cut into as few parts of at most `most` as there can be, their lengths at most one apart."""
    count = -(-len(places) // most)
    cuts = [len(places) * number // count for number in range(count + 1)]
    return [places[start:end] for start, end in pairwise(cuts)]


def batches(settings: Sequence[HeadSetting], data: Data, free: int) -> list[list[int]]:
    """Numbers of the settings that are trained together, given `free` bytes.

    Settings of one shape lie in the order of their learning rates, decays and warm-ups, so that those which AdamW
    treats alike are neighbours.
    """
    by_shape: dict[Hashable, list[int]] = {}
    for number, setting in enumerate(settings):
        by_shape.setdefault(shape(setting, data), []).append(number)
    found = []
    for numbers in by_shape.values():
        numbers.sort(key=lambda number: treatment(settings[number]))
        own = [settings[number] for number in numbers]
        each = max(bytes_of_one(setting, data) for setting in own)
        most = settings_that_fit(free, features_bytes(own, data), each)
        found += [list(part) for part in even_parts(numbers, most)]
    return found


def treatment(setting: HeadSetting) -> tuple[float, float, int]:
    """What decides AdamW's step beside the gradients: learning rate, decay, warm-up."""
    return setting.learning_rate, setting.weight_decay, setting.warmup_steps


def treated_alike(settings: Sequence[HeadSetting]) -> list[slice]:
    """Runs of neighbours with one treatment."""
    starts = [
        place
        for place, setting in enumerate(settings)
        if not place or treatment(setting) != treatment(settings[place - 1])
    ]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(settings)], strict=True)]


def _bytes(setting: HeadSetting) -> int:
    return 8 if setting.dtype == "float64" else 4
