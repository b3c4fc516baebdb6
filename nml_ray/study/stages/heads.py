"""The heads stage: a sweep of heads on every encoder's features, the choice on validation, the scores on test.

Leaves in each artifact

    trials.parquet   every trial: head, preset, setting (JSON), head_seed, fraction of the training samples, validation
                     scores (of the task's `metric` too), diverged, trial, chosen
    results.json     a list, for each chosen head and head seed the fields of `HeadScore`

With the setting `test: false`, that of a sweep's trials, no test set is opened: scores are of validation alone.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nml_ray.analysis import spectrum
from nml_ray.analysis.results import HeadScore
from nml_ray.config.cores import whole_cores
from nml_ray.config.errors import UserError
from nml_ray.heads.config import HeadsSettings
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.digest import canonical_json
from nml_ray.study.stages.apart import Apart
from nml_ray.study.task import Context, Task
from nml_ray.sweep import splits
from nml_ray.sweep.head_batches import fit_together, members, of_members, together
from nml_ray.sweep.heads import AllDiverged, TrialResult, choose, fit_trial, head_trials, trial_results
from nml_ray.sweep.trials import Trial, TrialsFailed, run_inline, unfinished
from nml_ray.tasks import metrics, subset
from nml_ray.tasks.config import ood_split

if TYPE_CHECKING:
    from nml_ray.heads.fitted import FittedHead

TRIALS_FILE = "trials.parquet"
RESULTS_FILE = "results.json"
MEASURED = ("test", "ood")
"""Splits that are read once, with the chosen heads, and whose Z has its spectrum taken; of a task its sets of other
domains in place of `ood`, which is their mean."""

PORTION = 4096
"""Rows of Z that are in memory at once, for its spectrum."""

_SCHEMA = pa.schema(
    {
        "head": pa.string(),
        "preset": pa.string(),
        "setting": pa.string(),
        "head_seed": pa.uint64(),
        "fraction": pa.string(),
        "validation_accuracy": pa.float64(),
        "validation_macro_f1": pa.float64(),
        "metric": pa.string(),
        "validation": pa.float64(),
        "diverged": pa.bool_(),
        "trial": pa.string(),
        "chosen": pa.bool_(),
    }
)


def run(tasks: Sequence[Task], context: Context) -> None:
    """Run all encoders' trials as one sweep, those that exist excepted, and finish each encoder's artifact.

    Raises:
        TrialsFailed: some trials failed, or all of a search diverged; the other encoders are finished.
        UserError: no task has features that heads can be fitted to and measured on.
    """
    apart, trials = Apart(), dict[str, list[Trial]]()
    for task in tasks:
        with apart.of(task):
            trials[task.stage.name] = _trials(task, context)
    fitted = apart.sound(tasks)
    lost = _fit(fitted, trials, context)
    reasons = dict[str, str]()
    for task in fitted:
        own = trials[task.stage.name]
        if failed := {trial.name: lost[trial.digest] for trial in own if trial.digest in lost}:
            reasons |= failed
            task.attempt.fail("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
            continue
        try:
            with apart.of(task):
                _finish(task, trial_results(own, context.store))
        except AllDiverged as error:
            reasons[task.stage.name] = str(error)
            task.attempt.fail(str(error))
    if reasons:
        raise TrialsFailed(reasons)
    apart.sound(tasks)


def read_scores(path: Path) -> list[HeadScore]:
    """What a results.json holds."""
    return [HeadScore(**entry) for entry in read_json(path)]


def _trials(task: Task, context: Context) -> list[Trial]:
    features, name = task.inputs["extract"], task.stage.name
    splits.check(features.path, _task(task), name)
    for split in _measures(task):
        _check(features.path, split, _task(task))
    settings = HeadsSettings.model_validate(task.stage.settings["heads"])
    return head_trials(settings, features, context.store, name, _task(task))


def _task(task: Task) -> Mapping[str, Any]:
    """What the stage knows of its downstream task; see `splits.PLAIN`."""
    found: Mapping[str, Any] = task.stage.settings.get("task", splits.PLAIN)
    return found


def _fit(tasks: Sequence[Task], trials: Mapping[str, Sequence[Trial]], context: Context) -> Mapping[str, str]:
    """Run what is unfinished; why trials failed, by digest: stages may have a trial in common."""
    everything = [trial for own in trials.values() for trial in own]
    todo = unfinished(everything, context.store)
    left = {trial.digest for trial in todo}

    def report(trial: Trial | None = None) -> None:
        if trial is not None:
            left.discard(trial.digest)
        for task in tasks:
            own = trials[task.stage.name]
            if trial is None or any(one.digest == trial.digest for one in own):
                task.attempt.progress(sum(one.digest not in left for one in own), len(own), "trials")

    report()
    if not todo:
        return {}
    run_all = _run_batches if context.run.heads_on == "cuda" else _run_each
    return run_all(todo, f"sweep-{tasks[0].attempt.name}", context, report)


def _run_each(todo: Sequence[Trial], name: str, context: Context, report: Callable[[Trial], None]) -> Mapping[str, str]:
    """Every trial on a thread of its own, one worker a core; why trials failed, by digest."""
    try:
        if context.inline:
            run_inline(todo, fit_trial, report)
        else:
            context.start_ray()
            from nml_ray.sweep.tune import run_trials

            # Ray may have been told of more CPUs than there are, for a worker that needs more threads.
            side_by_side = context.run.head_workers or context.run.cpus or whole_cores()
            storage = context.store.root / "ray"
            run_trials(todo, fit_trial, name=name, storage=storage, max_concurrent=side_by_side, done=report)
    except TrialsFailed as failed:
        return {trial.digest: failed.reasons[trial.name] for trial in todo if trial.name in failed.reasons}
    return {}


def _run_batches(
    todo: Sequence[Trial], name: str, context: Context, report: Callable[[Trial], None]
) -> Mapping[str, str]:
    """Trials of one encoder as one program, one worker a GPU; why trials failed, by digest."""

    def done(batch: Trial) -> None:
        for trial in members(batch):
            report(trial)

    try:
        if context.inline:
            batches = together(todo, "cuda")
            run_inline(batches, fit_together, done)
        else:
            context.start_ray()
            from nml_ray.sweep.tune import gpus, run_trials

            side_by_side = context.run.head_workers or gpus()
            batches, storage = together(todo, "cuda", side_by_side), context.store.root / "ray"
            one = {"CPU": 1, "GPU": 1}
            run_trials(
                batches,
                fit_together,
                name=name,
                storage=storage,
                resources=one,
                max_concurrent=side_by_side,
                done=done,
            )
    except TrialsFailed as failed:
        return of_members(failed.reasons, batches, context.store)
    return {}


def _finish(task: Task, results: Sequence[TrialResult]) -> None:
    facts, directory = _task(task), task.inputs["extract"].path
    metric = facts.get("metric", "accuracy")
    chosen = [result for group in choose(results, metric).values() for result in group]
    _write_trials(task.attempt.path / TRIALS_FILE, results, {result.digest for result in chosen}, metric)
    measured = {split: _measured(directory, split, facts) for split in _measures(task)}
    write_json(task.attempt.path / RESULTS_FILE, [_entry(result, measured, facts) for result in chosen])
    samples = {split: len(features.labels) for split, features in measured.items()} if facts else {}
    forms = sorted({result.form for result in results})
    more = {"samples": samples} if samples else {}
    task.attempt.finish(trials=len(results), chosen=len(chosen), forms=forms, **more)


def _measures(task: Task) -> list[str]:
    """The splits that the chosen heads are measured on."""
    if not task.stage.settings.get("test", True):
        return []
    facts, directory = _task(task), task.inputs["extract"].path
    return ["test", *map(ood_split, facts["ood"])] if facts else [s for s in MEASURED if (directory / s).is_dir()]


def _check(directory: Path, split: str, facts: Mapping[str, Any]) -> None:
    """Refuse a split that no head can be measured on, before any is fitted.

    Raises:
        UserError: it cannot be read, is empty, has a sample without a label, or none of a class of train.
    """
    labels, groups = splits.labels(directory, split, facts), _groups(facts, split)
    if not len(labels):
        raise UserError("no samples to measure heads on", where=f"{directory}, {split}", expected="at least one")
    if groups is not None and not subset.kept(labels, groups).any():
        raise UserError("no sample of a class of train", where=f"{directory}, {split}", expected="at least one")


def _measured(directory: Path, split: str, facts: Mapping[str, Any]) -> splits.Split:
    """A split with those of its samples whose class is one of train's."""
    found, groups = splits.read(directory, split, facts), _groups(facts, split)
    return found if groups is None else found.take(np.flatnonzero(subset.kept(found.labels, groups)))


def _groups(facts: Mapping[str, Any], split: str) -> subset.Groups | None:
    found: subset.Groups | None = facts.get("ood", {}).get(split.removeprefix(ood_split("")))
    return found


def _entry(result: TrialResult, measured: Mapping[str, splits.Split], facts: Mapping[str, Any]) -> dict[str, Any]:
    from nml_ray.heads.fitted import FittedHead

    fitted = FittedHead.load(result.path)
    scores, spectra = {"validation": result.validation}, {}
    for split, features in measured.items():
        groups = _groups(facts, split)
        if groups is None:
            predicted = fitted.predict(features.values)
        else:
            predicted = subset.predict(fitted.predict_logits(features.values), fitted.classes, groups)
        scores[split] = metrics.scores(features.labels, predicted, facts.get("metric", "accuracy"))
        spectra[split] = _spectra(fitted, features.values)
    if other := [found for split, found in scores.items() if split.startswith(ood_split(""))]:
        scores["ood"] = {name: float(np.mean([found[name] for found in other])) for name in other[0]}
    return {
        "head": result.setting.head,
        "head_seed": result.seed,
        "settings": result.setting.model_dump(mode="json"),
        "scores": scores,
        "spectra": spectra,
        **({"fraction": result.fraction} if result.fraction != "1" else {}),
    }


def _spectra(fitted: "FittedHead", values: Any) -> dict[str, Any]:
    """SVE and LSVR of Z of features [N, D], of which a portion at a time is in memory."""
    from nml_ray.features.sums import Sums
    from nml_ray.heads.threads import single_thread

    sums = Sums(values.shape[1])
    with single_thread():
        for start in range(0, len(values), PORTION):
            sums.add(fitted.transform(values[start : start + PORTION]))
    found = {}
    for name in sums.transforms:
        if measures := spectrum.measures(spectrum.singular_values(sums.gram[name], sums.count)):
            found[name] = {"count": sums.count, "sve": measures["sve"], "lsvr": measures["lsvr"]}
    return found


def _write_trials(path: Path, results: Sequence[TrialResult], chosen: set[str], metric: str) -> None:
    rows = [
        {
            "head": result.setting.head,
            "preset": result.setting.preset,
            "setting": canonical_json(result.setting.model_dump(mode="json")),
            "head_seed": result.seed,
            "fraction": result.fraction,
            "validation_accuracy": result.validation.get("accuracy"),
            "validation_macro_f1": result.validation.get("macro_f1"),
            "metric": metric,
            "validation": result.validation[metric],
            "diverged": result.diverged,
            "trial": result.digest,
            "chosen": result.digest in chosen,
        }
        for result in results
    ]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)
