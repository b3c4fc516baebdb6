"""Which families share drawings: near-duplicates found in the rendered images themselves."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
ALIKE = 0.97
"""Correlation of two normalised images from which they count as one drawing."""

SHARE = 0.12
"""Share of the smaller family's common drawings from which two families count as related."""

LEAST = 3
"""Fewest common drawings that relate two families."""


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image as a unit vector [256]: ink cropped to its box, scaled to 16 x 16, mean removed.

    Margins and small differences of scale, which forks introduce, drop out.
    """
    ink = 255 - pixels
    rows, columns = np.flatnonzero(ink.max(axis=1) > 32), np.flatnonzero(ink.max(axis=0) > 32)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    small = Image.fromarray(ink).resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    vector = np.asarray(small, dtype=np.float32).reshape(-1)
    vector = vector - vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def shared_drawings(
    vectors: NDArray[np.float32], labels: Sequence[str], families: Sequence[str], alike: float = ALIKE
) -> dict[tuple[str, str], int]:
    """Number of drawings that each pair of families (sorted) has in common, comparing within classes.

    :param vectors: unit vectors [images, 256] of `normalised`.
    """
    of_class: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        of_class[label].append(place)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for places in of_class.values():
        part = vectors[places]
        firsts, seconds = np.nonzero(np.triu(part @ part.T >= alike, 1))
        names = [families[place] for place in places]
        drawings = defaultdict(set)
        for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
            a, b = names[first], names[second]
            if a != b:
                (a, first), (b, second) = sorted([(a, first), (b, second)])
                drawings[a, b].add((first, second))
        for pair, found in drawings.items():
            shared[pair] += min(len({first for first, _ in found}), len({second for _, second in found}))
    return dict(shared)


def alike_families(
    vectors: NDArray[np.float32], labels: Sequence[str], families: Sequence[str]
) -> list[tuple[str, str, float]]:
    """Pairs of families that share drawings, with the share of the smaller one's, the most alike first."""
    sizes: dict[str, int] = defaultdict(int)
    for family in families:
        sizes[family] += 1
    found = []
    for (a, b), count in shared_drawings(vectors, labels, families).items():
        share = count / min(sizes[a], sizes[b])
        if share >= SHARE and count >= LEAST:
            found.append((a, b, share))
    return sorted(found, key=lambda entry: (-entry[2], entry))
