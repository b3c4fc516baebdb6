"""The trials of a head sweep, what one leaves, and the choice among them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from head_samples import features_artifact  # type: ignore[import-not-found]

from nml_ray.analysis.results import ArmResult, HeadScore
from nml_ray.analysis.statistics import methods
from nml_ray.features.store import read_split
from nml_ray.heads.config import HeadsSettings, head_setting
from nml_ray.heads.fitted import FittedHead
from nml_ray.storage.artifact import Store
from nml_ray.sweep.heads import TrialResult, choose, fit_trial, head_trials, trial_results
from nml_ray.sweep.trials import run_inline
from nml_ray.tasks import metrics

SETTINGS = HeadsSettings.model_validate(
    {
        "seeds": [0, 7],
        "sweep": [
            {"head": "linear_probe", "fixed": {"epochs": 3}, "search": {"learning_rate": [0.01, 0.1]}},
            {"head": "nmtune", "fixed": {"epochs": 3}},
        ],
    }
)


def test_a_trial_for_every_setting_and_seed_each_with_its_own_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = features_artifact(store, "one"), features_artifact(store, "two")
    trials = head_trials(SETTINGS, one, store, "heads/a")
    assert [trial.name for trial in trials][:3] == [
        "heads/a/linear_probe/0/seed-0",
        "heads/a/linear_probe/0/seed-7",
        "heads/a/linear_probe/1/seed-0",
    ]
    digests = {trial.digest for trial in trials}
    assert len(trials) == len(digests) == 6
    assert digests.isdisjoint(trial.digest for trial in head_trials(SETTINGS, two, store, "heads/a"))
    assert digests == {trial.digest for trial in head_trials(SETTINGS, one, store, "heads/other")}


def test_a_trial_leaves_a_head_and_its_validation_scores(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = features_artifact(store, "one")
    trials = head_trials(SETTINGS, artifact, store, "heads/a")
    run_inline(trials, fit_trial)
    validation = read_split(artifact.path, "validation")
    for trial, result in zip(trials, trial_results(trials, store), strict=True):
        head = FittedHead.load(result.path)
        assert head.setting == result.setting
        assert result.seed == trial.payload["seed"] and not result.diverged
        assert result.validation == metrics.scores(validation.labels, head.predict(validation.values))
    assert max(result.validation["accuracy"] for result in trial_results(trials, store)) > 0.9


def result(accuracy: float, seed: int = 0, diverged: bool = False, head: str = "mlp", **changes: Any) -> TrialResult:
    setting = head_setting(head, **changes)
    return TrialResult(setting, seed, "", Path(), {"accuracy": accuracy}, diverged)


def test_the_best_mean_over_seeds_is_chosen_in_every_search() -> None:
    results = [
        result(0.9, 0, learning_rate=0.1),
        result(0.1, 1, learning_rate=0.1),
        result(0.6, 0, learning_rate=0.2),
        result(0.7, 1, learning_rate=0.2),
        result(0.3, 0, head="nmtune"),
        result(0.2, 0, head="nmtune", preset="official"),
    ]
    assert choose(results) == {"mlp": results[2:4], "nmtune:paper": results[4:5], "nmtune:official": results[5:]}


def test_of_equal_settings_the_first_is_chosen() -> None:
    results = [result(0.5, learning_rate=0.1), result(0.5, learning_rate=0.2)]
    assert choose(results)["mlp"] == results[:1]


def test_a_setting_that_diverged_is_out_and_nothing_left_is_an_error() -> None:
    fine, lost = result(0.2, learning_rate=0.1), result(0.9, diverged=True, learning_rate=9.0)
    assert choose([lost, fine])["mlp"] == [fine]
    with pytest.raises(RuntimeError, match="every setting of mlp diverged"):
        choose([lost])


@pytest.mark.parametrize("head", ["linear_probe", "mlp", "nmtune"])
def test_presets_of_a_head_are_chosen_apart_by_the_names_that_tables_use(head: str) -> None:
    both = [result(0.7, head=head, preset="paper"), result(0.6, head=head, preset="official")]
    chosen = choose(both)
    assert list(chosen.values()) == [both[:1], both[1:]]
    scores = [HeadScore(head, 0, one.setting.model_dump(mode="json"), {}) for one in both]
    assert list(chosen) == methods([ArmResult("0", 0, 0, heads=scores)])


def test_a_trial_repeats_to_the_bit(tmp_path: Path) -> None:
    logits = []
    for name in ("first", "second"):
        store = Store(tmp_path / name)
        artifact = features_artifact(store, "one")
        trial = head_trials(SETTINGS, artifact, store, "heads/a")[-1]
        fit_trial(trial)
        (found,) = trial_results([trial], store)
        logits.append(FittedHead.load(found.path).predict_logits(read_split(artifact.path, "test").values))
    assert np.array_equal(*logits)
