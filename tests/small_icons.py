"""A cut of the real icons that keeps every split, as a user's own shards."""

import json
from pathlib import Path

from nml_ray.data.icons import source
from nml_ray.data.shards import write_shards
from nml_ray.study.stages.shards import samples

SIZES = {"pretrain": 512, "train": 160, "validation": 80, "test": 80, "ood": 60}


def small_icons(root: Path) -> str:
    """Write the cut below `root`; returns the `--set` that makes a job use it."""
    for split, size in SIZES.items():
        every = list(samples(split))
        cut = every[:: len(every) // size][:size]
        write_shards(cut, root / split, samples_per_shard=40, classes=source.classes(split))
    return "data=" + json.dumps({"shards": {split: str(root / split) for split in SIZES}})
