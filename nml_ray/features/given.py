"""Files of features that were made elsewhere: Arrow, Parquet, CSV and NumPy, as plain arrays."""

import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nml_ray.config.errors import UserError, nearest_name
from nml_ray.features.store import Features, from_table

KINDS = ".arrow, .feather, .parquet, .csv, .tsv, .npz or .npy"
_TABLES = (".arrow", ".feather", ".parquet", ".csv", ".tsv")


def read_given(path: Path) -> tuple[Features, NDArray[Any]]:
    """Features (labels all 0) and the labels as the file has them, numbers or names.

    A table has the columns label, features (a list a row, or one number) and best key too; a CSV has label, perhaps
    key, and a column a dimension. Of .npy files, features are mapped, not read.

    Raises:
        UserError: the file is absent, of another kind or cut short; lacks a column; rows do not fit each other; a key
            or label is missing; keys are not unique.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected=f"a file of features: {KINDS}")
    if path.suffix in (".npy", ".npz"):
        values, labels = _read_numpy(path)
        if not values.ndim:
            raise UserError("holds a single value", where=str(path), expected="one row of numbers a sample")
        found = Features([str(row) for row in range(len(values))], np.zeros(len(values), np.int64), values)
    elif path.suffix in _TABLES:
        found, labels = _from_table(_read_table(path), path)
    else:
        raise UserError(f"is a '{path.suffix}' file", where=str(path), expected=KINDS)
    _check(path, found, labels)
    return found, labels


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".csv", ".tsv"):
            return _with_list(_read_csv(path), path)
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot be read ({reason})", where=str(path), expected=f"a whole {path.suffix} file") from None


def _read_csv(path: Path) -> pa.Table:
    parse = pa.csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    # only what is empty is missing: "NA" and "null" may be names
    convert = pa.csv.ConvertOptions(column_types={"key": pa.string()}, strings_can_be_null=True, null_values=[""])
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _refuse_doubled(table: pa.Table, path: Path) -> None:
    doubled = [name for name, count in Counter(table.column_names).items() if count > 1]
    if doubled:
        raise UserError(f"has two columns {doubled[0]}", where=str(path), expected="every column once")


def _with_list(table: pa.Table, path: Path) -> pa.Table:
    """A CSV's columns of numbers as one column of lists."""
    _refuse_doubled(table, path)
    _require(table, "label", path)
    names = [name for name in table.column_names if name not in ("key", "label")]
    for name in names:
        kind = table[name].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise UserError(
                f"column {name} holds {kind} values", where=str(path), expected="label, perhaps key, and numbers"
            )
        if table[name].null_count:
            raise UserError(f"column {name} has empty places", where=str(path), expected="a number everywhere")
    if not names:
        raise UserError("has no columns of numbers", where=str(path), expected="a column a dimension, beside label")
    flat = np.stack([table[name].to_numpy().astype(np.float64) for name in names], axis=1).reshape(-1)
    return table.drop_columns(names).append_column("features", pa.FixedSizeListArray.from_arrays(flat, len(names)))


def _from_table(table: pa.Table, path: Path) -> tuple[Features, NDArray[Any]]:
    _refuse_doubled(table, path)
    for name in ("label", "features"):
        _require(table, name, path)
    for name in ("key", "label", "view"):
        if name in table.column_names and table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise UserError(f"row {row} has no {name}", where=str(path), expected=f"a {name} in every row")
    if "view" in table.column_names and not pa.types.is_integer(table["view"].type):
        raise UserError(f"views of type {table['view'].type}", where=str(path), expected="whole numbers from 0")
    if "view" in table.column_names:  # an export has them shard by shard
        table = table.take(pa.array(np.argsort(table["view"].to_numpy(), kind="stable")))
    if pa.types.is_dictionary(table["label"].type):
        table = _replaced(table, "label", pc.cast(table["label"], table["label"].type.value_type))
    labels = table["label"].to_numpy()
    if "key" in table.column_names:
        table = _replaced(table, "key", pa.array([str(key) for key in table["key"].to_pylist()], pa.string()))
    table = _replaced(table, "label", pa.array(np.zeros(len(table), np.int64)))
    found = from_table(table, str(path))
    return found, labels[: len(found)]


def _require(table: pa.Table, name: str, path: Path) -> None:
    if name not in table.column_names:
        raise UserError(
            f"lacks the column {name}",
            where=str(path),
            expected="columns label and features, and best key too",
            nearest=nearest_name(name, table.column_names),
        )


def _replaced(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _read_numpy(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return content["features"], content["labels"]
        labels = path.with_suffix(".labels.npy")
        return np.load(path, mmap_mode="r", allow_pickle=False), np.load(labels, allow_pickle=False)
    except KeyError as error:
        raise UserError(f"lacks an array ({error})", where=str(path), expected="arrays features and labels") from None
    except FileNotFoundError as error:
        raise UserError("has no labels", where=str(path), expected=f"its labels in {error.filename}") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot be read ({error})", where=str(path), expected="a whole file of plain numbers"
        ) from None


def _check(path: Path, found: Features, labels: NDArray[Any]) -> None:
    values = found.values
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        said = f"features of shape {list(values.shape)} and type {values.dtype}"
        raise UserError(said, where=str(path), expected="one row of numbers a sample, at least one sample")
    if labels.ndim != 1 or len(labels) != len(values):
        said = f"{len(labels)} labels" if labels.ndim == 1 else f"labels of shape {list(labels.shape)}"
        raise UserError(said, where=str(path), expected=f"{len(values)}, one a row of features")
    if len(set(found.keys)) < len(found.keys):
        twice = Counter(found.keys).most_common(1)[0][0]
        raise UserError(f"key {twice} occurs more than once", where=str(path), expected="unique keys")
