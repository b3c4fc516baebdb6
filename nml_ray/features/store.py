"""Features on storage: one Arrow IPC file per shard, uncompressed, memory-mapped on reading.

    <split>/<shard>.features.arrow     key: string, label: int64, features: fixed_size_list<float16|float32>[D]

Where samples have several views there is a column view: int16 too, and all rows of view 0 come before those of view 1.
Samples that were left out are in the schema's metadata, with the reason. A file is written aside and renamed: it is
whole or absent.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import aside_of

DType = Literal["float32", "float16"]
SUFFIX = ".features.arrow"
_SKIPPED = b"nml_ray.skipped"


@dataclass(frozen=True)
class Features:
    """Rows of one split, in the order of their shards: `keys` N strings, `labels` int64 [N], `values` [N, D].

    `values` is float16 or float32 as stored; of a split with one shard it is the mapped file itself, read-only. `views`
    is [V, N, D] where samples have several, of which `values` is the first.
    """

    keys: Sequence[str]
    labels: NDArray[np.int64]
    values: NDArray[Any]
    views: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def feature_path(directory: Path, split: str, shard: str) -> Path:
    """Where the features of a shard lie; `shard` is the tar's base name without ".tar"."""
    return directory / split / f"{shard}{SUFFIX}"


def write_shard(
    path: Path,
    keys: Sequence[str],
    labels: NDArray[np.int64],
    values: NDArray[np.floating],
    dtype: DType = "float32",
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write features [N, D], or several views of them [V, N, D], with their keys and labels.

    `skipped` are the keys of samples without a row, with the reasons.

    Raises:
        UserError: a value is not finite, or overflows float16.
    """
    views, dim = (len(values) if values.ndim == 3 else 1), values.shape[-1]
    stored = as_stored(values.reshape(views * len(keys), dim), dtype, str(path))
    rows = len(stored)
    flat = pa.array(stored.reshape(-1))
    columns = {
        "key": pa.array([*keys] * views, pa.string()),
        "label": pa.array(np.tile(labels, views), pa.int64()),
        **({"view": pa.array(np.repeat(np.arange(views), len(keys)), pa.int16())} if views > 1 else {}),
        "features": pa.FixedSizeListArray.from_arrays(flat, dim) if rows else pa.array([], pa.list_(flat.type, dim)),
    }
    table = pa.table(columns)
    if skipped:
        table = table.replace_schema_metadata({_SKIPPED: json.dumps(skipped)})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(rows, 1))
    os.replace(aside, path)


def as_stored(values: NDArray[np.floating], dtype: DType, where: str) -> NDArray[Any]:
    """The values in the type they are stored in, contiguous. Raises `UserError` where they do not fit it."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=dtype)
    if _all_finite(stored):
        return stored
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise UserError(
            f"{bad} of {len(values)} rows of features hold NaN or infinity",
            where=where,
            expected="finite features; are the encoder's weights sound?",
        )
    mend = "values up to 65504; set extract.dtype: float32" if dtype == "float16" else f"values that {dtype} holds"
    raise UserError(f"features reach {np.abs(values).max():.4g}, which overflows {dtype}", where=where, expected=mend)


def _all_finite(stored: NDArray[Any]) -> bool:
    """Of float16 by the exponent's bits: numpy takes five times as long, and most of the time of a write."""
    if stored.dtype == np.float16:
        return bool(((stored.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(stored).all())


def read_shard(path: Path) -> Features:
    """The features of one shard, memory-mapped. Raises `UserError` where the file is absent or cut short."""
    return from_table(read_table(path), str(path))


def read_table(path: Path) -> pa.Table:
    """A shard's columns as they lie, memory-mapped. Raises `UserError` as `read_shard`."""
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), expected="the features of a shard") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected="a whole Arrow IPC file") from None


def skipped_of(table: pa.Table) -> dict[str, str]:
    """Samples of a shard that have no row, with the reasons."""
    return json.loads((table.schema.metadata or {}).get(_SKIPPED, b"{}"))


def from_table(table: pa.Table, where: str) -> Features:
    """Features from a table with the columns key, label and features (fixed-size lists, or lists of one length).

    Raises:
        UserError: a column is missing, or rows do not fit each other.
    """
    if missing := [name for name in ("label", "features") if name not in table.column_names]:
        raise UserError(
            f"lacks the column {missing[0]}", where=where, expected="columns label and features, and best key too"
        )
    table = table.combine_chunks()
    keys = table["key"].to_pylist() if "key" in table.column_names else [str(row) for row in range(len(table))]
    labels = table["label"].to_numpy().astype(np.int64, copy=False)
    values = _matrix(table["features"], where)
    if (views := _views(table, where)) == 1:
        return Features(keys, labels, values)
    stacked = values.reshape(views, -1, values.shape[1])
    return Features(keys[: stacked.shape[1]], labels[: stacked.shape[1]], stacked[0], stacked)


def _views(table: pa.Table, where: str) -> int:
    """How many views each sample has, all rows of one before those of the next."""
    if "view" not in table.column_names or not len(table):
        return 1
    found = table["view"].to_numpy()
    count = int(found.max()) + 1
    each = len(found) // count if count > 0 else 0
    whole = each * count == len(found) and np.array_equal(found, np.repeat(np.arange(count), each))
    keys = table["key"].to_pylist() if "key" in table.column_names else []
    if not whole or keys != keys[:each] * count:
        raise UserError("rows of several views", where=where, expected="one a sample and view, view 0 of all first")
    return count


def _matrix(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    scalar = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)  # one number a row
    if not scalar and not _holds_numbers(column.type):
        raise UserError(f"features of type {column.type}", where=where, expected="lists of numbers")
    if not len(column):
        dim = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 0
        return np.zeros((0, dim), np.float32 if scalar else column.type.value_type.to_pandas_dtype())
    array = column.chunk(0)
    if scalar and not column.null_count:
        array = pa.FixedSizeListArray.from_arrays(array, 1)
    if column.null_count or array.flatten().null_count:
        raise UserError("features hold empty places", where=where, expected="a number everywhere")
    flat = array.flatten().to_numpy(zero_copy_only=False)
    if len(flat) % len(array) or not _one_length(array):
        raise UserError("rows of features differ in length", where=where, expected="lists of one length")
    return flat.reshape(len(array), len(flat) // len(array))


def _holds_numbers(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _one_length(array: pa.Array) -> bool:
    if pa.types.is_fixed_size_list(array.type):
        return True
    return len(np.unique(array.value_lengths().to_numpy())) == 1


def read_split(directory: Path, split: str) -> Features:
    """All features of a split, its shards in the order of their names.

    Raises:
        UserError: there are none, a file is cut short, or shards differ in width.
    """
    paths = sorted((directory / split).glob(f"*{SUFFIX}"))
    if not paths:
        there = sorted({path.parent.name for path in directory.glob(f"*/*{SUFFIX}")})
        raise UserError(
            f"no features of split {split}", where=str(directory), expected=", ".join(there) or "extracted features"
        )
    shards = [read_shard(path) for path in paths]
    if len(shards) == 1:
        return shards[0]
    widths = {shard.values.shape[1] for shard in shards}
    if len(widths) > 1:
        raise UserError(f"features {sorted(widths)} wide", where=str(directory / split), expected="one width")
    keys = [key for shard in shards for key in shard.keys]
    labels = np.concatenate([shard.labels for shard in shards])
    if all(shard.views is None for shard in shards):
        return Features(keys, labels, np.concatenate([shard.values for shard in shards]))
    counts = {1 if shard.views is None else len(shard.views) for shard in shards if len(shard)}
    if len(counts) > 1:
        raise UserError(f"{sorted(counts)} views a sample", where=str(directory / split), expected="as many everywhere")
    views = np.concatenate([shard.views for shard in shards if shard.views is not None], axis=1)
    return Features(keys, labels, views[0], views)


def verify_shard(path: Path, keys: Sequence[str], views: int = 1) -> dict[str, str]:
    """Check that a features file holds exactly one row a view for each of a shard's good samples, in their order.

    Returns:
        Samples that were left out, which have none, with the reasons.

    Raises:
        UserError: rows are missing, doubled or of other samples; another number of views.
    """
    table = read_table(path)
    skipped, stored = skipped_of(table), table["key"].to_pylist()
    if len(stored) and (there := _views(table, str(path))) != views:
        raise UserError(f"{there} view(s) of each sample", where=str(path), expected=f"{views}")
    stored = stored[: len(stored) // views] + sorted(skipped.keys() - set(keys))
    expected = [key for key in keys if key not in skipped]
    if stored == expected:
        return skipped
    missing, foreign = sorted(set(expected) - set(stored)), sorted(set(stored) - set(expected))
    twice = len(stored) - len(set(stored))
    found = [
        f"{len(missing)} samples without a row (first: {missing[0]})" if missing else "",
        f"{len(foreign)} rows of other samples (first: {foreign[0]})" if foreign else "",
        f"{twice} rows too many of samples already there" if twice else "",
    ]
    raise UserError(
        "; ".join(part for part in found if part) or "rows in another order",
        where=str(path),
        expected=f"one row for each of the shard's {len(expected)} samples",
    )
