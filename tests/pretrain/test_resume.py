"""Which arms go on together from which checkpoints."""

from pathlib import Path

from nml_ray.pretrain.resume import checkpoints, common_resume, companies


def test_the_newest_attempt_wins_a_step(tmp_path):
    for attempt, steps in (("attempt-0001", (2, 4)), ("attempt-0002", (4, 6))):
        for step in steps:
            (tmp_path / attempt / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
    found = checkpoints([tmp_path / "attempt-0002", tmp_path / "attempt-0001"])
    assert sorted(found) == [2, 4, 6]
    assert found[4].parts[-3] == "attempt-0002"


def test_the_latest_step_that_all_have():
    arms = [{400: Path("a4"), 500: Path("a5")}, {300: Path("b3"), 400: Path("b4")}]
    assert common_resume(arms) == (400, [Path("a4"), Path("b4")])
    assert common_resume([*arms, {}]) == (0, [])
    assert common_resume([]) == (0, [])


def test_a_lagging_arm_does_not_take_the_others_back():
    assert companies([{400, 500}, {400, 500}, {100, 200}, set()]) == [[0, 1], [2], [3]]
    assert companies([{400, 500}, {300, 400}]) == [[0, 1]]
    assert companies([set(), set()]) == [[0, 1]]
    assert companies([]) == []
