"""What is in a data set, counted from its indices and a look at some images."""

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import draw
from nml_ray.data.index import IMAGE_EXTENSIONS
from nml_ray.data.mixing import Mixing, mixing_of
from nml_ray.data.reader import ShardReader


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some numbers."""

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Summary:
    """What is in a data set.

    Attributes:
        samples: in all, and those of them that are excluded as known bad.
        known_bad: the excluded.
        labelled: good samples with a label.
        class_sizes: good samples of each class, int64[K].
        captions: good samples with a caption.
        caption_words: words of those captions.
        formats: samples by extension.
        image_bytes: encoded sizes.
        looked_at: how many images `sides` and `modes` are from.
        sides: width, height and short side in pixels.
        modes: PIL's modes (RGB, L, ...).
        shards: tars.
        shard_samples, shard_bytes: of a tar.
        mixing: None without labels.
    """

    samples: int
    known_bad: int
    labelled: int
    class_sizes: NDArray[np.int64]
    captions: int
    caption_words: Spread | None
    formats: dict[str, int]
    image_bytes: Spread
    looked_at: int
    sides: dict[str, Spread]
    modes: dict[str, int]
    shards: int
    shard_samples: Spread
    shard_bytes: Spread
    mixing: Mixing | None


def summarise(
    dataset: Dataset, batch: int = 256, lanes: int | None = None, shuffle_block: int = 4096, look: int = 256
) -> Summary:
    """Count what is in a data set.

    Args:
        dataset: an opened data set.
        batch: global batch for which mixing is told (fewer where there are fewer samples).
        lanes, shuffle_block: as `Lanes`, for mixing.
        look: images whose headers are read, drawn by key.

    Raises:
        UserError: lanes that do not divide the batch; a label that is none of the classes.
    """
    good = dataset.good
    labels = dataset.label[good]
    if len(labels) and labels.max() >= len(dataset.classes):
        raise UserError(
            f"label {labels.max()} of {len(dataset.classes)} classes",
            where=str(dataset.directory),
            expected="a sound data set; see `nml-ray data verify`",
        )
    words = _caption_words(dataset)
    codes = np.bincount(dataset.image_extension[good], minlength=len(IMAGE_EXTENSIONS) + 1)
    sides, modes = _pixels(dataset, look)
    return Summary(
        samples=len(dataset),
        known_bad=len(dataset) - len(good),
        labelled=int((labels >= 0).sum()),
        class_sizes=np.bincount(labels[labels >= 0], minlength=len(dataset.classes)),
        captions=len(words),
        caption_words=_spread(words) if len(words) else None,
        formats={name: int(count) for name, count in zip((*IMAGE_EXTENSIONS, "other"), codes, strict=True) if count},
        image_bytes=_spread(dataset.image_size[good]),
        looked_at=sum(modes.values()),
        sides=sides,
        modes=modes,
        shards=len(dataset.info.shards),
        shard_samples=_spread(np.array([shard.samples for shard in dataset.info.shards])),
        shard_bytes=_spread(np.array([shard.bytes for shard in dataset.info.shards])),
        mixing=mixing_of(dataset, batch, lanes, shuffle_block),
    )


def _caption_words(dataset: Dataset) -> NDArray[np.int64]:
    """Words of each caption of the good samples."""
    counts = []
    for shard, table in enumerate(dataset.tables):
        first = int(np.searchsorted(dataset.shard_number, shard))
        captions = table["caption"].take(pa.array(dataset.shard_samples(shard) - first)).drop_null()
        split = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions))
        counts.append(pc.list_value_length(split).to_numpy())
    return np.concatenate(counts).astype(np.int64)


def _pixels(dataset: Dataset, look: int) -> tuple[dict[str, Spread], dict[str, int]]:
    """Sizes and modes by the headers of some images; what cannot be opened is counted as unreadable."""
    reader, sizes, modes = ShardReader(dataset, whole=False), [], Counter[str]()
    for data in reader.read_some(some(dataset, look).tolist()):
        try:
            with Image.open(io.BytesIO(data)) as image:
                sizes.append(image.size)
                modes[image.mode] += 1
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            modes["unreadable"] += 1
    if not sizes:
        return {}, dict(modes)
    array = np.array(sizes)
    sides = {"width": array[:, 0], "height": array[:, 1], "short side": array.min(axis=1)}
    return {name: _spread(values) for name, values in sides.items()}, dict(modes.most_common())


def some(dataset: Dataset, count: int) -> NDArray[np.int64]:
    """Some good samples, the same every time, in tar order."""
    draws = draw("look", 0, dataset.key_hash[dataset.good])
    return np.sort(dataset.good[np.argsort(draws)[:count]])


def _spread(values: NDArray[np.integer]) -> Spread:
    if not len(values):
        return Spread(0, 0, 0)
    return Spread(float(values.min()), float(np.median(values)), float(values.max()))
