"""Checkpoints by step and by time, how many stay, and the best one that retention does not take."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet
from pydantic import ValidationError
from safetensors.numpy import load_file

from nml_ray.pretrain import best, pace
from nml_ray.pretrain.best import best_epoch, keep_best, settle_best
from nml_ray.pretrain.pace import Pace
from nml_ray.pretrain.world import World
from nml_ray.study.job import RunSettings
from tests.pretrain.killed_loop import Killed, train
from tests.pretrain.test_workers import train as train_on_workers

pytestmark = pytest.mark.long


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*"))


def parts(attempt: Path, rank: int) -> list[int]:
    """Up to which steps a rank's feeding log was cut."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in (attempt / "fed").glob(f"rank-{rank}-*.arrow"))


def same(first: Path, second: Path) -> bool:
    tensors, others = load_file(first), load_file(second)
    return tensors.keys() == others.keys() and all(np.array_equal(tensors[name], others[name]) for name in tensors)


class Two(World):
    """One of two workers in one process, who hear what rank 0 has said."""

    said: list[torch.Tensor] = []

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.rank == 0:
            self.said.append(tensor.clone())
            return tensor
        return tensor.add_(self.said[-1])


def test_the_clock_of_rank_0_counts_for_all(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace, "monotonic", lambda: now[0])
    first, second = (Pace(10, 0.5, Two(rank, 2)) for rank in (0, 1))
    second._since = -1e9  # another machine's clock
    decided = []
    for step in range(1, 26):
        now[0] += 7
        decided.append((first.due(step), second.due(step)))
    assert all(mine == other for mine, other in decided)
    assert [step for step, (due, _) in enumerate(decided, 1) if due] == [
        8,
        10,
        16,
        20,
    ]  # they ask each other after every fourth


def test_without_minutes_nothing_is_summed():
    paces = Pace(4, 0, Two(1, 2))
    Two.said.clear()
    assert [step for step in range(1, 9) if paces.due(step)] == [4, 8]


def test_the_best_epoch_is_the_earliest_of_equals():
    curves = [{"epoch": n, "validation_accuracy": value} for n, value in enumerate([0.2, 0.75, 0.5, 0.75])]
    assert best_epoch(curves)["epoch"] == 1
    assert best_epoch([{"epoch": 0}]) is None


def checkpoint(attempt: Path, step: int) -> Path:
    made = attempt / "checkpoints" / f"step-{step:09d}"
    made.mkdir(parents=True)
    (made / "state.json").write_text(json.dumps(step))
    return made


@pytest.mark.parametrize("links", [True, False])
def test_the_best_and_the_one_before_outlive_their_checkpoints(tmp_path, monkeypatch, links):
    def refused(source, target):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(best.os, "link", refused)
    for step in (4, 8, 12):
        made = checkpoint(tmp_path, step)
        keep_best(made, tmp_path)
        keep_best(made, tmp_path)  # once more after a kill
        (made / "state.json").unlink()
    assert names(tmp_path / "best") == ["step-000000008", "step-000000012"]
    assert (tmp_path / "best" / "step-000000012" / "state.json").read_text() == "12"


def test_a_new_attempt_gets_the_best_of_the_curves_that_it_goes_on_from(tmp_path):
    old, older, new = (tmp_path / name for name in ("old", "older", "new"))
    for attempt, step in ((older, 4), (older, 8), (old, 12)):
        keep_best(checkpoint(attempt, step), attempt)
    settle_best(new, [old, older], "step-000000008")
    assert names(new / "best") == ["step-000000008"]
    settle_best(new, [old, older], "step-000000008")
    assert names(new / "best") == ["step-000000008"]
    settle_best(old, [older], "")  # back to before the first epoch
    assert names(old / "best") == []


SETTINGS = {"epochs": 5, "optimiser": {"name": "sgd", "learning_rate": 1.0}}  # too much: the last is not the best


@pytest.fixture
def make_validated(make_plan, tiny_data):
    return lambda store, **rest: replace(make_plan(store=store, **SETTINGS), validation=str(tiny_data), **rest)


def test_the_best_checkpoint_lies_beside_the_encoder_and_in_the_record(make_validated):
    plan = make_validated("store", checkpoint_steps=5, keep_checkpoints=3)  # 5 does not divide an epoch's 6 steps
    for outcome, arm in zip(train(plan), plan.arms, strict=True):
        attempt = Path(arm.attempt)
        rows = parquet.read_table(attempt / "curves.parquet").to_pylist()
        accuracies = [row["validation_accuracy"] for row in rows]
        epoch = accuracies.index(max(accuracies))
        step = 6 * (epoch + 1)
        assert outcome.facts["best"] == {
            "epoch": epoch,
            "step": step,
            "validation_accuracy": max(accuracies),
            "checkpoint": f"best/step-{step:09d}",
        }
        assert names(attempt / "best") == [f"step-{step:09d}"]
        state = json.loads((attempt / "best" / f"step-{step:09d}" / "state.json").read_text())
        assert state["curves"][-1]["validation_accuracy"] == max(accuracies)
        kept = names(attempt / "checkpoints")
        assert kept == sorted(f"step-{step:09d}" for step in parts(attempt, 0)[-3:])


@pytest.mark.parametrize("images", [13 * 32, 22 * 32, 30 * 32])
def test_a_resumed_run_has_the_best_of_the_undisturbed(make_validated, images):
    undisturbed, killed = make_validated("undisturbed"), make_validated("killed", checkpoint_steps=4)
    expected = train(undisturbed)
    assert expected[1].facts["best"]["step"] <= 12  # in the attempt that is killed
    with pytest.raises(Killed):
        train(killed, images)
    resumed = make_validated("killed")
    for one, other, first, second in zip(expected, train(resumed), undisturbed.arms, resumed.arms, strict=True):
        assert one.facts["best"] == other.facts["best"]
        kept = Path(one.facts["best"]["checkpoint"]) / "model.safetensors"
        assert names(Path(second.attempt) / "best") == [kept.parent.name]
        assert same(Path(first.attempt) / kept, Path(second.attempt) / kept)


def test_checkpoints_by_time_change_no_bits(make_plan):
    plain, often = make_plan(store="plain"), replace(make_plan(store="often"), checkpoint_minutes=1e-9)
    outcomes = [train(plan)[0] for plan in (plain, often)]
    attempts = [Path(plan.arms[0].attempt) for plan in (plain, often)]
    assert same(*(attempt / "encoder.safetensors" for attempt in attempts))
    assert [parts(attempt, 0) for attempt in attempts] == [[6, 12, 18], list(range(1, 19))]
    assert names(attempts[1] / "checkpoints") == ["step-000000017", "step-000000018"]
    assert [outcome.facts["best"] for outcome in outcomes] == [None, None]
    assert not (attempts[1] / "best").exists()


@pytest.mark.slow
def test_two_workers_make_checkpoints_by_time_after_the_same_steps(make_plan, tmp_path):
    plan = replace(make_plan(microbatch=8, epochs=2), checkpoint_minutes=1e-9)
    train_on_workers(plan, 2, tmp_path / "meet")
    attempt = Path(plan.arms[0].attempt)
    assert parts(attempt, 0) == parts(attempt, 1) == [4, 6, 8, 12]  # every fourth, and the ends of epochs


def test_arms_that_share_a_worker_keep_two(tmp_path):
    with pytest.raises(ValidationError, match="keep at least 2"):
        RunSettings(keep_checkpoints=1)
    assert RunSettings(keep_checkpoints=1, arms_per_worker=1).keep_checkpoints == 1
    assert RunSettings(keep_checkpoints=1, arms="sweep").keep_checkpoints == 1
    with pytest.raises(ValidationError, match="keep at least 2"):
        RunSettings(keep_checkpoints=1, arms="sweep", arms_per_worker=2)
