"""The spectrum stage, from the sums that extraction leaves."""

from pathlib import Path

import numpy as np
import pytest

from nml_ray.analysis.results import Spectrum
from nml_ray.features.sums import Sums
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import read_json
from nml_ray.study.stage import Stage
from nml_ray.study.stages import spectrum
from nml_ray.study.task import Context, Task


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
