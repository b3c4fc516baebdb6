"""Features that were made elsewhere, brought into the form that extraction leaves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.features.given import read_given
from nml_ray.features.leak import UNTESTED, refuse_shared
from nml_ray.features.store import DType, as_stored, feature_path, write_shard
from nml_ray.features.sums import Sums

SHARD = "given"
_ADD_ROWS = 4096  # rows summed at a time


@dataclass(frozen=True)
class _Split:
    """What is kept of a split while the others are looked at."""

    path: str
    labels: NDArray[Any]
    dim: int
    keys: frozenset[str]
    """Of files that have keys; those without are numbered, which says nothing of the samples."""


def import_features(
    paths: Mapping[str, str | Path],
    directory: Path,
    dtype: DType = "float32",
    transforms: Iterable[str] = ("raw", "official"),
) -> dict[str, Any]:
    """Copy the features of each split into `directory` as one shard with its sums; return what `features.json` says.

    Labels are whole numbers from 0, or names: these are numbered in the order of the sorted names of all splits. Files
    are read twice, so that one split is in memory at a time (of .npy and Arrow files, what is looked at).

    Raises:
        UserError: see `read_given`; NaN or infinity, a value that `dtype` cannot hold; widths, labels or classes of
            two splits that do not fit; rows of train, key and values, in a test set.
    """
    splits = {split: _look(Path(path)) for split, path in paths.items()}
    _check_widths(splits)
    _check_classes(splits)
    _refuse_leaks(splits)
    numbers, names = _numbered(splits), tuple(transforms)
    for split, path in paths.items():
        features, _ = read_given(Path(path))
        views = features.values if features.views is None else features.views
        values = as_stored(views.reshape(-1, views.shape[-1]), dtype, str(path)).reshape(views.shape)
        write_shard(feature_path(directory, split, SHARD), features.keys, numbers[split], values, dtype)
        first = values if values.ndim == 2 else values[0]
        sums = Sums(splits[split].dim, names)
        for start in range(0, len(first), _ADD_ROWS):
            sums.add(first[start : start + _ADD_ROWS])
        sums.save(directory / split / f"{SHARD}.sums.npz")
    samples = {split: len(one.labels) for split, one in splits.items()}
    dim = next(iter(splits.values())).dim
    return {"samples": samples, "dim": dim, "dtype": dtype, "transforms": list(names)}


def _look(path: Path) -> _Split:
    features, labels = read_given(path)
    numbered = all(key == str(row) for row, key in enumerate(features.keys))
    keys = frozenset() if numbered else frozenset(features.keys)
    return _Split(str(path), np.array(labels), int(features.values.shape[-1]), keys)


def _refuse_leaks(splits: Mapping[str, _Split]) -> None:
    for split, one in splits.items():
        if split not in UNTESTED and "train" in splits and (keys := splits["train"].keys & one.keys):
            ours, theirs = _rows(splits["train"].path, keys), _rows(one.path, keys)
            refuse_shared([key for key in keys if np.array_equal(ours[key], theirs[key])], one.path)


def _rows(path: str, keys: frozenset[str]) -> dict[str, NDArray[Any]]:
    features, _ = read_given(Path(path))
    return {key: features.values[row] for row, key in enumerate(features.keys) if key in keys}


def _check_widths(splits: Mapping[str, _Split]) -> None:
    first, *others = splits.values()
    for one in others:
        if one.dim != first.dim:
            raise UserError(f"features of width {one.dim}", where=one.path, expected=f"{first.dim}, as in {first.path}")


def _check_classes(splits: Mapping[str, _Split]) -> None:
    """Refuse labels that are neither numbers nor names, or mixed, and classes that train has no sample of."""
    if not all(one.labels.dtype.kind in "iu" for one in splits.values()):
        for one in splits.values():
            if one.labels.dtype.kind not in "OU" or not all(isinstance(label, str) for label in one.labels):
                raise UserError(
                    f"labels of type {one.labels.dtype}", where=one.path, expected="whole numbers or names, all alike"
                )
    for one in splits.values():
        if one.labels.dtype.kind == "i" and one.labels.min() < 0:
            raise UserError(f"label {one.labels.min()}", where=one.path, expected="labels from 0")
        if one.labels.dtype.kind == "u" and one.labels.max() > np.iinfo(np.int64).max:
            raise UserError(f"label {one.labels.max()}", where=one.path, expected="labels that fit 63 bits")
        if "train" in splits and (strange := set(one.labels.tolist()) - set(splits["train"].labels.tolist())):
            found = f"class {min(strange)}" + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
            raise UserError(
                f"{found} of which {splits['train'].path} has no sample", where=one.path, expected="classes of train"
            )


def _numbered(splits: Mapping[str, _Split]) -> dict[str, NDArray[np.int64]]:
    if all(one.labels.dtype.kind in "iu" for one in splits.values()):
        return {split: one.labels.astype(np.int64) for split, one in splits.items()}
    names = np.array(sorted({str(name) for one in splits.values() for name in one.labels}))
    return {split: np.searchsorted(names, one.labels.astype(str)).astype(np.int64) for split, one in splits.items()}
