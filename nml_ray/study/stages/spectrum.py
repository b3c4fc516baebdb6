"""The spectrum stage: singular values, SVE and LSVR of every split from the sums taken during extraction.

Leaves in each artifact

    spectrum.json      split to transform to count, singular_values (descending), sve, lsvr
    measures.parquet   split, transform, class (null: all of the split), count, sve, lsvr, effective_rank

Of a downstream task whose validation or test set is cut from train, the parts are measured as the heads see them.
A transform that leaves nothing of the features but zeros has no measures: it is absent from spectrum.json, null here.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nml_ray.analysis import spectrum
from nml_ray.features.store import Features, read_split
from nml_ray.features.sums import TRANSFORMS, Sums, merged
from nml_ray.storage.atomic import write_json
from nml_ray.study.stages.apart import Apart
from nml_ray.study.task import Context, Task
from nml_ray.sweep import splits

SPECTRUM_FILE = "spectrum.json"
MEASURES_FILE = "measures.parquet"
ROWS = 4096  # summed at a time
_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "transform": pa.string(),
        "class": pa.int64(),
        "count": pa.int64(),
        "sve": pa.float64(),
        "lsvr": pa.float64(),
        "effective_rank": pa.float64(),
    }
)


def run(tasks: Sequence[Task], context: Context) -> None:
    """Measure the features of each task.

    Raises:
        UserError: no task has features that can be read.
    """
    apart = Apart()
    for task in tasks:
        with apart.of(task):
            _measure(task)
    apart.sound(tasks)


def _measure(task: Task) -> None:
    directory, target = task.inputs["extract"].path, task.attempt.path
    cut: Mapping[str, Any] = task.stage.settings.get("task", {})
    found = list(_whole(directory, cut))
    write_json(target / SPECTRUM_FILE, _by_split(found))
    rows = [_row(*one) for one in found]
    if task.stage.settings.get("per_class"):
        rows += [
            _row(*one) for split, transforms in _grouped(found) for one in _classes(directory, split, transforms, cut)
        ]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), target / MEASURES_FILE)
    task.attempt.finish()


_Found = tuple[str, str, int | None, int, spectrum.Vector]
"""Split, transform, class (None: all), number of rows, singular values."""


def _whole(directory: Path, cut: Mapping[str, Any]) -> Iterator[_Found]:
    stored = sorted({path.parent.name for path in directory.glob("*/*.sums.npz")})
    by_split = {split: merged(sorted((directory / split).glob("*.sums.npz"))) for split in stored}
    for split in cut.get("cuts", ()):
        part = _of_part(directory, split, cut, by_split["train"])
        if part.count:
            by_split[split] = part
            by_split["train"].remove(part)
    for split, sums in sorted(by_split.items()):
        for name in sums.transforms:
            yield split, name, None, sums.count, spectrum.singular_values(sums.gram[name], sums.count)


def _of_part(directory: Path, split: str, cut: Mapping[str, Any], whole: Sums) -> Sums:
    rows, sums = splits.read(directory, split, cut).values, Sums(whole.dim, whole.transforms)
    for start in range(0, len(rows), ROWS):
        sums.add(rows[start : start + ROWS])
    return sums


def _by_split(found: Sequence[_Found]) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = {}
    for split, transform, _, count, values in found:
        of_split = content.setdefault(split, {})
        if measures := spectrum.measures(values):
            plain = {name: measures[name] for name in ("sve", "lsvr")}
            of_split[transform] = {"count": count, "singular_values": values.tolist(), **plain}
    return content


def _grouped(found: Sequence[_Found]) -> list[tuple[str, list[str]]]:
    return [(split, [one[1] for one in group]) for split, group in groupby(found, lambda one: one[0])]


def _classes(directory: Path, split: str, transforms: Sequence[str], cut: Mapping[str, Any]) -> Iterator[_Found]:
    """Every class of a split, whose features pass memory once; of a regression there are none in a part."""
    import torch

    features: Features | splits.Split
    if split in ("train", *cut.get("cuts", ())) and cut:
        if "values" in cut:
            return
        features = splits.read(directory, split, cut)
    else:
        features = read_split(directory, split)
    values = features.values if features.values.ndim == 2 else features.values[0]  # of several views the first
    for label in np.unique(features.labels):
        rows = torch.tensor(values[features.labels == label], dtype=torch.float64)
        for name in transforms:
            yield split, name, int(label), len(rows), spectrum.of_rows(TRANSFORMS[name](rows).numpy())


def _row(split: str, transform: str, label: int | None, count: int, values: spectrum.Vector) -> dict[str, Any]:
    measures = spectrum.measures(values) or {}
    return {"split": split, "transform": transform, "class": label, "count": count, **measures}
