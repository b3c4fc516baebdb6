"""Samples in, a data set of WebDataset tars out: the same samples give the same bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nml_ray.config.errors import UserError
from nml_ray.data.aside import replacing
from nml_ray.data.dataset_info import DatasetInfo
from nml_ray.data.draw import draw, key_hashes
from nml_ray.data.index import IMAGE_EXTENSIONS, IndexOptions, index_path, index_tar, split_name, write_index
from nml_ray.data.indexing import Progress, write_info

SHARD_NAME = "shard-{:06d}.tar"


@dataclass(frozen=True)
class Sample:
    """One sample to be written: `image` is encoded bytes, or the file that holds them, read when it is written."""

    key: str
    image: bytes | Path
    extension: str
    label: int | None = None
    caption: str | None = None


def write_shards(
    samples: Iterable[Sample],
    directory: "Path | str",
    *,
    samples_per_shard: int,
    classes: Sequence[str] = (),
    source: str = "",
    licence: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Write shuffled tars, their indices and dataset.json. Members: image, `.cls` (label), `.txt` (caption).

    Samples are shuffled by draw(`write`, seed, key), so shards are never sorted by class; they are held in memory
    until written (give paths for large images). Each tar appears whole.

    Args:
        samples: in any order; keys unique.
        directory: made if need be.
        samples_per_shard: the last shard may hold fewer.
        classes: class names in label order.
        source, licence: kept in dataset.json.
        seed: of the shuffle.
        progress: called with (samples done, samples in all).

    Raises:
        UserError: a key that does not survive a tar, a duplicate, a label out of range, an unknown extension.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    todo = list(samples)
    for sample in todo:
        _check(sample, len(classes))
    order = np.lexsort((key_hashes(s.key for s in todo), draw("write", seed, key_hashes(s.key for s in todo))))
    names = []
    for start in range(0, len(todo), samples_per_shard):
        path = directory / SHARD_NAME.format(start // samples_per_shard)
        members = [todo[i] for i in order[start : start + samples_per_shard]]
        _write_tar(path, members)
        write_index(index_tar(path, IndexOptions(tuple(classes) or None)), index_path(path))
        names.append(path.name)
        if progress:
            progress(start + len(members), len(todo))
    if not names:
        raise UserError("no samples to write", where=str(directory), expected="at least one")
    return write_info(directory, names, classes, source, licence)


def _write_tar(path: Path, samples: Sequence[Sample]) -> None:
    from webdataset import TarWriter

    with replacing(path) as temporary, open(temporary, "wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(_members(sample))


def _members(sample: Sample) -> dict[str, Any]:
    image = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
    members: dict[str, Any] = {"__key__": sample.key, sample.extension: image}
    if sample.label is not None:
        members["cls"] = str(sample.label).encode()
    if sample.caption is not None:
        members["txt"] = sample.caption.encode()
    return members


def _check(sample: Sample, classes: int) -> None:
    where = f"sample '{sample.key}'"
    if split_name(f"{sample.key}.x") != (sample.key, "x") or "\0" in sample.key or sample.key.startswith("/"):
        raise UserError("its key cannot name a tar member", where=where, expected="no dot after the last '/'")
    if sample.extension not in IMAGE_EXTENSIONS:
        raise UserError(f"extension '{sample.extension}'", where=where, expected=", ".join(IMAGE_EXTENSIONS))
    if sample.label is not None and not 0 <= sample.label < classes:
        raise UserError(
            f"label {sample.label}", where=where, expected=f"0 to {classes - 1}, one for each of the classes"
        )
