"""Extracted features for other programs: one Parquet file a split, or NumPy arrays. A shard at a time."""

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nml_ray.config.errors import UserError
from nml_ray.features.store import SUFFIX, from_table, read_shard, read_table
from nml_ray.storage.atomic import sync_tree

Kind = Literal["parquet", "npy"]


def export_features(directory: Path, target: Path, kind: Kind, splits: Sequence[str] = ()) -> dict[str, int]:
    """Write the features of a directory as <split>.parquet, or as <split>.npy with .labels.npy and .keys.npy.

    Parquet has the columns key, label and features (view, where samples have several; rows by shard, view and sample)
    and a row group a shard. Arrays are float16 or float32 as stored: [N, D], or [V, N, D]; labels int64[N], keys U[N].

    Args:
        directory: holds <split>/*.features.arrow.
        target: a new directory, which appears when all of it is written.
        kind: of the files.
        splits: all when empty.

    Returns:
        Samples by split.

    Raises:
        UserError: no such features, a file is cut short, or `target` is there already.
    """
    shards = shards_by_split(directory)
    for split in splits:
        if split not in shards:
            raise UserError(f"no features of split {split}", where=str(directory), expected=", ".join(shards))
    with new_directory(target) as aside:
        chosen = splits or list(shards)
        return {split: _WRITERS[kind](aside, split, shards[split]) for split in chosen}


def shards_by_split(directory: Path) -> Mapping[str, list[Path]]:
    """The feature files of every split, in the order of their names. Raises `UserError` where there are none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.glob(f"*/*{SUFFIX}")):
        found.setdefault(path.parent.name, []).append(path)
    if not found:
        raise UserError("holds no features", where=str(directory), expected=f"<split>/*{SUFFIX}")
    return found


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A hidden directory beside `target` to write to; it takes that name when the block ends, or is removed.

    Raises:
        UserError: `target` exists, or cannot be made.
    """
    if target.exists():
        raise UserError("is there already", where=str(target), expected="a name that is free")
    target = target.absolute()
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", where=str(target), expected="a place to write") from None
    try:
        yield aside
        sync_tree(aside)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _to_parquet(target: Path, split: str, paths: Sequence[Path]) -> int:
    schema = read_table(paths[0]).schema.remove_metadata()
    rows = 0
    with pq.ParquetWriter(target / f"{split}.parquet", schema) as writer:
        for path in paths:
            table = read_table(path).replace_schema_metadata(None)
            _same_columns(table.schema, schema, path)
            if len(table):
                rows += len(from_table(table, str(path)))
                writer.write_table(table, row_group_size=len(table))
    return rows


def _same_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    if found != expected:
        raise UserError(
            f"columns {', '.join(f'{one.name}: {one.type}' for one in found)}",
            where=str(path),
            expected=", ".join(f"{one.name}: {one.type}" for one in expected) + ", as in the other shards",
        )


def _to_numpy(target: Path, split: str, paths: Sequence[Path]) -> int:
    """Twice over the shards: their sizes first, then their values into mapped files."""
    schema = read_table(paths[0]).schema.remove_metadata()
    sizes, views, longest = [], 1, 1
    for path in paths:
        _same_columns(read_table(path).schema.remove_metadata(), schema, path)
        shard = read_shard(path)
        sizes.append(len(shard))
        views = max(views, 1 if shard.views is None else len(shard.views))
        longest = max([longest, *map(len, shard.keys)])
    count, dim, leading = sum(sizes), shard.values.shape[1], ((views,) if views > 1 else ())

    def room(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.lib.format.open_memmap(target / f"{split}{name}.npy", mode="w+", dtype=dtype, shape=shape)

    values = room("", (*leading, count, dim), shard.values.dtype)
    labels, keys = room(".labels", (count,), np.int64), room(".keys", (count,), f"U{longest}")
    start = 0
    for path, size in zip(paths, sizes, strict=True):
        shard, rows = read_shard(path), slice(start, start + size)
        values[..., rows, :] = shard.values if shard.views is None else shard.views
        labels[rows], keys[rows] = shard.labels, shard.keys
        start += size
    return count


_WRITERS: Mapping[str, Callable[[Path, str, Sequence[Path]], int]] = {"parquet": _to_parquet, "npy": _to_numpy}
