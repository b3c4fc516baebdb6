"""Tables over downstream tasks: every task's own metric, means and ranks over tasks, and scores by data fraction."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nml_ray.analysis import statistics
from nml_ray.analysis.results import ArmResult, StudyResult, TaskResult
from nml_ray.analysis.statistics import Estimate, estimate
from nml_ray.analysis.tables import Samples, Table, arm_facts, rows_of, score_facts
from nml_ray.analysis.wording import head_label, in_sentence, ratio_label, split_label

Row = tuple[str, Sequence[ArmResult]]
"""A noise ratio, and the arms that have it among them."""


def task_table(tasks: Sequence[TaskResult]) -> Table:
    """Rows: task x noise ratio (or given encoder), then the means over tasks. Columns: head x domain.

    Each task in its own metric, times 100; out of domain is the mean over the task's sets of other domains.
    """
    heads, splits = heads_of(tasks), splits_of(tasks)
    rows = [
        (
            f"{task.title}, {label}",
            _cells(partial(statistics.score, some, ratio), heads, splits, task.metric, task.samples),
        )
        for task in tasks
        for label, ratio, some in rows_of(task.arms)
    ]
    rows += [
        (f"Mean over tasks, {label}", [mean_over(tasks, label, head, split) for split in splits for head in heads])
        for label in labels_of(tasks)
        if len(tasks) > 1
    ]
    return Table("Task", _groups(splits, heads), _columns(splits, heads), rows)


def rank_table(tasks: Sequence[TaskResult]) -> Table:
    """The mean rank of each head among all heads over tasks (1 is best; equal scores share a rank)."""
    heads, splits = heads_of(tasks), splits_of(tasks)
    rows = [
        (label, [cell for split in splits for cell in mean_ranks(tasks, label, heads, split)])
        for label in labels_of(tasks)
    ]
    return Table("Ranks over tasks", _groups(splits, heads), _columns(splits, heads), rows, scale=1, digits=2)


def noise_table(tasks: Sequence[TaskResult]) -> Table:
    """What each ratio did to each head on each task: differences to the clean arm, paired within a seed, times 100."""
    heads, splits = heads_of(tasks), splits_of(tasks)
    rows = [
        (
            f"{task.title}, {ratio_label(ratio)}",
            _cells(partial(statistics.ratio_difference, some, ratio), heads, splits, task.metric, task.samples),
        )
        for task in tasks
        for some in [statistics.trained(task.arms)]
        for ratio in statistics.ratios(some)
        if ratio != statistics.CLEAN
    ]
    return Table("Task", _groups(splits, heads), _columns(splits, heads), rows, judged=True)


def gain_table(tasks: Sequence[TaskResult]) -> Table:
    """What each head gains over the first on the same features of each task, paired within a seed, times 100."""
    (base, *others), splits = heads_of(tasks) or [""], splits_of(tasks)
    rows = [
        (
            f"{task.title}, {label}",
            [
                statistics.head_difference(some, ratio, head, base, split, task.metric, task.samples.get(split))
                for split in splits
                for head in others
            ],
        )
        for task in tasks
        for label, ratio, some in rows_of(task.arms)
    ]
    groups = [(f"{split_label(split)}, over {in_sentence(base)}", len(others)) for split in splits if others]
    return Table("Task", groups, _columns(splits, others), rows, judged=True)


def fraction_table(result: StudyResult) -> Table:
    """Rows: task (where there are), noise ratio or given encoder, data fraction. Columns: head x domain."""
    places: list[tuple[str, Sequence[ArmResult], str, Samples]] = [("", result.arms, "accuracy", {})]
    places += [(f"{task.title}, ", task.arms, task.metric, task.samples) for task in result.tasks]
    arms = [arm for _, own, _, _ in places for arm in own if arm.fractions]
    every = [replace(arm, heads=arm.fractions) for arm in arms]
    heads, splits = statistics.methods(every), statistics.splits(every)
    rows = []
    for title, own, metric, samples in places:
        for label, ratio, some in rows_of(own):
            for share in sorted({score.fraction for arm in some for score in arm.fractions}, key=float):
                thin = [replace(arm, heads=[one for one in arm.fractions if one.fraction == share]) for arm in some]
                cells = _cells(partial(statistics.score, thin, ratio), heads, splits, metric, samples)
                if any(cells):
                    rows.append((f"{title}{label}, {ratio_label(share)} of the training samples", cells))
    return Table("Data", _groups(splits, heads), _columns(splits, heads), rows)


def _cells(
    measure: Callable[[str, str, str, int | None], Estimate | None],
    heads: Sequence[str],
    splits: Sequence[str],
    metric: str,
    samples: Samples,
) -> list[Estimate | None]:
    """A row of a table: measure(head, split, metric, size of the split) of each head in each domain."""
    return [measure(head, split, metric, samples.get(split)) for split in splits for head in heads]


def heads_of(tasks: Sequence[TaskResult]) -> list[str]:
    """The heads of any task."""
    return statistics.methods([arm for task in tasks for arm in task.arms])


def splits_of(tasks: Sequence[TaskResult]) -> list[str]:
    """The domains measured by any task."""
    return statistics.splits([arm for task in tasks for arm in task.arms])


def labels_of(tasks: Sequence[TaskResult]) -> list[str]:
    """The noise ratios and given encoders of all tasks."""
    return list(dict.fromkeys(label for task in tasks for label, _, _ in rows_of(task.arms)))


def by_seed(task: TaskResult, label: str, head: str, split: str) -> dict[int, float]:
    """Pre-training seed to the task's own score; head seeds are averaged inside each."""
    for one, ratio, some in rows_of(task.arms):
        if one == label:
            return statistics.scores_by_seed(some, ratio, head, split, task.metric)
    return {}


def counted(tasks: Sequence[TaskResult], split: str) -> list[TaskResult]:
    """The tasks that count for the average of a domain."""
    return [task for task in tasks if split in task.counts_for]


def mean_over(tasks: Sequence[TaskResult], label: str, head: str, split: str) -> Estimate | None:
    """The mean over the tasks that count for this domain, formed within each seed that has them all."""
    found = [by_seed(task, label, head, split) for task in counted(tasks, split)]
    seeds = set.intersection(*map(set, found)) if found else set()
    if not seeds:
        return None
    return estimate({seed: math.fsum(one[seed] for one in found) / len(found) for seed in seeds})


def mean_ranks(tasks: Sequence[TaskResult], label: str, heads: Sequence[str], split: str) -> list[Estimate | None]:
    """Each head's rank among `heads`, averaged over the tasks that count, within each seed that has them all."""
    found = [[by_seed(task, label, head, split) for head in heads] for task in counted(tasks, split)]
    seeds = set.intersection(*(set(one) for task in found for one in task)) if found else set()
    if not seeds:
        return [None] * len(heads)
    ranked = {seed: [ranks([one[seed] for one in task]) for task in found] for seed in seeds}
    return [
        estimate({seed: math.fsum(task[place] for task in own) / len(own) for seed, own in ranked.items()})
        for place in range(len(heads))
    ]


def ranks(scores: Sequence[float]) -> list[float]:
    """1 for the highest score; equal ones share the mean of their places."""
    return [
        sum(other > score for other in scores) + (1 + sum(other == score for other in scores)) / 2 for score in scores
    ]


def task_rows(tasks: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """One row for each task, arm, head, head seed, data fraction, split (ood-NAME: one set) and metric."""
    return [
        {
            "task": task.name,
            "task_metric": task.metric,
            **arm_facts(arm),
            **score_facts(score),
            "fraction": score.fraction,
            "split": split,
            "samples": task.samples.get(split, ""),
            "metric": metric,
            "value": value,
        }
        for task in tasks
        for arm in task.arms
        for score in (arm.fractions or arm.heads)
        for split, metrics in score.scores.items()
        for metric, value in metrics.items()
    ]


def account(task: TaskResult) -> Mapping[str, str]:
    """What there is to know of a task in the report's list."""
    sizes = ", ".join(f"{split} {count:,}" for split, count in task.samples.items())
    chance = "" if task.chance is None else f"; a guess has {100 * task.chance:.1f}"
    return {"name": task.title, "what": f"{task.metric.replace('_', ' ')}{chance}", "samples": sizes}


def _groups(splits: Sequence[str], heads: Sequence[str]) -> list[tuple[str, int]]:
    return [(split_label(split), len(heads)) for split in splits]


def _columns(splits: Sequence[str], heads: Sequence[str]) -> list[str]:
    return [head_label(head) for _ in splits for head in heads]
