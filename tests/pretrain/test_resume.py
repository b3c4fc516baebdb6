"""Which arms go on together from which checkpoints, and checkpoints that go."""

import pytest

from nml_ray.pretrain import resume
from nml_ray.pretrain.resume import checkpoints, committed, companies, latest_common, retire


def test_the_newest_attempt_wins_a_step(tmp_path):
    for attempt, steps in (("attempt-0001", (2, 4)), ("attempt-0002", (4, 6))):
        for step in steps:
            (tmp_path / attempt / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
    found = checkpoints([tmp_path / "attempt-0002", tmp_path / "attempt-0001"])
    assert sorted(found) == [2, 4, 6]
    assert found[4].parts[-3] == "attempt-0002"


def test_the_latest_step_that_all_have():
    arms = [{400, 500}, {300, 400}]
    assert latest_common(arms) == 400
    assert latest_common([*arms, set()]) == 0
    assert latest_common([]) == 0


def test_a_lagging_arm_does_not_take_the_others_back():
    assert companies([{400, 500}, {400, 500}, {100, 200}, set()]) == [[0, 1], [2], [3]]
    assert companies([{400, 500}, {300, 400}]) == [[0, 1]]
    assert companies([set(), set()]) == [[0, 1]]
    assert companies([]) == []


def test_a_kill_while_a_checkpoint_goes_leaves_no_half_of_one(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(path, ignore_errors=False):
        for file in path.glob("model.safetensors"):
            file.unlink()
            raise Killed

    for step in (2, 4):
        made = tmp_path / "checkpoints" / f"step-{step:09d}"
        made.mkdir(parents=True)
        (made / "model.safetensors").touch()
        (made / "state.json").touch()
    with monkeypatch.context() as patched:
        patched.setattr(resume.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            retire(committed(tmp_path)[0])
    assert [path.name for path in committed(tmp_path)] == ["step-000000004"]
    retire(committed(tmp_path)[0])
    assert committed(tmp_path) == []
