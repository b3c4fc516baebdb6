"""The spectrum stage, from the sums that extraction leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nml_ray.analysis.results import Spectrum
from nml_ray.features.store import feature_path, write_shard
from nml_ray.features.sums import Sums
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import read_json
from nml_ray.study.stage import Stage
from nml_ray.study.stages import spectrum
from nml_ray.study.task import Context, Task
from nml_ray.sweep import splits


def test_every_split_and_transform_from_all_shards(tmp_path: Path) -> None:
    store = Store(tmp_path)
    extract = store.attempt("extract", "e")
    values = {split: np.random.default_rng(len(split)).gamma(1, 1, (50, 6)) for split in ("test", "ood")}
    for split, rows in values.items():
        (extract.path / split).mkdir()
        for number, part in enumerate(np.array_split(rows, 3)):
            sums = Sums(6, ["raw", "official"])
            sums.add(part)
            sums.save(extract.path / split / f"shard-{number:06d}.sums.npz")
    stage = Stage("spectrum/a", "spectrum", 1, {}, "nml_ray.study.stages.spectrum:run", {"extract": "x"})
    task = Task(stage, {"extract": extract.finish()}, store.attempt("spectrum", "s"))
    spectrum.run([task], Context(store, True, 1, None, lambda: None))
    artifact = store.artifact("spectrum", "s")
    assert artifact is not None
    found = read_json(artifact.path / spectrum.SPECTRUM_FILE)
    assert set(found) == {"test", "ood"} and set(found["test"]) == {"raw", "official"}
    for split, rows in values.items():
        measured = Spectrum(split, "raw", **found[split]["raw"])
        sigma = np.linalg.svd(rows, compute_uv=False)
        assert measured.count == 50
        np.testing.assert_allclose(measured.singular_values, sigma, rtol=1e-9)
        assert measured.lsvr == pytest.approx(-np.log(sigma[0] / sigma.sum()))


def measured(
    tmp_path: Path, values: np.ndarray, labels: np.ndarray, dtype: str, split: str = "test", **more: Any
) -> tuple[dict, list[dict]]:
    store = Store(tmp_path)
    extract = store.attempt("extract", "e")
    for number, rows in enumerate(np.array_split(np.arange(len(values)), 2)):
        path = feature_path(extract.path, split, f"shard-{number}")
        write_shard(path, [f"k{row}" for row in rows], labels[rows], values[rows], dtype)
        sums = Sums(values.shape[1])
        sums.add(values[rows].astype(dtype))
        sums.save(path.with_name(f"shard-{number}.sums.npz"))
    settings = {"per_class": True, **more}
    stage = Stage("spectrum/a", "spectrum", 1, settings, "nml_ray.study.stages.spectrum:run", {"extract": "x"})
    task = Task(stage, {"extract": extract.finish()}, store.attempt("spectrum", "s"))
    spectrum.run([task], Context(store, True, 1, None, lambda: None))
    table = pq.read_table(task.attempt.path / spectrum.MEASURES_FILE)
    return read_json(task.attempt.path / spectrum.SPECTRUM_FILE), table.to_pylist()


def official(values: np.ndarray) -> np.ndarray:
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit - unit.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_measures_of_the_whole_and_of_each_class_are_those_of_numpys_svd(tmp_path: Path, dtype: str) -> None:
    """Rank-deficient features, as stored; class 2 has one sample, class 1 fewer rows than dimensions."""
    generator = np.random.default_rng(4)
    values = (generator.normal(size=(60, 4)) @ generator.normal(size=(4, 9))).astype(np.float32)
    values[:, 5:] = np.round(4 * values[:, 5:]) / 4 * (values[:, 5:] > 0)
    values[30:35] = values[25:30]
    labels = np.repeat([0, 1, 2, 3], [35, 6, 1, 18])
    _, rows = measured(tmp_path, values, labels, dtype)
    assert len(rows) == 2 * (1 + 4)
    for row in rows:
        chosen = values[labels == row["class"]] if row["class"] is not None else values
        exact = chosen.astype(dtype).astype(np.float64)
        sigma = np.linalg.svd(official(exact) if row["transform"] == "official" else exact, compute_uv=False)
        p = sigma[sigma > 1e-7 * sigma[0]] / sigma[sigma > 1e-7 * sigma[0]].sum()
        assert row["count"] == len(chosen)
        assert row["sve"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6, abs=1e-9)
        assert row["lsvr"] == pytest.approx(-np.log(p[0]), rel=1e-6, abs=1e-9)
        assert row["effective_rank"] == pytest.approx(np.exp(row["sve"]))


def test_one_dimension_has_no_official_measures(tmp_path: Path) -> None:
    values = np.arange(1.0, 7.0, dtype=np.float32)[:, None]
    found, rows = measured(tmp_path, values, np.arange(6) % 2, "float32")
    assert set(found["test"]) == {"raw"} and found["test"]["raw"]["sve"] == 0
    assert all((row["sve"] is None) == (row["transform"] == "official") for row in rows)


def test_sets_that_a_task_cuts_from_train_are_measured_as_heads_see_them(tmp_path: Path) -> None:
    values = np.random.default_rng(1).gamma(1, 1, (60, 5)).astype(np.float32)
    labels = np.arange(60) % 3
    task = {"cuts": {"test": {"keep": 14}, "validation": {"share": "0.25"}}, "seed": 3}
    found, rows = measured(tmp_path, values, labels, "float32", "train", task=task)
    assert {split: one["raw"]["count"] for split, one in found.items()} == {"train": 31, "test": 18, "validation": 11}
    directory = Store(tmp_path).artifact("extract", "e").path
    for row in rows:
        part = splits.read(directory, row["split"], task)
        exact = part.values[part.labels == row["class"]] if row["class"] is not None else part.values
        exact = exact.astype(np.float64)
        sigma = np.linalg.svd(official(exact) if row["transform"] == "official" else exact, compute_uv=False)
        p = sigma[sigma > 1e-7 * sigma[0]] / sigma[sigma > 1e-7 * sigma[0]].sum()
        assert row["count"] == len(exact) and row["sve"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-8)
    numbers = {**task, "values": {"train": [0.5, 1.0, 3.0]}}
    found, rows = measured(tmp_path / "numbers", values, labels, "float32", "train", task=numbers)
    assert set(found) == {"train", "test", "validation"} and {row["class"] for row in rows} == {None}
