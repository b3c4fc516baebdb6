"""The data of a job's downstream tasks: their shard sets, what identifies them, and how classes fit together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers
from nml_ray.storage.digest import canonical_json
from nml_ray.storage.link import Link
from nml_ray.storage.location import locate
from nml_ray.study import sources
from nml_ray.study.job import RunSettings
from nml_ray.tasks.command import shard_command
from nml_ray.tasks.config import TaskSettings, ood_split
from nml_ray.tasks.find import beside, class_map, find_task
from nml_ray.tasks.subset import groups_of


@dataclass(frozen=True)
class TaskData:
    """One task, opened.

    Attributes:
        settings: its file.
        links: where its shard sets lie, by split.
        identity: plain JSON data that identifies them by their content.
        facts: what the heads stage is told, and hashed: see `sweep.splits.PLAIN`.
    """

    settings: TaskSettings
    links: Mapping[str, Path | Link]
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]


def open_tasks(names: Sequence[str], run: RunSettings) -> list[TaskData]:
    """The tasks that a job names.

    Raises:
        UserError: no such task, two of one name, a set that is not there, classes that do not fit.
    """
    opened: dict[str, TaskData] = {}
    for number, name in enumerate(names):
        task = find_task(name, f"tasks.{number}")
        if task.name in opened:
            raise UserError(f"task '{task.name}' twice", where=f"tasks.{number}", expected="tasks of different names")
        opened[task.name] = _opened(task, run)
    return list(opened.values())


def sharing(tasks: Sequence[TaskData]) -> dict[str, str]:
    """For each task the first of those that it has a set in common with, directly or by way of others, or itself."""
    groups: list[tuple[str, set[str], list[str]]] = []
    for task in tasks:
        first, sets, names = task.settings.name, {canonical_json(dict(one)) for one in task.identity.values()}, []
        others = [group for group in groups if group[1] & sets]
        for other in others:
            groups.remove(other)
            sets |= other[1]
            names += other[2]
        groups.append((others[0][0] if others else first, sets, [*names, task.settings.name]))
    return {name: first for first, _, names in groups for name in names}


def _opened(task: TaskSettings, run: RunSettings) -> TaskData:
    links = {split: _place(task, split, run) for split in task.sets()}
    identity = {split: sources.dataset_identity(split, place, layout=True) for split, place in links.items()}
    classes = {split: tuple(sources.any_info(split, place)["classes"]) for split, place in links.items()}
    facts: dict[str, Any] = {"metric": task.metric}
    if cuts := task.cuts():
        facts |= {"cuts": cuts, "seed": task.seed}
    if task.metric == "pearson":
        facts["values"] = {split: _values(names, _where(task, split)) for split, names in classes.items()}
        facts["ood"] = dict.fromkeys(task.ood)
    else:
        for split in ("validation", "test"):
            if split in classes:
                _refuse_other(classes["train"], classes[split], _where(task, split))
        facts["ood"] = {name: _groups(task, name, classes, run) for name in task.ood}
    return TaskData(task, links, identity, facts)


def _where(task: TaskSettings, split: str) -> str:
    return f"task {task.name}, {split}"


def _place(task: TaskSettings, split: str, run: RunSettings) -> Path | Link:
    shards, where = task.sets()[split].shards, _where(task, split)
    location = locate(beside(shards, run.task_data), where)
    if location.remote:
        return Link(str(location), run.shard_cache, run.shard_cache_size)
    if not location.local.is_dir():
        made = shard_command(task, split, task_data=run.task_data)
        raise UserError(
            f"there are no shards at '{location.local}'",
            where=where,
            expected=f"a directory of tars (run.task_data: {run.task_data})" + (f"; made by `{made}`" if made else ""),
        )
    return location.local


def _groups(
    task: TaskSettings, name: str, classes: Mapping[str, Sequence[str]], run: RunSettings
) -> list[list[int]] | None:
    split = ood_split(name)
    return groups_of(classes["train"], classes[split], _where(task, split), class_map(task, name, run.task_data))


def _refuse_other(train: Sequence[str], other: Sequence[str], where: str) -> None:
    """Labels of the same domain mean the same classes; those that are only numbers fit any."""
    if tuple(train) == tuple(other) or are_numbers(other) or are_numbers(train):
        if len(other) > len(train):
            raise UserError(f"{len(other)} classes", where=where, expected=f"the {len(train)} of train")
        return
    pairs = zip_longest(train, other)
    label, (first, second) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
    here, there = (f"'{name}'" if name is not None else "no class" for name in (second, first))
    raise UserError(
        f"label {label} is {here}, but {there} in train",
        where=where,
        expected="the same class names in the same order: shard both with one --classes file",
    )


def _values(names: Sequence[str], where: str) -> list[float]:
    """The numbers that the labels of a regression mean: their class names."""
    values = []
    for name in names:
        if (value := _number(name)) is None:
            raise UserError(f"label '{name}'", where=where, expected="finite numbers, for metric pearson")
        values.append(value)
    return values


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
