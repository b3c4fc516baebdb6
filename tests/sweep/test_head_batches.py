"""Trials that are trained as one program leave what each of them leaves alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from head_samples import features_artifact  # type: ignore[import-not-found]

from nml_ray.features.store import feature_path, read_split
from nml_ray.heads.config import HeadsSettings
from nml_ray.heads.fitted import FittedHead
from nml_ray.storage.artifact import Store
from nml_ray.storage.mirror import working_root
from nml_ray.sweep.head_batches import fit_together, members, of_members, together
from nml_ray.sweep.heads import fit_trial, head_trials, trial_results
from nml_ray.sweep.trials import Trial, TrialsFailed, run_inline, unfinished
from tests.object_store import Bucket

SETTINGS = HeadsSettings.model_validate(
    {
        "seeds": [0, 7],
        "fractions": ["0.5", "1"],
        "sweep": [
            {"head": "linear_probe", "fixed": {"epochs": 3}, "search": {"learning_rate": [0.01, 0.1]}},
            {"head": "nmtune", "fixed": {"epochs": 3, "dtype": "float64"}},
        ],
    }
)


def trials_in(store: Store, *encoders: str) -> list[Trial]:
    found = []
    for name in encoders:
        features = store.artifact("extract", name) or features_artifact(store, name)
        found += head_trials(SETTINGS, features, store, f"heads/{name}")
    return found


def test_a_batch_is_of_one_encoder_and_fraction_and_every_trial_is_in_one(tmp_path: Path) -> None:
    trials = trials_in(Store(tmp_path), "one", "two")
    for parts, batches in ((1, 4), (4, 4), (5, 8), (99, 24)):
        found = together(trials, "cpu", parts)
        assert len(found) == batches and len({batch.name for batch in found}) == batches
        assert sorted(trial.digest for batch in found for trial in members(batch)) == sorted(t.digest for t in trials)
        for batch in found:
            assert len({(t.payload["features"], t.payload.get("fraction")) for t in members(batch)}) == 1


def test_each_leaves_the_artifact_that_it_leaves_alone(tmp_path: Path) -> None:
    results = []
    for form in ("sequential", "batched"):
        store = Store(tmp_path / form)
        trials = trials_in(store, "one")
        if form == "batched":
            run_inline(together(trials, "cpu"), fit_together)
        else:
            run_inline(trials, fit_trial)
        assert not unfinished(trials, store)
        results.append(trial_results(trials, store))
        assert {result.form for result in results[-1]} == {form}
    features = read_split(tmp_path / "batched/extract/one/attempt-0001", "test").values
    for alone, batched in zip(*results, strict=True):
        assert (batched.setting, batched.seed, batched.digest) == (alone.setting, alone.seed, alone.digest)
        assert batched.fraction == alone.fraction and batched.validation == pytest.approx(alone.validation, abs=0.03)
        limit = 1e-10 if alone.setting.dtype == "float64" else 1e-4
        np.testing.assert_allclose(
            FittedHead.load(batched.path).predict_logits(features),
            FittedHead.load(alone.path).predict_logits(features),
            atol=limit,
        )
    record = store.artifact("trial", results[1][0].digest).record  # type: ignore[union-attr]
    assert (record["form"], record["device"], record["together"]) == ("batched", "cpu", 4)


@pytest.mark.long
def test_a_batch_finds_its_features_on_an_object_store(bucket: Bucket, tmp_path: Path) -> None:
    root = working_root(str(bucket.at("runs")), str(tmp_path))
    trials = trials_in(Store(root), "one")[:2]
    assert str(root) not in str(trials[0].payload)  # as it goes to workers: `mirror.carried`
    shutil.rmtree(root)  # another machine has nothing yet
    (batch,) = together(trials, "cpu")
    fit_together(batch)
    assert not unfinished(trials, Store(root))
    assert len({result.digest for result in trial_results(trials, Store(root))}) == 2


def test_what_fails_is_named_trial_by_trial_and_what_had_finished_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    trials = trials_in(store, "one", "two")
    (feature_path(store.artifact("extract", "two").path, "train", "shard-000000")).unlink()  # type: ignore[union-attr]
    (feature_path(store.artifact("extract", "two").path, "train", "shard-000001")).unlink()  # type: ignore[union-attr]
    batches = together(trials, "cpu")
    with pytest.raises(TrialsFailed) as caught:
        run_inline(batches, fit_together)
    reasons = of_members(caught.value.reasons, batches, store)
    lost = [trial for trial in trials if trial.name.startswith("heads/two/")]
    assert unfinished(trials, store) == lost
    assert set(reasons) == {trial.digest for trial in lost}
    assert all("no features of split train" in reason for reason in reasons.values())
    left = store.directory("trial", lost[0].digest) / "attempt-0001/failure.json"
    assert "no features of split train" in left.read_text()
