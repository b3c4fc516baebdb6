"""stages.json says what a study refers to from the start of a run on."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import fake_stages  # type: ignore[import-not-found]
import pytest
from test_runner import stage  # type: ignore[import-not-found]

from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Store
from nml_ray.study.job import RunSettings
from nml_ray.study.listing import Entry, Listing, listed, paths_of, read_stages
from nml_ray.study.plan import Planned, plan
from nml_ray.study.progress import PlainDisplay
from nml_ray.study.runner import Outcome, run
from nml_ray.study.stage import Stage
from nml_ray.study.task import Context

FAILING = [stage("a", 1), stage("x", 1, "a", function="explode"), stage("y", 2, "x"), stage("b", 3, "a")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    fake_stages.calls.clear()
    (tmp_path / "studies" / "s").mkdir(parents=True)
    return tmp_path / "studies" / "s"


def planned(directory: Path, stages: list[Stage]) -> dict[str, Planned]:
    store = Store(directory.parent.parent)
    return plan(stages, lambda kind, digest: store.artifact(kind, digest) is not None)


def run_listed(directory: Path, stages: list[Stage]) -> Outcome:
    context = Context(Store(directory.parent.parent), True, 1, RunSettings(), lambda: None)
    made = planned(directory, stages)
    with listed(directory) as listing:
        listing.begin(made)
        return run(made, context, PlainDisplay(io.StringIO()), heard=listing.heard)


def states(directory: Path) -> Mapping[str, str]:
    return {name: entry.state for name, entry in (read_stages(directory) or {}).items()}


def test_it_is_there_before_anything_is_made(directory: Path) -> None:
    assert read_stages(directory) is None and paths_of(directory) == {}
    plan = planned(directory, FAILING)
    Listing(directory).begin(plan)
    assert read_stages(directory) == {name: Entry("add", one.digest, "to do") for name, one in plan.items()}
    assert paths_of(directory) == {}


def test_it_says_what_became_of_each_stage(directory: Path) -> None:
    run_listed(directory, FAILING)
    assert states(directory) == {"a": "made", "x": "failed", "y": "left out", "b": "made"}
    assert {name: (path / "sum").read_text() for name, path in paths_of(directory).items()} == {"a": "1", "b": "4"}
    run_listed(directory, FAILING)
    assert states(directory) == {"a": "cached", "x": "failed", "y": "left out", "b": "cached"}
    assert set(paths_of(directory)) == {"a", "b"}


def test_it_is_whole_after_a_mistake(directory: Path) -> None:
    run_listed(directory, [stage("a", 1), stage("m", 1, "a", function="mistake"), stage("n", 2, "m")])
    assert states(directory) == {"a": "made", "m": "failed", "n": "left out"}


def test_rounds_of_a_sweep_keep_what_earlier_ones_refer_to(directory: Path) -> None:
    listing = Listing(directory)
    rounds = [[stage("data", 0), stage("a", number, "data")] for number in (1, 2, 3, 2)]
    for stages in rounds:
        listing.begin(planned(directory, stages), beside=True)
    found = read_stages(directory) or {}
    assert list(found) == ["data", "a", "a#2", "a#3"]
    digests = {one.digest for stages in rounds for one in planned(directory, stages).values()}
    assert {entry.digest for entry in found.values()} == digests


def test_rounds_that_are_begun_again_keep_those_to_come(directory: Path) -> None:
    rounds = [[stage("data", 0), stage("a", number, "data")] for number in (1, 2, 3)]
    before = Listing(directory)
    for stages in rounds:
        before.begin(planned(directory, stages), beside=True)
    named = {one.digest for one in (read_stages(directory) or {}).values()}
    again = Listing(directory)
    again.begin(planned(directory, rounds[0]), beside=True)
    assert {one.digest for one in (read_stages(directory) or {}).values()} == named
    assert states(directory) == {"data": "to do", "a": "to do", "a#2": "earlier", "a#3": "earlier"}
    again.begin(planned(directory, rounds[1]), beside=True)
    assert states(directory) == {"data": "to do", "a": "to do", "a#2": "to do", "a#3": "earlier"}


def test_a_plan_in_the_place_of_another_keeps_what_was_made(directory: Path) -> None:
    outcome = run_listed(directory, FAILING)
    with listed(directory) as listing:
        listing.begin(planned(directory, FAILING))
        listing.heard(outcome)
        listing.begin(planned(directory, [FAILING[0], stage("y", 7, "a")]))
    found = read_stages(directory) or {}
    assert found["a"].path and found["y"].state == "to do" and found["x"].state == "failed"


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_listing import run_listed, stage
run_listed(Path({directory!r}), [stage("a", 1), stage("k", 2, "a", function="add_but_kill"), stage("z", 3, "k")])
"""


def test_a_killed_run_leaves_it(directory: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), directory=str(directory))
    environment = {**os.environ, "KILL_ONCE": str(directory / "marker")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    found = read_stages(directory) or {}
    assert set(found) == {"a", "k", "z"} and found["z"].state == "to do" and found["k"].digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"a": 1}',
        '{"a": {"kind": "x"}}',
        '{"a": {"kind": 1, "digest": "d", "state": "made"}}',
        '{"a": {"kind": "x", "digest": "d", "state": "made", "path": "../../../../../etc"}}',
        '{"a": {"kind": "x", "digest": "d", "state": "made", "path": "/etc"}}',
        '{"a": {"kind": "x", "digest": "d", "state": "made", "path": "given/../../x"}}',
    ],
)
def test_what_is_no_list_of_stages_is_told_with_its_path(directory: Path, text: str) -> None:
    (directory / "stages.json").write_text(text)
    with pytest.raises(UserError, match=r"/studies/s/stages\.json: cannot be read .*; expected what the study"):
        paths_of(directory)
