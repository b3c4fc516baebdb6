"""A sweep against the job that it varies: fields that exist, points that are jobs, a metric that is measured."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from nml_ray.config.document import plain
from nml_ray.config.errors import UserError
from nml_ray.config.validate import Misplaced
from nml_ray.heads.config import search_name
from nml_ray.sweep.config import SweepSettings
from nml_ray.sweep.search import Point
from nml_ray.tasks.find import find_task

if TYPE_CHECKING:
    from nml_ray.study.job import Job


def text(value: Any) -> str:
    """A value as an override writes it; numbers without exponent, as ratios want them."""
    if isinstance(value, float):
        return format(Decimal(repr(float(value))), "f")
    return json.dumps(plain(value))


def assignments(point: Point) -> list[str]:
    """A point as overrides of the job."""
    return [f"{path}={text(at)}" for path, at in point.items()]


def _first_point(sweep: SweepSettings) -> dict[str, Any]:
    first: dict[str, Any] = {path: space.ends()[0] for path, space in sweep.search.items()}
    return first | ({sweep.asha.field: sweep.asha.epochs[0]} if sweep.asha else {})


def points_to_check(sweep: SweepSettings) -> Iterator[tuple[str, Point]]:
    """A point for every value, or end of a range, of every field, with the others at their first; and its field."""
    first = _first_point(sweep)
    for path, space in sweep.search.items():
        for value in space.ends():
            yield path, {**first, path: value}


def check_sweep(sweep: SweepSettings, job: "Job") -> None:
    """Refuse what would fail in every trial that has a value, before anything runs.

    Raises:
        Misplaced: at the field in the job file.
    """
    jobs = []
    for path, space in sweep.search.items():
        if space.whole_only(partial(_is_valid, job, _first_point(sweep), path)):
            raise Misplaced(f"{path} takes whole numbers: use integers: [LOW, HIGH]", "sweep", "search", path)
    for path, point in points_to_check(sweep):
        try:
            jobs.append(job.at(point))
        except UserError as error:
            words = str(error).removeprefix("--set ")
            if sweep.asha and words.startswith(f"{sweep.asha.field}="):
                raise Misplaced(words, "sweep", "asha", "field") from None
            if not words.startswith(f"{path}="):
                words = f"with {path}={text(point[path])}: {words}"
            raise Misplaced(words, "sweep", "search", path) from None
    stage, _, name = metric_of(job, sweep).partition(".")
    for found in jobs:
        if lacks := _lacks(stage, name, found):
            raise Misplaced(f"'{stage}.{name}' is not measured: {lacks}", "sweep", "metric")


def _is_valid(job: "Job", point: Point, path: str, value: Any) -> bool:
    try:
        job.at({**point, path: value})
    except UserError:
        return False
    return True


def _regression(tasks: Sequence[str]) -> str:
    """The first task whose labels are numbers; one that cannot be read is told where tasks are opened."""
    for name in tasks:
        try:
            if (task := find_task(name)).metric == "pearson":
                return task.name
        except UserError:
            continue
    return ""


def metric_of(job: "Job", sweep: SweepSettings) -> str:
    """What the trials are judged by."""
    heads = job.heads is not None or any(path.split(".")[0] == "heads" for path in sweep.search)
    return sweep.metric or ("heads.score" if heads else "pretrain.validation_accuracy")


def _lacks(stage: str, name: str, job: "Job") -> str:
    if stage == "heads":
        head, _, measure = name.rpartition(".")
        if job.heads is None:
            return "the job has no section 'heads'"
        names = list(dict.fromkeys(search_name(one.head, one.preset) for one in job.heads.expand()))
        if head and head not in names:
            return f"no head '{head}', only {', '.join(names)}"
        if measure != "score" and (task := _regression(job.tasks)):
            return f"task '{task}' is judged by pearson: take heads.score, the metric of each task"
        return ""
    if job.pretrain is None:
        return "the job has no section 'pretrain'"
    if name.startswith("validation") and "pretrain_validation" not in job.given_splits():
        return "add data.shards.pretrain_validation"
    if name.startswith("zero_shot"):
        zero_shot = job.pretrain.zero_shot()
        if zero_shot is None:
            return "only clip with zero_shot has it"
        if zero_shot.split in ("test", "ood"):
            return f"pretrain.clip.zero_shot.split is {zero_shot.split}: a sweep is judged on validation"
    return ""
