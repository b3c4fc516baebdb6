"""How well shards read in lanes mix the classes, against a full shuffle."""

from dataclasses import dataclass

import numpy as np

from nml_ray.data.dataset import Dataset
from nml_ray.data.order import Lanes, distinct_classes, epoch_order

ENOUGH = 0.8  # share of a full shuffle's distinct classes below which shards count as sorted


@dataclass(frozen=True)
class Mixing:
    """Mean number of distinct classes in a batch of `order: lanes`, and in one of a full shuffle."""

    batch: int
    lanes: float
    full: float

    @property
    def poor(self) -> bool:
        """The shards are too sorted to be read in lanes."""
        return self.lanes < ENOUGH * self.full

    def lines(self, directory: str) -> list[tuple[str, str]]:
        """What a user is told, with how to mend it: (name, text)."""
        batch = f"{self.lanes:.1f} distinct classes in a batch of {self.batch} read in lanes, {self.full:.1f} in a"
        lines = [("mixing", f"{batch} full shuffle ({self.lanes / self.full:.0%})")]
        if self.poor:
            mend = f"`order: full`, or shuffled shards: nml-ray data shard {directory} OUT"
            lines.append(("warning", f"below {100 * ENOUGH:.0f} %: the shards are sorted by class. Use {mend}"))
        return lines


def mixing_of(
    dataset: Dataset, batch: int, lanes: int | None = None, shuffle_block: int = 4096, repeats: int = 1
) -> Mixing | None:
    """Mixing of the first epoch; None without labels.

    Args:
        dataset: whose good samples with a label are looked at.
        batch: global batch (fewer where there are fewer samples).
        lanes, shuffle_block: as `Lanes`.
        repeats: copies of each sample in its batch.

    Raises:
        UserError: lanes that do not divide the batch.
    """
    labelled = dataset.good[dataset.label[dataset.good] >= 0]
    batch = min(batch, len(labelled) // repeats * repeats)
    if not batch:
        return None
    layout = Lanes(dataset.shard_number[labelled], dataset.shard_names, lanes, shuffle_block)
    order = epoch_order(dataset.key_hash[labelled], seed=0, epoch=0, batch=batch, repeats=repeats, lanes=layout)
    return Mixing(batch, *distinct_classes(np.asarray(dataset.label[labelled], np.int64), order))
