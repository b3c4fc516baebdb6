"""Stages that need nothing of each other are at work at once, within the cluster; an end of the run ends them all."""

import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Store
from nml_ray.study.job import RunSettings
from nml_ray.study.plan import plan
from nml_ray.study.progress import PlainDisplay
from nml_ray.study.runner import Outcome, run
from nml_ray.study.stage import Resources, Stage
from nml_ray.study.task import Context, Task

ONE = Resources(1, 0, 1)
meeting = threading.Barrier(2)
free = threading.Event()
running: list[str] = []
most: list[int] = []


def make(tasks: Sequence[Task], context: Context) -> None:
    """Counts what runs at once; fails where it is told to."""
    for task in tasks:
        running.append(task.stage.name)
        most.append(len(running))
        try:
            if task.stage.settings["fails"]:
                raise ZeroDivisionError("no result")
            task.attempt.finish()
        finally:
            running.remove(task.stage.name)


def meet(tasks: Sequence[Task], context: Context) -> None:
    """Ends only if another stage does this at the same time."""
    meeting.wait(20)
    make(tasks, context)


def wait(tasks: Sequence[Task], context: Context) -> None:
    """Until Ray is stopped, which counts as a failure."""
    meeting.wait(20)
    assert free.wait(20)
    raise RuntimeError("Ray was stopped")


def mistake(tasks: Sequence[Task], context: Context) -> None:
    """A mistake of the user's, once another stage is at work."""
    meeting.wait(20)
    raise UserError("bad label")


def interrupt(tasks: Sequence[Task], context: Context) -> None:
    """Ctrl-C that a library turned into an exit."""
    meeting.wait(20)
    raise SystemExit(1)


def stage(name: str, *sources: str, of: str = "make", resources: Resources = ONE, fails: bool = False) -> Stage:
    inputs = {source: source for source in sources}
    return Stage(name, "k", 1, {"name": name, "fails": fails}, f"{__name__}:{of}", inputs, "", resources)


def run_all(store: Store, stages: Sequence[Stage], cpus: int = 2, screen: io.StringIO | None = None) -> Outcome:
    free.clear()
    del running[:], most[:]
    stops = (lambda: None, free.set, lambda: [{"CPU": cpus}])
    context = Context(store, False, 1, RunSettings(), *stops)
    exists = lambda kind, digest: store.artifact(kind, digest) is not None  # noqa: E731
    return run(plan(stages, exists), context, PlainDisplay(screen or io.StringIO(), look=0.01))


def test_stages_that_fit_are_at_work_at_once(tmp_path: Path) -> None:
    outcome = run_all(Store(tmp_path), [stage("a", of="meet"), stage("b", of="meet"), stage("c", "a", "b")])
    assert set(outcome.artifacts) == {"a", "b", "c"} and outcome.made[-1] == "c"


def test_the_driver_works_beside_the_cluster(tmp_path: Path) -> None:
    stages = [stage("a", of="meet", resources=Resources()), stage("b", of="meet"), stage("c", resources=Resources())]
    assert set(run_all(Store(tmp_path), stages, cpus=1).artifacts) == {"a", "b", "c"}


def test_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    assert len(run_all(Store(tmp_path), [stage(str(n)) for n in range(6)], cpus=1).made) == 6
    assert max(most) == 1


def test_what_ends_the_run_stops_what_runs_beside_it(tmp_path: Path) -> None:
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run_all(Store(tmp_path), [stage("a", of="wait"), stage("b", of="interrupt"), stage("c", "a")], screen=screen)
    assert free.is_set()
    assert not list(tmp_path.glob("*/*/lease.json"))
    assert not list(tmp_path.glob("*/*/*/error.log"))  # stopped is not failed
    assert {line.rpartition(" after")[0] for line in screen.getvalue().splitlines()} == {
        "k: a: stopped",
        "k: b: stopped",
    }


def test_a_mistake_leaves_alone_what_runs_beside_it(tmp_path: Path) -> None:
    outcome = run_all(Store(tmp_path), [stage("a", of="meet"), stage("b", of="mistake"), stage("c", "a")])
    assert set(outcome.artifacts) == {"a", "c"}
    assert outcome.failures["b"].reason == "bad label"


@st.composite
def graphs(draw: st.DrawFn) -> list[Stage]:
    return [
        stage(
            f"s{n}",
            *(f"s{source}" for source in (draw(st.sets(st.integers(0, n - 1), max_size=2)) if n else ())),
            resources=draw(st.sampled_from([ONE, Resources(), Resources(2, 0, 2)])),
            fails=draw(st.integers(0, 3)) == 0,
        )
        for n in range(draw(st.integers(1, 6)))
    ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_a_failure_stops_only_what_depends_on_it(tmp_path_factory: pytest.TempPathFactory, graph: list[Stage]) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    outcome = run_all(store, graph)
    lost: set[str] = set()
    for one in graph:
        if one.settings["fails"] or lost & set(one.inputs.values()):
            lost.add(one.name)
    assert set(outcome.artifacts) == {one.name for one in graph} - lost
    assert set(outcome.failures) | set(outcome.left_out) == lost
    assert all(name in outcome.failures for name in outcome.left_out.values())
    again = run_all(store, [replace(one, settings={**one.settings, "fails": False}) for one in graph])
    assert set(again.artifacts) == {one.name for one in graph}
