"""Samples in, a data set of WebDataset tars out: the same samples give the same bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.aside import replacing
from nml_ray.data.dataset_info import DatasetInfo
from nml_ray.data.draw import Draws, draw, key_hashes
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
    until written (give paths for large images; `write_listing` is for large sets). Each tar appears whole.

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
    order = shuffled(key_hashes(s.key for s in todo), seed)
    names = []
    for start in range(0, len(todo), samples_per_shard):
        path = directory / SHARD_NAME.format(start // samples_per_shard)
        members = [todo[i] for i in order[start : start + samples_per_shard]]
        write_tar(path, ((sample.key, _members(sample)) for sample in members))
        write_index(index_tar(path, IndexOptions(tuple(classes) or None)), index_path(path))
        names.append(path.name)
        if progress:
            progress(start + len(members), len(todo))
    if not names:
        raise UserError("no samples to write", where=str(directory), expected="at least one")
    return write_info(directory, names, classes, source, licence)


def shuffled(hashes: Draws, seed: int) -> NDArray[np.int64]:
    """The order in which samples are written: by draw(`write`, seed, key), whatever order they come in."""
    return np.lexsort((hashes, draw("write", seed, hashes))).astype(np.int64, copy=False)


def write_tar(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write one tar, which appears whole: of each sample (key, bytes by extension) the members by extension."""
    from webdataset import TarWriter  # it imports torch: only where tars are written

    with replacing(path) as temporary, open(temporary, "wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for key, members in samples:
            tar.write({"__key__": key, **members})


def check_key(key: str, where: str) -> None:
    """Refuses a key that would not come out of a tar as it went in.

    Raises:
        UserError: naming `where`.
    """
    if split_name(f"{key}.x") != (key, "x") or "\0" in key or key.startswith("/"):
        raise UserError(f"key '{key}' cannot name a tar member", where=where, expected="no dot after the last '/'")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UserError(f"key {key!r} is not UTF-8", where=where, expected="names in UTF-8") from None


def _members(sample: Sample) -> dict[str, bytes]:
    image = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
    return {sample.extension: image, **annotations(sample.label, sample.caption)}


def annotations(label: int | None, caption: str | None) -> dict[str, bytes]:
    """The members beside an image: `cls` and `txt`, each where there is one."""
    members: dict[str, bytes] = {}
    if label is not None:
        members["cls"] = str(label).encode()
    if caption is not None:
        members["txt"] = caption.encode()
    return members


def _check(sample: Sample, classes: int) -> None:
    where = f"sample '{sample.key}'"
    check_key(sample.key, where)
    if sample.extension not in IMAGE_EXTENSIONS:
        raise UserError(f"extension '{sample.extension}'", where=where, expected=", ".join(IMAGE_EXTENSIONS))
    if sample.label is not None and not 0 <= sample.label < classes:
        raise UserError(
            f"label {sample.label}", where=where, expected=f"0 to {classes - 1}, one for each of the classes"
        )
