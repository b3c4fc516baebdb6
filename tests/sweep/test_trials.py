"""Trials without Ray: what is left to do, and failures that are named at the end."""

from pathlib import Path

import pytest

from nml_ray.storage.artifact import Store
from nml_ray.sweep.trials import Trial, TrialsFailed, run_inline, unfinished


def trials(count: int) -> list[Trial]:
    return [Trial(f"trial-{number}", f"digest{number}", {"number": number}) for number in range(count)]


def test_finished_trials_are_not_run_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.attempt("trial", "digest1").finish()
    store.attempt("trial", "digest2")  # begun, never finished
    assert [trial.name for trial in unfinished(trials(3), store)] == ["trial-0", "trial-2"]


def test_a_digest_is_run_once(tmp_path: Path) -> None:
    assert len(unfinished([*trials(2), *trials(2)], Store(tmp_path))) == 2


def test_all_run_and_every_failure_is_named_at_the_end() -> None:
    ran, done = [], []

    def work(trial: Trial) -> None:
        ran.append(trial.name)
        if trial.payload["number"] in (1, 2):
            raise ValueError(f"number {trial.payload['number']} is bad")

    with pytest.raises(TrialsFailed) as caught:
        run_inline(trials(4), work, lambda trial: done.append(trial.name))
    assert ran == ["trial-0", "trial-1", "trial-2", "trial-3"]
    assert done == ["trial-0", "trial-3"]
    assert caught.value.reasons == {
        "trial-1": "ValueError: number 1 is bad",
        "trial-2": "ValueError: number 2 is bad",
    }
    assert "trial-1: ValueError: number 1 is bad; trial-2" in str(caught.value)
