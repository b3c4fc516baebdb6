"""Features that were made elsewhere, brought into the form that extraction leaves."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.features.store import DType, Features, as_stored, feature_path, from_table, write_shard
from nml_ray.features.sums import Sums

SHARD = "given"
_ADD_ROWS = 4096  # rows summed at a time
_KINDS = ".arrow, .feather, .parquet, .npz or .npy"


def import_features(
    paths: Mapping[str, str | Path],
    directory: Path,
    dtype: DType = "float32",
    transforms: Iterable[str] = ("raw", "official"),
) -> dict[str, Any]:
    """Copy the features of each split into `directory` as one shard with its sums; return what `features.json` says.

    Labels are whole numbers from 0, or names: these are numbered in the order of the sorted names of all splits.

    Raises:
        UserError: a file is absent, of another kind, cut short, holds NaN, doubled keys or labels that do not fit.
    """
    loaded = {split: read_given(Path(path)) for split, path in paths.items()}
    _check_widths({split: (str(paths[split]), features) for split, (features, _) in loaded.items()})
    numbers = _numbered({split: labels for split, (_, labels) in loaded.items()}, paths)
    names = tuple(transforms)
    for split, (features, _) in loaded.items():
        values = as_stored(features.values, dtype, str(paths[split]))
        write_shard(feature_path(directory, split, SHARD), features.keys, numbers[split], values, dtype)
        sums = Sums(values.shape[1], names)
        for start in range(0, len(values), _ADD_ROWS):
            sums.add(values[start : start + _ADD_ROWS])
        sums.save(directory / split / f"{SHARD}.sums.npz")
    samples = {split: len(features) for split, (features, _) in loaded.items()}
    dim = next(iter(loaded.values()))[0].values.shape[1]
    return {"samples": samples, "dim": dim, "dtype": dtype, "transforms": list(names)}


def read_given(path: Path) -> tuple[Features, NDArray[Any]]:
    """Features (labels all 0) and the labels as the file has them, numbers or names.

    Raises:
        UserError: the file is absent or of another kind, lacks a column, or its keys are not unique.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), expected=f"a file of features: {_KINDS}")
    if path.suffix in (".npy", ".npz"):
        values, labels = _read_numpy(path)
        keys: list[str] = [str(row) for row in range(len(values))]
    else:
        table = _read_table(path)
        if "label" not in table.column_names:
            raise UserError("lacks the column label", where=str(path), expected="columns label and features")
        labels = table["label"].to_numpy()
        zeros = pa.array(np.zeros(len(table), np.int64))
        features = from_table(table.set_column(table.column_names.index("label"), "label", zeros), str(path))
        keys, values = list(features.keys), features.values
    _check(path, keys, labels, values)
    return Features(keys, np.zeros(len(keys), np.int64), values), labels


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".arrow", ".feather"):
            with pa.memory_map(str(path)) as file:
                return pa.ipc.open_file(file).read_all()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"cannot be read ({error})", where=str(path), expected="a whole Arrow or Parquet file"
        ) from None
    raise UserError(f"is a '{path.suffix}' file", where=str(path), expected=_KINDS)


def _read_numpy(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        content = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            return content["features"], content["labels"]
        return content, np.load(path.with_suffix(".labels.npy"), allow_pickle=False)
    except KeyError as error:
        raise UserError(f"lacks an array ({error})", where=str(path), expected="arrays features and labels") from None
    except FileNotFoundError as error:
        raise UserError("has no labels", where=str(path), expected=f"its labels in {error.filename}") from None
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected="plain numbers") from None


def _check(path: Path, keys: list[str], labels: NDArray[Any], values: NDArray[Any]) -> None:
    if values.ndim != 2 or values.dtype.kind != "f" or not len(values):
        found = f"features of shape {list(values.shape)} and type {values.dtype}"
        raise UserError(found, where=str(path), expected="one row of decimal numbers a sample, at least one sample")
    if len(labels) != len(values) or labels.ndim != 1:
        raise UserError(f"{len(labels)} labels", where=str(path), expected=f"{len(values)}, one a row of features")
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise UserError(f"key {twice} occurs more than once", where=str(path), expected="unique keys")


def _check_widths(splits: Mapping[str, tuple[str, Features]]) -> None:
    (first, reference), *others = splits.values()
    for path, features in others:
        if features.values.shape[1] != reference.values.shape[1]:
            raise UserError(
                f"features of width {features.values.shape[1]}",
                where=path,
                expected=f"{reference.values.shape[1]}, as in {first}",
            )


def _numbered(labels: Mapping[str, NDArray[Any]], paths: Mapping[str, str | Path]) -> dict[str, NDArray[np.int64]]:
    if all(values.dtype.kind in "iu" for values in labels.values()):
        for split, values in labels.items():
            if values.min() < 0:
                raise UserError(f"label {values.min()}", where=str(paths[split]), expected="labels from 0")
        return {split: values.astype(np.int64) for split, values in labels.items()}
    for split, values in labels.items():
        if values.dtype.kind not in "OU" or not all(isinstance(value, str) for value in values):
            raise UserError(
                f"labels of type {values.dtype}", where=str(paths[split]), expected="whole numbers or names, all alike"
            )
    names = np.array(sorted({str(name) for values in labels.values() for name in values}))
    return {split: np.searchsorted(names, values.astype(str)).astype(np.int64) for split, values in labels.items()}
