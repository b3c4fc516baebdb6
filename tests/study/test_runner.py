import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import fake_stages  # type: ignore[import-not-found]
import pytest

from nml_ray.storage import lease
from nml_ray.storage.artifact import Store
from nml_ray.study.job import RunSettings
from nml_ray.study.plan import Given, plan
from nml_ray.study.progress import PlainDisplay
from nml_ray.study.runner import Outcome, run
from nml_ray.study.stage import Stage
from nml_ray.study.task import Context


def stage(name: str, number: int, *sources: str, function: str = "add", kind: str = "add", group: str = "") -> Stage:
    inputs = {f"source{place}": source for place, source in enumerate(sources)}
    return Stage(name, kind, 1, {"number": number}, f"fake_stages:{function}", inputs, group)


def run_all(store: Store, stages: Sequence[Stage], **more: object) -> Outcome:
    context = Context(store, inline=True, threads=1, run=RunSettings(), start_ray=lambda: None)
    display = PlainDisplay(io.StringIO(), look=0.01)
    exists = lambda kind, digest: store.artifact(kind, digest) is not None  # noqa: E731
    return run(plan(stages, exists, more.get("given", ())), context, display, **more)


def total(outcome: Outcome, name: str) -> int:
    return int((outcome.artifacts[name].path / "sum").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fake_stages.calls.clear()
    return Store(tmp_path / "store")


DIAMOND = [stage("a", 1), stage("b", 2, "a"), stage("c", 3, "a"), stage("d", 4, "b", "c")]


def test_results_flow_and_nothing_is_made_twice(store: Store) -> None:
    first = run_all(store, DIAMOND)
    assert total(first, "d") == 1 + 2 + 1 + 3 + 4
    assert first.made == ["a", "b", "c", "d"]
    second = run_all(store, DIAMOND)
    assert second.made == []
    assert second.artifacts == first.artifacts
    assert len(fake_stages.calls) == 4


def test_a_change_remakes_only_what_follows_from_it(store: Store) -> None:
    run_all(store, DIAMOND)
    changed = [stage("c", 30, "a") if one.name == "c" else one for one in DIAMOND]
    assert run_all(store, changed).made == ["c", "d"]


def test_a_group_is_one_call_without_those_that_exist(store: Store) -> None:
    arms = [stage(f"add/{number}", number, group="g") for number in range(3)]
    run_all(store, arms[:1])
    assert run_all(store, arms).made == ["add/1", "add/2"]
    assert fake_stages.calls == [["add/0"], ["add/1", "add/2"]]


def test_the_record_says_how_it_came_about(store: Store) -> None:
    record = run_all(store, DIAMOND).artifacts["b"].record
    assert record["settings"] == {"number": 2}
    assert record["stage"] == "b"
    assert record["inputs"]["source0"].startswith("add/")
    assert record["versions"]["python"].startswith("3.")
    assert record["machine"]["cpus"] >= 1
    assert {"host", "pid", "begun", "finished", "seconds"} <= set(record)


def test_a_failure_stops_only_what_depends_on_it(store: Store) -> None:
    stages = [stage("a", 1), stage("x", 1, "a", function="explode"), stage("y", 1, "x"), stage("z", 1, "y"), DIAMOND[1]]
    outcome = run_all(store, stages)
    assert set(outcome.artifacts) == {"a", "b"}
    assert outcome.left_out == {"y": "x", "z": "x"}
    failure = outcome.failures["x"]
    assert failure.reason == "ZeroDivisionError: no result"
    assert "explode" in failure.log.read_text()


def test_one_arm_fails_and_the_others_of_its_group_stay(store: Store) -> None:
    arms = [stage(f"add/{number}", number, group="g", function="odd_fail") for number in range(4)]
    after = [stage(f"then/{number}", 1, f"add/{number}", kind="then") for number in range(4)]
    outcome = run_all(store, [*arms, *after])
    assert set(outcome.artifacts) == {"add/0", "add/2", "then/0", "then/2"}
    assert {name: failure.reason for name, failure in outcome.failures.items()} == {"add/1": "odd", "add/3": "odd"}
    assert outcome.left_out == {"then/1": "add/1", "then/3": "add/3"}


def test_a_function_that_finishes_nothing_has_failed(store: Store) -> None:
    assert run_all(store, [stage("a", 1, function="forget")]).failures["a"].reason == "ended without a result"


def test_a_mistake_of_the_users_stops_what_depends_on_it_and_nothing_else(store: Store) -> None:
    outcome = run_all(store, [stage("a", 1, function="mistake"), stage("b", 1, "a"), stage("c", 2)])
    assert outcome.failures["a"].mistake and outcome.failures["a"].reason == "labels.parquet: bad label"
    assert set(outcome.left_out) == {"b"} and set(outcome.artifacts) == {"c"}
    assert not list(store.root.glob("*/*/lease.json"))


def test_a_batch_is_tried_one_by_one_where_a_mistake_in_one_ended_all(store: Store) -> None:
    arms = [stage(f"add/{number}", number, group="g", function="picky") for number in range(4)]
    assert set(run_all(store, arms).failures) == {f"add/{number}" for number in range(4)}
    outcome = run_all(store, [*arms, stage("then", 1, "add/1")], one_by_one=["add"])
    assert set(outcome.artifacts) == {"add/0", "add/2"} and set(outcome.left_out) == {"then"}
    assert {name: failure.reason for name, failure in outcome.failures.items()} == {
        "add/1": "odd number",
        "add/3": "odd number",
    }
    assert not list(store.root.glob("*/*/lease.json"))


def test_one_by_one_leaves_alone_what_has_said_why_it_failed(store: Store) -> None:
    arms = [stage(f"add/{number}", number, group="g", function="odd_fail") for number in range(4)]
    outcome = run_all(store, arms, one_by_one=["add"])
    assert {name: failure.reason for name, failure in outcome.failures.items()} == {"add/1": "odd", "add/3": "odd"}
    assert fake_stages.calls == [["add/0"], ["add/2"]]


def test_ctrl_c_that_a_library_turned_into_an_exit_is_an_interrupt(store: Store) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_all(store, [stage("a", 1, function="leave")])
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(store.root.glob("*/*/lease.json"))


def test_given_data_is_linked_anew_at_each_run(store: Store, tmp_path: Path) -> None:
    stages = [Stage("data", "given", 1, {"digest": "abc"}, ""), stage("a", 1, "data")]
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "sum").write_text("41")
        given = {"data": Given({"sum": tmp_path / place / "sum"})}
        outcome = run_all(store, stages, given=given, links=tmp_path / "links")
        assert total(outcome, "a") == 42
        assert (outcome.artifacts["data"].path / "sum").resolve() == tmp_path / place / "sum"
    assert len(fake_stages.calls) == 1


def test_two_runs_at_once_share_the_work(store: Store) -> None:
    stages = [stage(f"add/{number}", number, function="slow") for number in range(3)]
    outcomes: list[Outcome] = []
    runs = [threading.Thread(target=lambda: outcomes.append(run_all(store, stages))) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert len(outcomes) == 2
    assert outcomes[0].artifacts == outcomes[1].artifacts
    assert sorted(outcomes[0].made + outcomes[1].made) == ["add/0", "add/1", "add/2"]


def test_leases_are_given_back(store: Store) -> None:
    run_all(store, [*DIAMOND, stage("x", 1, function="explode")])
    assert not list(store.root.glob("*/*/" + lease.LEASE))


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_runner import run_all, stage
from nml_ray.storage.artifact import Store
arms = [stage(f"add/{{n}}", n, group="g", function="add_but_kill") for n in range(3)]
outcome = run_all(Store(Path({store!r})), [*arms, stage("sum", 0, *(f"add/{{n}}" for n in range(3)), kind="sum")])
print((outcome.artifacts["sum"].path / "sum").read_text())
"""


@pytest.mark.long
def test_a_run_killed_in_the_middle_of_a_batch_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), store=str(store.root))
    environment = {**os.environ, "KILL_ONCE": str(tmp_path / "marker")}
    first = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert first.returncode == -9
    assert len(list(store.root.glob("*/*/record.json"))) == 1
    assert len(list(store.root.glob("*/*/lease.json"))) == 3
    second = subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE)
    assert second.stdout.strip() == b"3"
    assert len(list(store.root.glob("*/*/record.json"))) == 4
