"""A sweep over the fields of a job: rounds of trials, each of which is the stages that its job alone would be.

So every trial leaves the artifacts that `nml-ray run` of its point leaves, points that agree in a stage share it, and a
sweep that was killed goes on where it was: what is there is not made again. Only its heads leave the test sets unread;
those of the best trial are then measured on them, its fits being there. Leaves in the study's directory

    trials.parquet    every trial: see `study.sweep_table`
    stages.json, report.html, ...    of the best trial, as of a job of its own
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nml_ray.config.document import plain
from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Artifact
from nml_ray.study.display import Display
from nml_ray.study.execute import plan_study
from nml_ray.study.expand import Study, expand
from nml_ray.study.job import Job
from nml_ray.study.listing import Listing
from nml_ray.study.runner import Failure, Outcome, run
from nml_ray.study.sweep_check import metric_of, text
from nml_ray.study.task import Context
from nml_ray.study.union import Union, union
from nml_ray.sweep.config import SweepSettings
from nml_ray.sweep.metric import NotMeasured, judge, kind_of
from nml_ray.sweep.search import Asked, larger_is_better, searcher


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial: its value where it has one, else why not.

    `seconds` are those of all its stages; a stage that trials share counts in each of them. `log` holds the traceback.
    """

    asked: Asked
    value: float | None
    reason: str = ""
    by_epoch: Sequence[float] = ()
    seconds: float = 0.0
    artifacts: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended: all trials in the order in which they were asked for, and the best of them."""

    metric: str
    larger: bool
    trials: Sequence[TrialOutcome]
    best: TrialOutcome | None


def sweep(job: Job, context: Context, display: Display, links: Path, listing: Listing) -> Swept:
    """Run all trials of a job's sweep, round by round.

    Args:
        job: with a section `sweep`.
        context: handed to the stage functions.
        display: where the run shows itself.
        links: directory for links to the user's data.
        listing: hears of all stages.
    """
    settings = _sweep_of(job)
    source, trials = searcher(settings), list[TrialOutcome]()
    while asked := source.ask(settings.round):
        for done in run_round(job, asked, context, display, links, listing):
            trials.append(done)
            source.tell(done.asked, done.value)
            display.say(f"trial {said(done.asked)}: {told(done)}")
    larger = larger_is_better(settings)
    return Swept(metric_of(job, settings), larger, trials, best_of(trials, larger))


def run_round(
    job: Job, asked: Sequence[Asked], context: Context, display: Display, links: Path, listing: Listing
) -> list[TrialOutcome]:
    """Make the stages of trials that are run together; what becomes of each. One that fails leaves the others alone."""
    studies, mistakes = studies_of(job, asked)
    joined = union(studies)
    plan = plan_study(study_of(joined), context.store)
    listing.begin(plan, beside=True)
    kinds = {planned.stage.kind for planned in plan.values()}
    outcome = run(plan, context, display, joined.given, links, kinds, listing.heard)
    names = dict(zip(studies, joined.names, strict=True))
    return [
        _outcome(job, one, outcome, names[key_of(one)])
        if key_of(one) in names
        else TrialOutcome(one, None, mistakes[key_of(one)])
        for one in asked
    ]


def first_round(job: Job) -> Study:
    """The stages of the trials that are known before anything has run, each once; of those that make a study.

    Raises:
        UserError: none does.
    """
    asked = first_asked(job)
    studies, mistakes = studies_of(job, asked)
    if not studies:
        raise none_is_right({said(one): mistakes[key_of(one)] for one in asked})
    return study_of(union(studies))


def none_is_right(wrong: Mapping[str, str]) -> UserError:
    """What is told where every trial is wrong, given its mistake by how it is called."""
    first, *others = wrong
    if len(set(wrong.values())) == 1:
        return UserError(wrong[first])
    return UserError(f"{wrong[first]}; {len(others)} more trials are wrong, and none is right", where=f"trial {first}")


def first_asked(job: Job) -> list[Asked]:
    """The trials that are known before anything has run."""
    settings = _sweep_of(job)
    return searcher(settings).ask(settings.round)


def study_of(joined: Union) -> Study:
    """A union as one study."""
    return Study(list(joined.stages.values()), joined.given)


def studies_of(job: Job, asked: Sequence[Asked]) -> tuple[dict[str, Study], dict[str, str]]:
    """The stages of each trial by its key, and the mistakes of those that make no study."""
    studies, mistakes = dict[str, Study](), dict[str, str]()
    for one in asked:
        try:
            studies[key_of(one)] = expand(job.at(one.point))
        except UserError as error:
            mistakes[key_of(one)] = str(error)
    return studies, mistakes


def key_of(asked: Asked) -> str:
    """A name of a trial: "7", and "7.2" two rungs further."""
    return f"{asked.number}.{asked.rung}" if asked.rung else str(asked.number)


def said(asked: Asked) -> str:
    """A trial as the user is told of it: "7 (noise.ratios=[0])"."""
    return f"{key_of(asked)} ({', '.join(f'{path}={text(value)}' for path, value in asked.point.items())})"


def told(done: TrialOutcome) -> str:
    """Its value, or why it has none."""
    return f"failed: {done.reason}" if done.value is None else f"{done.value:.4g}"


def best_of(trials: Sequence[TrialOutcome], larger: bool) -> TrialOutcome | None:
    """The best by the metric, of equal ones the first; with rungs among those that came furthest."""
    there = [trial for trial in trials if trial.value is not None]
    top = max((trial.asked.rung for trial in there), default=0)
    sign = 1 if larger else -1
    return max((t for t in there if t.asked.rung == top), key=lambda t: sign * (t.value or 0), default=None)


def failures(swept: Swept) -> dict[str, Failure]:
    """Every failed trial with its reason."""
    return {
        f"trial {said(trial.asked)}": Failure(trial.reason, trial.log) for trial in swept.trials if trial.value is None
    }


def _sweep_of(job: Job) -> SweepSettings:
    assert job.sweep is not None
    return job.sweep


def _outcome(job: Job, asked: Asked, outcome: Outcome, names: Mapping[str, str]) -> TrialOutcome:
    there = {name: outcome.artifacts[called] for name, called in names.items() if called in outcome.artifacts}
    found = TrialOutcome(
        asked,
        None,
        seconds=sum(artifact.record.get("seconds", 0.0) for artifact in there.values()),
        artifacts={name: f"{artifact.kind}/{artifact.digest}" for name, artifact in there.items()},
    )
    for name, called in names.items():
        if failure := outcome.failures.get(called):
            return replace(found, reason=f"{name}: {failure.reason}", log=failure.log)
    return _judged(job, found, there)


def _judged(job: Job, found: TrialOutcome, there: Mapping[str, Artifact]) -> TrialOutcome:
    settings = _sweep_of(job)
    metric, larger = metric_of(job, settings), larger_is_better(settings)
    artifacts = [artifact for artifact in there.values() if artifact.kind == kind_of(metric)]
    try:
        judged = judge(metric, larger, artifacts)
    except NotMeasured as error:
        return replace(found, reason=str(error))
    if not math.isfinite(judged.value):
        return replace(found, reason=f"{metric} is {judged.value}", by_epoch=judged.by_epoch)
    return replace(found, value=judged.value, by_epoch=judged.by_epoch)


def status(trial: TrialOutcome, swept: Swept) -> str:
    """`finished` or `failed`; of rungs also `stopped` (not among the best) and `promoted` (its point went on)."""
    if trial.value is None:
        return "failed"
    if any(other.asked.number == trial.asked.number and other.asked.rung > trial.asked.rung for other in swept.trials):
        return "promoted"
    top = max(other.asked.rung for other in swept.trials)
    return "finished" if trial.asked.rung == top else "stopped"


def best_study(job: Job, swept: Swept) -> Study | None:
    """The stages of the best trial, whose report tells of the sweep."""
    if swept.best is None:
        return None
    count = len({trial.asked.number for trial in swept.trials})
    title: Any = f"{job.title or job.name}: the best of {count} trials by {swept.metric}"
    study = expand(job.at(swept.best.asked.point).model_copy(update={"title": title}))
    told_of = {"metric": swept.metric, "trials": [_facts(trial, swept) for trial in swept.trials]}
    stages = [
        replace(stage, settings={**stage.settings, "sweep": told_of}) if stage.kind == "report" else stage
        for stage in study.stages
    ]
    return Study(stages, study.given)


def _facts(trial: TrialOutcome, swept: Swept) -> dict[str, Any]:
    """The fields of `analysis.results.SweepTrial`."""
    return {
        "name": key_of(trial.asked),
        "point": plain(trial.asked.point),
        "value": trial.value,
        "rung": trial.asked.rung,
        "status": status(trial, swept),
        "best": trial is swept.best,
    }
