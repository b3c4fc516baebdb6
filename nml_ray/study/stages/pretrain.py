"""The pretrain stage: arms of one pre-training seed, sharing a loader or spread as trials of a sweep."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.pretrain.arrival import forget, resumable
from nml_ray.pretrain.best import BEST
from nml_ray.pretrain.capacity import Workers
from nml_ray.pretrain.plan import ArmOutcome, ArmPlan, GroupPlan
from nml_ray.pretrain.resume import FOLDER, companies
from nml_ray.storage.artifact import Attempt
from nml_ray.storage.digest import canonical_json
from nml_ray.study.job import VALIDATION, RunSettings
from nml_ray.study.task import Context, Task


def run(tasks: Sequence[Task], context: Context) -> None:
    """Train the arms, at most `arms_per_worker` of them in one worker, and finish each as an artifact of its own.

    What keeps one arm from its end is raised once the others have come to theirs.
    """
    by_name = {task.stage.name: task for task in tasks}
    plans = [group_plan(group, context) for group in groups_of(tasks, context.run)]
    failed, traces, unfinished = list[str](), list[str](), list[Exception]()
    for outcome in _train(plans, context):
        task = by_name[outcome.name]
        if outcome.error:
            task.attempt.fail(outcome.error)
            failed.append(f"{outcome.name}: {outcome.error}")
            traces += [outcome.trace] if outcome.trace else []
            continue
        try:
            _finish(task.attempt, outcome)
        except Exception as error:
            failed.append(f"{outcome.name}: {error}")
            unfinished.append(error)
    for mistake in unfinished:
        if isinstance(mistake, UserError):
            raise mistake
    if failed:
        failure = RuntimeError("; ".join(failed))
        for trace in dict.fromkeys(traces):
            failure.add_note(f"In a worker:\n{trace}")
        raise failure from next(iter(unfinished), None)


def _finish(attempt: Attempt, outcome: ArmOutcome) -> None:
    attempt.finish(**outcome.facts)
    for path in (attempt.path, *attempt.earlier):
        shutil.rmtree(path / FOLDER, ignore_errors=True)
    for path in attempt.earlier:  # the last one has its own link to the best
        shutil.rmtree(path / BEST, ignore_errors=True)
    forget(attempt)


def groups_of(tasks: Sequence[Task], run: RunSettings) -> list[Sequence[Task]]:
    """Arms that share a worker: as many as wanted, of one seed and recipe, and able to go on from one step."""
    alike: dict[str, list[Task]] = {}
    for task in tasks:
        alike.setdefault(_but_noise(task), []).append(task)
    groups: list[Sequence[Task]] = []
    for some in alike.values():
        size = run.arms_together or len(some)
        steps = [set(resumable([task.attempt.path, *task.attempt.earlier])) for task in some]
        for company in companies(steps):
            members = [some[number] for number in company]
            groups += [members[first : first + size] for first in range(0, len(members), size)]
    return groups


def _but_noise(task: Task) -> str:
    """What arms that share a worker have in common."""
    settings = {name: value for name, value in task.stage.settings.items() if name != "noise"}
    inputs = {role: str(artifact.path) for role, artifact in task.inputs.items() if role != "labels"}
    return canonical_json({"settings": settings, "inputs": inputs})


def group_plan(tasks: Sequence[Task], context: Context) -> GroupPlan:
    """The plan of arms that share a worker; they differ in their noise alone."""
    first = tasks[0]
    arms = tuple(
        ArmPlan(
            task.stage.name,
            task.stage.settings["noise"],
            str(task.attempt.path),
            tuple(str(path) for path in task.attempt.earlier),
            str(task.inputs["labels"].path / "labels.parquet") if "labels" in task.inputs else "",
        )
        for task in tasks
    )
    return GroupPlan(
        data=str(first.inputs["shards"].path / "pretrain"),
        settings=_recipe(first),
        seed=first.stage.settings["seed"],
        threads=context.threads,
        arms=arms,
        decode_threads=context.run.decode_threads,
        checkpoint_steps=context.run.checkpoint_steps,
        checkpoint_minutes=context.run.checkpoint_minutes,
        keep_checkpoints=context.run.keep_checkpoints,
        undecodable_limit=context.run.undecodable_limit,
        device=context.run.device,
        validation=str(first.inputs["validation"].path / VALIDATION) if "validation" in first.inputs else "",
        zero_shot=_zero_shot(first),
        trackers=context.run.trackers,
    )


def _zero_shot(task: Task) -> str:
    """Where the images lie that are classified by text, if any are."""
    if "zero_shot" not in task.inputs:
        return ""
    return str(task.inputs["zero_shot"].path / task.stage.settings["pretrain"]["clip"]["zero_shot"]["split"])


def _recipe(task: Task) -> dict[str, Any]:
    """The stage's recipe with the path of given weights in place of their digest."""
    recipe = dict(task.stage.settings["pretrain"])
    if "weights" in task.inputs:
        (file,) = task.inputs["weights"].path.iterdir()
        recipe["encoder"] = {**recipe["encoder"], "weights": str(file)}
    return recipe


def _train(plans: Sequence[GroupPlan], context: Context) -> Iterable[ArmOutcome]:
    """The arms' outcomes, each group's as soon as it has ended."""
    from nml_ray.pretrain.preflight import refuse_model

    for plan in {canonical_json(dict(plan.settings)): plan for plan in plans}.values():  # of a sweep several
        refuse_model(plan)
    if context.inline:
        return (outcome for plan in plans for outcome in _train_inline(plan))
    context.start_ray()
    run, storage = context.run, str(context.store.root / "ray")
    workers = Workers(run.least_workers, run.most_workers)
    if are_trials(plans, run, workers):
        from nml_ray.sweep.arms import train_as_trials

        return train_as_trials(plans, workers, storage, run.wait_minutes)
    from nml_ray.pretrain.trainer import train_on_ray

    return (outcome for plan in plans for outcome in train_on_ray(plan, workers, storage, run.wait_minutes))


def are_trials(plans: Sequence[GroupPlan], run: RunSettings, workers: Workers) -> bool:
    """Whether each group is a trial of Ray Tune's; otherwise they are trained one after the other.

    Raises:
        UserError: the cluster has no room for one.
    """
    from nml_ray.pretrain import trainer

    if run.arms == "sweep":
        return True
    return len(plans) > 1 and trainer.runs_at_once(plans[0], workers, run.wait_minutes) > 1


def _train_inline(plan: GroupPlan) -> list[ArmOutcome]:
    from nml_ray.pretrain.loop import train_group
    from nml_ray.pretrain.notice import Notice
    from nml_ray.pretrain.plan import progress_of
    from nml_ray.pretrain.world import World

    return train_group(plan, World(), progress_of(plan), Notice(Path(plan.arms[0].attempt)))
