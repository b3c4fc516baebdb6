"""What of a study can still be reported where some of its downstream tasks could not be measured. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from nml_ray.study.expand import Study


def without_tasks(study: Study, missing: Collection[str]) -> Study | None:
    """The study without the downstream tasks that lack a stage; its report names them.

    None where something else is missing too, or nothing is left to report.
    """
    report = next((stage for stage in study.stages if stage.kind == "report"), None)
    if report is None:
        return None
    tasks = report.settings.get("tasks", ())
    lost = [task for task in tasks if not _stages(task).isdisjoint(missing)]
    kept = [task for task in tasks if task not in lost]
    out = {name for task in lost for name in _stages(task)}
    if not lost or not set(missing) <= {*out, report.name} or not (kept or report.settings["arms"]):
        return None
    settings = {**report.settings, "tasks": kept, "lacking": [task["title"] for task in lost]}
    inputs = {role: source for role, source in report.inputs.items() if source not in out}
    stages = [stage for stage in study.stages if stage.name not in out and stage is not report]
    given = {name: found for name, found in study.given.items() if name not in out}
    return Study([*stages, replace(report, settings=settings, inputs=inputs)], given)


def _stages(task: Mapping[str, Any]) -> set[str]:
    """The stages of a task that no other has: its data, and of every encoder features, spectra and heads."""
    own = {name for arm in task["arms"] for kind, name in arm["roles"].items() if kind in ("spectrum", "heads")}
    ends = {name.partition("/")[2] for name in own}
    return {task["shards"]} | {f"{kind}/{end}" for kind in ("extract", "spectrum", "heads") for end in ends}
