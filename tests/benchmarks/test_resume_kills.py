"""A small share of the measurement: kills in process and of Train workers, at random instants, change no bit."""

import json

import pytest

from benchmarks import resume_kills
from benchmarks.kills import KINDS
from benchmarks.resume_kills import Case, kills_of

CASES = [
    Case(objective, workers, seed) for objective in resume_kills.OBJECTIVES for workers in range(4) for seed in range(5)
]


def test_every_case_always_suffers_the_same_and_all_together_everything():
    assert all(kills_of(case) == kills_of(case) for case in CASES)
    for workers in (1, 2, 3):
        suffered = [kill for case in CASES if case.workers == workers for kill in kills_of(case)]
        assert {kill.kind for kill in suffered if kill.victim == "worker"} == set(KINDS)
        assert any(kill.victim == "driver" for kill in suffered)


@pytest.mark.kill
@pytest.mark.timeout(3600)
def test_killed_runs_equal_the_undisturbed(tmp_path):
    resume_kills.main(["--quick", "--data", str(tmp_path / "data"), "--out", str(tmp_path)])
    made = json.loads((tmp_path / "resume_kills.json").read_text())
    assert sorted(line["workers"] for line in made["runs"]) == [0, 0, 1, 2, 3]
    assert {line["objective"] for line in made["runs"]} == {"supervised", "clip"}
    assert not [line for line in made["runs"] if line["differs"] or line["audit"]]
    assert all(any(kill["fell"] for kill in line["kills"]) for line in made["runs"])
    assert all(goal["met"] for goal in made["goals"])
