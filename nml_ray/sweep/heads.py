"""The sweep of heads: its trials, what one trial does, and the choice among them."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nml_ray.heads.config import HeadSetting, HeadsSettings, parse_setting, search_name
from nml_ray.storage.artifact import Artifact, Store, arrived
from nml_ray.storage.digest import digest_of
from nml_ray.storage.mirror import carried, present
from nml_ray.sweep import splits
from nml_ray.sweep.trials import Trial
from nml_ray.tasks import metrics

if TYPE_CHECKING:
    from nml_ray.heads.fitted import FittedHead

VERSION = 2
"""Raised when a fit's result changes for the same setting, so that old trials no longer count."""

SEQUENTIAL = "sequential"
"""The form of a fit that had a thread to itself."""


def head_trials(
    settings: HeadsSettings, features: Artifact, store: Store, prefix: str, task: Mapping[str, Any] = splits.PLAIN
) -> list[Trial]:
    """One trial for every fraction, setting and head seed on one encoder's features, seeds of a setting side by side.

    A fit computes on one thread whatever the process is set to, so the number of threads is no part of its digest; a
    task and a fraction are where there is one.
    """
    place = {"store": carried(store.root), "features": carried(features.path)}
    return [
        Trial(f"{prefix}/{name}", digest, {**place, **what})
        for name, digest, what in _identified(settings, features.digest, task)
    ]


def trial_digests(settings: HeadsSettings, features: str, task: Mapping[str, Any] = splits.PLAIN) -> list[str]:
    """The digests of `head_trials`, given that of the features' artifact."""
    return [digest for _, digest, _ in _identified(settings, features, task)]


def _identified(
    settings: HeadsSettings, features: str, task: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, digest, and what is fitted, of every trial."""
    part = {name: value for name, value in task.items() if name != "ood"}  # read with the chosen heads only
    for share in settings.fractions:
        more = {**({"task": part} if part else {}), **({"fraction": share} if share != "1" else {})}
        for number, setting in enumerate(settings.expand()):
            data = setting.model_dump(mode="json")
            for seed in settings.seeds:
                what = {"setting": data, "seed": seed, **more}
                digest = digest_of({"version": VERSION, "features": features, **what})[:16]
                thinned = f"/{share}" if share != "1" else ""
                yield f"{search_name(setting.head, setting.preset)}{thinned}/{number}/seed-{seed}", digest, what


def fit_trial(trial: Trial) -> None:
    """Fit one head on the training split, score it on validation, and leave it as the artifact of this trial.

    The record holds `validation` (metric to share) and `diverged`, and that the fit was `sequential` on the `cpu` (see
    `head_batches` for the other form). A fit that diverged scores nothing; one that failed leaves its traceback in its
    attempt and raises.
    """
    attempt = Store(present(trial.payload["store"])).attempt("trial", trial.digest, trial=trial.name)
    try:
        facts = _fit(arrived_at(trial.payload), attempt.path)
    except Exception:
        attempt.fail(traceback.format_exc())
        raise
    attempt.finish(**facts)


def arrived_at(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's payload with its features as a path on this machine, to which they are brought if need be."""
    return {**payload, "features": str(arrived(payload["features"]))}


def _fit(payload: Mapping[str, Any], target: Path) -> dict[str, Any]:
    from nml_ray.heads.fit import fit

    train, validation, metric = samples(payload)
    fitted = fit(parse_setting(payload["setting"]), train.values, train.labels, train.hashes, payload["seed"])
    return {**leave(fitted, validation, metric, target), "form": SEQUENTIAL, "device": "cpu"}


def samples(payload: Mapping[str, Any]) -> tuple[splits.Split, splits.Split, str]:
    """What a trial is fitted on, what it is scored on, and the task's metric."""
    task, directory = payload.get("task", splits.PLAIN), Path(payload["features"])
    train = splits.read(directory, "train", task, payload.get("fraction", "1"))
    return train, splits.read(directory, "validation", task), task.get("metric", "accuracy")


def leave(fitted: "FittedHead", validation: splits.Split, metric: str, target: Path) -> dict[str, Any]:
    """Save a head into the attempt of its trial; its scores for the record."""
    fitted.save(target)
    scores = metrics.scores(validation.labels, fitted.predict(validation.values), metric)
    return {"validation": dict.fromkeys(scores, 0.0) if fitted.diverged else scores, "diverged": fitted.diverged}


@dataclass(frozen=True)
class TrialResult:
    """A finished trial as its record tells it."""

    setting: HeadSetting
    seed: int
    digest: str
    path: Path
    validation: dict[str, float]
    diverged: bool
    fraction: str = "1"
    form: str = SEQUENTIAL


def trial_results(trials: Sequence[Trial], store: Store) -> list[TrialResult]:
    """The results of trials that have all finished, in their order."""
    results = []
    for trial in trials:
        artifact = store.artifact("trial", trial.digest)
        assert artifact is not None
        record = artifact.record
        setting = parse_setting(trial.payload["setting"])
        results.append(
            TrialResult(
                setting,
                trial.payload["seed"],
                trial.digest,
                artifact.path,
                record["validation"],
                record["diverged"],
                trial.payload.get("fraction", "1"),
                record.get("form", SEQUENTIAL),
            )
        )
    return results


class AllDiverged(RuntimeError):
    """A search has no setting to choose."""


def choose(results: Sequence[TrialResult], metric: str = "accuracy") -> dict[str, list[TrialResult]]:
    """For each search the setting with the best mean validation score over head seeds: its results, one a seed.

    A search is chosen in for each data fraction apart. Of equal settings the first counts. A setting that diverged with
    any seed is out.

    Raises:
        AllDiverged: every setting of a search diverged.
    """
    by_setting: dict[tuple[HeadSetting, str], list[TrialResult]] = {}
    for result in results:
        by_setting.setdefault((result.setting, result.fraction), []).append(result)
    chosen: dict[str, list[TrialResult]] = {}
    for (setting, share), group in by_setting.items():
        name = search_name(setting.head, setting.preset) + ("" if share == "1" else f", fraction {share}")
        best = chosen.setdefault(name, [])
        if not any(result.diverged for result in group) and (not best or _mean(group, metric) > _mean(best, metric)):
            chosen[name] = group
    lost = [name for name, group in chosen.items() if not group]
    if lost:
        raise AllDiverged(f"every setting of {', '.join(lost)} diverged; search smaller learning rates")
    return chosen


def _mean(group: Sequence[TrialResult], metric: str) -> float:
    return float(np.mean([result.validation[metric] for result in group]))
