"""Small made-up features, laid out as the extract stage leaves them."""

from collections.abc import Sequence

import numpy as np

from nml_ray.features.store import feature_path, write_shard
from nml_ray.features.sums import Sums
from nml_ray.storage.artifact import Artifact, Store

DIM, CLASSES = 10, 4


def features_artifact(
    store: Store, digest: str, splits: Sequence[str] = ("train", "validation", "test", "ood"), rows: int = 96
) -> Artifact:
    """Features around class centres in two shards a split; the digest decides the centres."""
    attempt = store.attempt("extract", digest)
    generator = np.random.default_rng(sum(digest.encode()))
    centres = generator.normal(size=(CLASSES, DIM))
    for split in splits:
        for number in range(2):
            shard = f"shard-{number:06d}"
            labels = generator.integers(0, CLASSES, rows // 2)
            values = (centres[labels] + 0.4 * generator.normal(size=(rows // 2, DIM))).astype(np.float32)
            keys = [f"{split}/{number}/{row}" for row in range(rows // 2)]
            write_shard(feature_path(attempt.path, split, shard), keys, labels, values)
            sums = Sums(DIM)
            sums.add(values)
            sums.save(attempt.path / split / f"{shard}.sums.npz")
    return attempt.finish()
