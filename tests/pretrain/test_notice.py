"""A checkpoint that is asked for: by whom, and that it comes."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.pretrain.ending import tell_end
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.notice import Notice, ask, is_asked, newest
from nml_ray.pretrain.pace import Pace
from nml_ray.pretrain.resume import committed
from nml_ray.pretrain.world import World
from nml_ray.storage import twin
from nml_ray.storage.mirror import working_root
from nml_ray.storage.twin import twin_of


def test_a_group_is_asked_until_all_arms_that_go_on_have_a_checkpoint(tmp_path):
    attempts = [tmp_path / "arm" / name for name in ("first", "second", "ended")]
    first, second, ended = attempts
    for attempt in attempts:
        (attempt / "checkpoints").mkdir(parents=True)
    (first / "checkpoints" / "step-000000004").mkdir()
    tell_end(ended, 3, "loss is nan")
    heard = []

    def worker():
        notice = Notice(first)
        while not notice():
            pass
        heard.append(newest(attempts))
        for attempt in (first, second):
            (attempt / "checkpoints" / "step-000000007").mkdir()

    thread = threading.Thread(target=worker)
    thread.start()
    assert ask(attempts, 60)
    thread.join()
    assert heard == [0]
    assert newest(attempts) == 7
    assert not is_asked(first)


def test_a_worker_of_another_machine_is_asked_through_the_object_store(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(twin, "_TOLD_EVERY", 0.1)
    roots = [working_root(str(bucket.at("runs")), str(tmp_path / machine)) for machine in ("driver", "worker")]
    attempt, there = (root / "pretrain" / "arm" / "attempt-0001" for root in roots)
    attempt.mkdir(parents=True)

    def worker():
        notice = Notice(there)
        while not notice():
            pass
        there.mkdir(parents=True)
        (there / "state.json").touch()
        twin_of(there).publish("checkpoints/step-000000007", {"state.json": there / "state.json"})

    thread = threading.Thread(target=worker)
    thread.start()
    assert ask([attempt], 60)
    thread.join()
    assert newest([attempt]) == newest([there]) == 7
    assert not is_asked(attempt)


def test_no_checkpoint_in_time_is_told(tmp_path):
    assert not ask([tmp_path], 0)
    assert not is_asked(tmp_path)


def test_a_notice_is_not_told_again_at_once(tmp_path):
    (tmp_path / ".checkpoint-wanted.json").write_text('{"wanted": true}')
    notice = Notice(tmp_path)
    assert [notice(), notice()] == [True, False]


def test_pace_follows_its_steps_and_what_is_wanted():
    wanted = iter([False, True, False, True])
    pace = Pace(4, 0, World(), lambda: next(wanted))
    assert [pace.due(step) for step in (1, 2, 3, 4, 5)] == [False, True, False, True, True]


@pytest.mark.long
def test_a_checkpoint_comes_after_the_step_at_which_it_is_wanted(make_plan):
    steps = iter(range(1, 100))
    plan = replace(make_plan(epochs=1), keep_checkpoints=9)
    train_group(plan, World(), lambda *told: None, lambda: next(steps) in (2, 3))
    for arm in plan.arms:
        assert [path.name for path in committed(Path(arm.attempt))] == [f"step-{step:09d}" for step in (2, 3, 6)]
