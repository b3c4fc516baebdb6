"""The sweep on Ray Tune: the bits of the sweep without Ray, failures named, lost processes replaced, nothing left."""

import os
import signal
from pathlib import Path

import pytest
from head_samples import features_artifact  # type: ignore[import-not-found]

from nml_ray.config.errors import UserError
from nml_ray.heads.config import HeadsSettings
from nml_ray.storage.artifact import Store
from nml_ray.sweep.heads import fit_trial, head_trials, trial_results
from nml_ray.sweep.trials import Trial, TrialsFailed, run_inline

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

LOST = {"lost": 1, "given-up": 3, "deadly": 99}  # how often a process is killed; Tune alone gives up after 3

SETTINGS = HeadsSettings.model_validate(
    {
        "seeds": [0, 1],
        "sweep": [
            {"head": "linear_probe", "fixed": {"epochs": 2}},
            {"head": "nmtune", "fixed": {"epochs": 2}},
            {"head": "nmtune", "preset": "official", "fixed": {"epochs": 2}},
        ],
    }
)


def test_heads_equal_those_fitted_without_ray_bit_for_bit(tmp_path: Path) -> None:
    from nml_ray.sweep.tune import run_trials

    inline, tuned = Store(tmp_path / "inline"), Store(tmp_path / "tuned")
    trials = {
        store: head_trials(SETTINGS, features_artifact(store, "one"), store, "heads/a") for store in (inline, tuned)
    }
    done: list[str] = []
    run_inline(trials[inline], fit_trial)
    run_trials(
        trials[tuned], fit_trial, name="sweep", storage=tmp_path / "ray", done=lambda trial: done.append(trial.digest)
    )
    assert sorted(done) == sorted(trial.digest for trial in trials[tuned])
    results = (trial_results(trials[store], store) for store in (inline, tuned))
    for one, other in zip(*results, strict=True):
        assert (one.setting, one.seed, one.validation) == (other.setting, other.seed, other.validation)
        for file in ("head.safetensors", "head.json"):
            assert (one.path / file).read_bytes() == (other.path / file).read_bytes()
    assert list((tmp_path / "ray").iterdir()) == []


def test_failures_are_named_and_a_lost_process_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from nml_ray.sweep.tune import run_trials

    folder = str(tmp_path)

    def work(trial: Trial) -> None:
        begun = Path(folder, f"{trial.name}.begun")
        if trial.name in LOST:
            begun.write_text(f"{begun.read_text() if begun.exists() else ''}x")
            if len(begun.read_text()) <= LOST[trial.name]:
                os.kill(os.getpid(), signal.SIGKILL)
        if trial.name.startswith("bad"):
            raise ValueError(f"no good: {trial.payload['why']}")
        Path(folder, f"{trial.name}.done").touch()

    trials = [Trial(name, name, {"why": name.upper()}) for name in ("one", "bad-1", *LOST, "bad-2", "two")]
    with pytest.raises(TrialsFailed) as caught:
        run_trials(trials, work, name="failing", storage=tmp_path / "ray")
    deadly = caught.value.reasons.pop("deadly")
    assert "SIGKILL" in deadly or "died" in deadly
    assert caught.value.reasons == {
        "bad-1": "ValueError: no good: BAD-1",
        "bad-2": "ValueError: no good: BAD-2",
    }
    assert sorted(path.name for path in tmp_path.glob("*.done")) == [
        "given-up.done",
        "lost.done",
        "one.done",
        "two.done",
    ]
    assert [path.name for path in tmp_path.glob("ray/*")] == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_trials_for_which_no_node_has_room_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    from nml_ray.sweep.tune import run_trials

    trials = [Trial(name, name, {}) for name in ("one", "two")]
    with pytest.raises(UserError, match="no node with 500 CPU, as a trial needs"):
        run_trials(trials, print, name="large", storage=tmp_path / "ray", resources={"CPU": 500}, patience=1)
    assert list((tmp_path / "ray").iterdir()) == []
