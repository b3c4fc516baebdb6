"""Which arms share a worker, and which groups of them run side by side."""

from pathlib import Path
from typing import cast

import pytest

from nml_ray.pretrain.capacity import Workers
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.storage.artifact import Artifact, Store
from nml_ray.study.job import RunSettings
from nml_ray.study.stage import Stage
from nml_ray.study.stages import pretrain as stage
from nml_ray.study.task import Task


def tasks_of(root: Path, arms: int, seeds: int = 1, epochs: tuple[int, ...] = (1,)) -> list[Task]:
    store, shards = Store(root), Artifact("shards", "0", root / "shards", {})
    return [
        Task(
            Stage(
                name := f"{passes}/{seed}/{arm}",
                "pretrain",
                1,
                {"pretrain": {"epochs": passes}, "noise": {"ratio": str(arm)}, "seed": seed},
                "",
            ),
            {"shards": shards},
            store.attempt("pretrain", name.replace("/", "-")),
        )
        for passes in epochs
        for seed in range(seeds)
        for arm in range(arms)
    ]


def names(groups) -> list[list[str]]:
    return [[task.stage.name for task in group] for group in groups]


@pytest.mark.parametrize(
    ("run", "sizes"),
    [
        ({}, [5]),
        ({"arms_per_worker": 2}, [2, 2, 1]),
        ({"arms": "sweep"}, [1] * 5),
        ({"arms": "sweep", "arms_per_worker": 2}, [2, 2, 1]),
        ({"arms": "sweep", "arms_per_worker": 9}, [5]),
    ],
)
def test_as_many_arms_share_a_worker_as_are_wanted(tmp_path, run, sizes):
    assert [len(group) for group in stage.groups_of(tasks_of(tmp_path, 5), RunSettings(**run))] == sizes


def test_only_arms_of_one_seed_and_recipe_share_a_worker(tmp_path):
    run = RunSettings(arms="sweep", arms_per_worker=2)
    groups = stage.groups_of(tasks_of(tmp_path, 3, seeds=2, epochs=(1, 2)), run)
    assert names(groups)[:4] == [["1/0/0", "1/0/1"], ["1/0/2"], ["1/1/0", "1/1/1"], ["1/1/2"]]
    assert len(groups) == 8


@pytest.mark.parametrize(
    ("run", "groups", "at_once", "trials"),
    [
        ({}, 1, 4, False),
        ({"arms_per_worker": 1}, 3, 1, False),
        ({"arms_per_worker": 1}, 3, 2, True),
        ({"arms": "sweep"}, 3, 1, True),
    ],
)
def test_groups_are_trials_where_the_cluster_has_room_for_more_than_one(monkeypatch, run, groups, at_once, trials):
    monkeypatch.setattr("nml_ray.pretrain.trainer.runs_at_once", lambda *args: at_once)
    assert stage.are_trials([cast(GroupPlan, None)] * groups, RunSettings(**run), Workers()) is trials
