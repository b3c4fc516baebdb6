"""What a trial is judged by, read from its artifacts: validation alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from nml_ray.heads.config import search_name
from nml_ray.storage.artifact import Artifact

HEADS_TABLE = "trials.parquet"
CURVES_TABLE = "curves.parquet"

_COLUMNS = {"score": "validation", "accuracy": "validation_accuracy", "macro_f1": "validation_macro_f1"}


class NotMeasured(ValueError):
    """The artifacts do not hold the metric."""


@dataclass(frozen=True)
class Judged:
    """A trial's value, and where it is of pre-training its value after each epoch."""

    value: float
    by_epoch: Sequence[float] = ()


def kind_of(metric: str) -> str:
    """The kind of artifact that a metric is read from."""
    return metric.partition(".")[0]


def judge(metric: str, larger: bool, artifacts: Sequence[Artifact]) -> Judged:
    """The mean of a metric over artifacts of its kind.

    Of heads it is, in each artifact, the mean over head seeds of the chosen setting of the best head, or of the named
    one, on the largest data fraction.

    Raises:
        NotMeasured: an artifact does not have it, such as macro F1 of a regression.
    """
    kind, _, name = metric.partition(".")
    if kind == "heads":
        return Judged(fmean(_of_heads(artifact, name, larger) for artifact in artifacts))
    curves = [_curve(artifact, name) for artifact in artifacts]
    by_epoch = [fmean(values) for values in zip(*curves, strict=True)]
    return Judged(by_epoch[-1], by_epoch)


def _curve(artifact: Artifact, name: str) -> list[float]:
    rows = sorted(pq.read_table(artifact.path / CURVES_TABLE).to_pylist(), key=lambda row: row["epoch"])
    return _all_there((row.get(name) for row in rows), artifact, name)


def _of_heads(artifact: Artifact, name: str, larger: bool) -> float:
    head, _, column = name.rpartition(".")
    rows = [row for row in pq.read_table(artifact.path / HEADS_TABLE).to_pylist() if row["chosen"]]
    most = max((row["fraction"] for row in rows), key=float)
    by_search: dict[str, list[Any]] = {}
    for row in rows:
        search = search_name(row["head"], row["preset"])
        if row["fraction"] == most and (not head or search == head):
            by_search.setdefault(search, []).append(row[_COLUMNS[column]])
    means = [fmean(_all_there(values, artifact, name)) for values in by_search.values()]
    if not means:
        raise NotMeasured(f"heads/{artifact.digest} has no head '{head}'")
    return max(means) if larger else min(means)


def _all_there(values: Iterable[float | None], artifact: Artifact, name: str) -> list[float]:
    found = list(values)
    there = [value for value in found if value is not None]
    if len(there) < len(found) or not found:
        raise NotMeasured(f"{artifact.kind}/{artifact.digest} has no {name}")
    return there
