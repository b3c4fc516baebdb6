"""Checkpoints behind the loop's back: never before every rank's log, never an error lost."""

import threading

import numpy as np
import pytest
import torch

from nml_ray.pretrain import checkpoint
from nml_ray.pretrain.checkpoint import Snapshot
from nml_ray.pretrain.committer import Committer
from nml_ray.pretrain.feeding import Cut, part_path
from nml_ray.pretrain.resume import committed


def snapshot(attempt, step=4):
    return Snapshot(attempt, step, {"model": {"weight": torch.ones(2)}}, {"step": step})


def cut(attempt, rank=0, step=4):
    aside = attempt / "fed" / f".aside-{rank}-{step}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(b"records")
    return Cut(rank, step, (attempt,), (aside,))


def test_a_checkpoint_waits_for_the_log_of_every_rank(tmp_path):
    with Committer(ranks=2) as committer:
        committer.submit(cut(tmp_path), [snapshot(tmp_path)])
        while not part_path(tmp_path, 0, 4).exists():
            pass
        assert committed(tmp_path) == []
        cut(tmp_path, rank=1).finish()
    assert [path.name for path in committed(tmp_path)] == ["step-000000004"]


def breaks_after_a_commit(attempt, ranks):
    with Committer(ranks) as committer:
        committer.submit(cut(attempt), [snapshot(attempt)])
        raise ValueError("broke")


def test_a_rank_that_never_logs_is_not_waited_for_when_the_run_breaks(tmp_path):
    with pytest.raises(ValueError, match="broke"):
        breaks_after_a_commit(tmp_path, ranks=2)
    assert committed(tmp_path) == []
    assert part_path(tmp_path, 0, 4).exists()


def test_what_was_submitted_before_an_error_is_committed(tmp_path):
    with pytest.raises(ValueError, match="broke"):
        breaks_after_a_commit(tmp_path, ranks=1)
    assert len(committed(tmp_path)) == 1


@pytest.mark.parametrize("again", [True, False])
def test_an_error_of_writing_is_raised_at_the_next_commit_or_at_the_end(tmp_path, again):
    def commit() -> None:
        with Committer(ranks=1) as committer:
            missing = Cut(0, 4, (tmp_path,), (tmp_path / "fed" / ".aside-0-9",))
            committer.submit(missing, [snapshot(tmp_path)])
            if again:
                committer.submit(cut(tmp_path, step=8), [snapshot(tmp_path, 8)])

    with pytest.raises(FileNotFoundError):
        commit()
    assert committed(tmp_path) == []


def test_the_loop_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    may_write, saved = threading.Event(), checkpoint.save_file

    def slow(tensors, path):
        assert may_write.wait(30)
        saved(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", slow)
    with Committer(ranks=1) as committer:
        committer.submit(cut(tmp_path), [snapshot(tmp_path)])
        assert committed(tmp_path) == []  # submit came back before anything was written
        may_write.set()
    assert len(committed(tmp_path)) == 1


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    with Committer(ranks=1) as committer:
        for step in (4, 8, 12):
            committer.submit(cut(tmp_path, step=step), [snapshot(tmp_path, step)])
    assert [path.name[-2:] for path in committed(tmp_path)] == ["08", "12"]


def test_earlier_attempts_keep_their_checkpoints_until_the_new_one_has_as_many(tmp_path):
    old, new, later = (tmp_path / f"attempt-000{number}" for number in (1, 2, 3))
    for attempt, steps in ((old, (4, 8)), (later, (4,)), (new, (12, 16))):
        with Committer(ranks=1) as committer:
            for step in steps:
                committer.submit(cut(attempt, step=step), [snapshot(attempt, step)])
                committer.wait()
                if step == 12:
                    assert [path.name[-2:] for path in committed(old)] == ["04", "08"]
    assert [len(committed(attempt)) for attempt in (old, new, later)] == [0, 2, 1]


def test_a_snapshot_does_not_follow_the_training(make_plan):
    from nml_ray.models.config import EncoderSettings
    from nml_ray.pretrain.arm import Arm
    from nml_ray.pretrain.config import OptimiserSettings
    from nml_ray.pretrain.objective import seeded_objective
    from nml_ray.pretrain.world import World

    model = seeded_objective(EncoderSettings(width=2, channels=1, size=12), 5, 0.0, 0)
    labels = (np.arange(8) % 5).astype(np.int32)
    arm = Arm.build("arm", model, labels, labels, OptimiserSettings())
    taken = Snapshot.of(arm, None, 0, {}, {})
    before = {file: {name: value.clone() for name, value in values.items()} for file, values in taken.tensors.items()}
    arm.begin_step()
    arm.accumulate(torch.randn(8, 1, 12, 12), torch.arange(8), torch.ones(8))
    arm.update(World(), 0.1)
    for file, values in before.items():
        assert all(torch.equal(taken.tensors[file][name], value) for name, value in values.items())
    assert not torch.equal(arm.model.state_dict()["head.weight"], before["model"]["head.weight"])
