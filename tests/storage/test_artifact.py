import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nml_ray.config.errors import UserError
from nml_ray.storage.artifact import Attempt, Store, read_progress


def test_attempt_becomes_artifact_only_when_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    attempt = store.attempt("ledger", "d1", settings={"ratio": "0.1"})
    (attempt.path / "data").write_text("x")
    assert store.artifact("ledger", "d1") is None
    attempt.finish(rows=3)
    artifact = store.artifact("ledger", "d1")
    assert artifact is not None
    assert artifact.path == attempt.path
    assert artifact.record["rows"] == 3
    assert artifact.record["settings"] == {"ratio": "0.1"}
    assert artifact.record["seconds"] >= 0
    assert artifact.record["host"]


def test_facts_do_not_take_the_place_of_the_records_own_entries(tmp_path: Path) -> None:
    record = Store(tmp_path).attempt("k", "d", stage="x").finish(digest="of something else", stage="y", rows=1).record
    assert (record["digest"], record["stage"], record["rows"]) == ("d", "x", 1)


def test_first_finisher_stays_the_winner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = store.attempt("k", "d"), store.attempt("k", "d")
    assert second.earlier == [first.path]
    assert first.earlier == []
    assert second.finish(who=2).path == second.path
    assert first.finish(who=1).path == second.path
    found = store.artifact("k", "d")
    assert found is not None
    assert found.record["who"] == 2


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)), ending=st.lists(st.booleans(), min_size=5, max_size=5))
def test_whatever_the_order_one_winner_and_no_shared_directory(
    tmp_path_factory, order: list[int], ending: list[bool]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    attempts = [store.attempt("k", "d") for _ in order]
    assert len({attempt.path for attempt in attempts}) == 5
    finishers = [number for number in order if ending[number]]
    for number in finishers:
        attempts[number].finish(who=number)
    found = store.artifact("k", "d")
    assert (found.record["who"] if found else None) == (finishers[0] if finishers else None)
    assert store.attempt("k", "d").earlier == [attempt.path for attempt in reversed(attempts)]


def test_attempts_begun_at_once_have_directories_of_their_own(tmp_path: Path) -> None:
    store, begun = Store(tmp_path), []
    threads = [threading.Thread(target=lambda: begun.append(store.attempt("k", "d").path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(begun)) == 8


def test_attempt_travels_as_its_path(tmp_path: Path) -> None:
    attempt = Store(tmp_path).attempt("extract", "d", job="demo")
    attempt.progress(1, 10, "samples")
    again = pickle.loads(pickle.dumps(attempt))
    rebuilt = Attempt(attempt.path)
    assert again == rebuilt == attempt
    assert rebuilt.kind == "extract"
    assert rebuilt.digest == "d"
    rebuilt.progress(10, 10, "samples")
    said = read_progress(attempt.path)
    assert said is not None
    assert (said.done, said.total, said.unit) == (10, 10, "samples")
    assert rebuilt.finish().record["job"] == "demo"


def test_progress_is_throttled_but_the_end_is_always_written(tmp_path: Path) -> None:
    attempt = Store(tmp_path).attempt("k", "d")
    for done in range(1, 1001):
        attempt.progress(done, 1000, "steps")
    said = read_progress(attempt.path)
    assert said is not None
    assert said.done == 1000


def test_names_of_attempts_differ(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.attempt("k", "d").name == "k-d-attempt-0001"
    assert store.attempt("k", "d").name == "k-d-attempt-0002"


def test_a_storage_that_moved_still_reads(tmp_path: Path) -> None:
    Store(tmp_path / "a").attempt("k", "d").finish()
    (tmp_path / "a").rename(tmp_path / "b")
    found = Store(tmp_path / "b").artifact("k", "d")
    assert found is not None
    assert found.path.is_dir()


def test_failure_keeps_its_reason(tmp_path: Path) -> None:
    attempt = Store(tmp_path).attempt("k", "d")
    assert attempt.failure == ""
    attempt.fail("loss became NaN at step 12")
    assert Attempt(attempt.path).failure == "loss became NaN at step 12"


def test_a_process_killed_between_writing_and_the_record_leaves_no_artifact(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from nml_ray.storage import artifact\n"
        "attempt = artifact.Store(Path(sys.argv[1])).attempt('k', 'd')\n"
        "(attempt.path / 'weights').write_bytes(b'w' * 1000)\n"
        "artifact.create_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "attempt.finish()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    store = Store(tmp_path)
    assert store.artifact("k", "d") is None
    attempt = store.attempt("k", "d")
    assert [path.name for path in attempt.earlier] == ["attempt-0001"]
    assert (attempt.earlier[0] / "weights").stat().st_size == 1000
    attempt.finish()
    assert json.loads((tmp_path / "k" / "d" / "record.json").read_text())["attempt"] == "attempt-0002"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '"x"',
        "[" * 100_000,
        '{"attempt": 1}',
        '{"attempt": "../../../../../etc"}',
        '{"attempt": "attempt-1/../../x"}',
        '{"attempt": ""}',
        '{"attempt": "attempt-0002"}',
        '{"attempt": "attempt-0001", "inputs": [1]}',
        '{"attempt": "attempt-0001", "inputs": {"shards": 1}}',
    ],
)
def test_a_record_that_is_none_is_told_with_its_path(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "k" / "d"
    directory.mkdir(parents=True)
    (directory / "record.json").write_text(text)
    (directory / "attempt-0002").symlink_to("/etc")
    with pytest.raises(UserError) as told:
        Store(tmp_path).artifact("k", "d")
    line = str(told.value)
    assert line.startswith(f"{directory}/record.json: is no record of an artifact") and "\n" not in line
    (directory / "record.json").unlink()
    assert Store(tmp_path).artifact("k", "d") is None


def test_what_else_lies_beside_attempts_and_torn_progress_count_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "k" / "d" / "attempt-of-mine").mkdir(parents=True)
    attempt = Store(tmp_path).attempt("k", "d")
    assert attempt.path.name == "attempt-0001" and attempt.earlier == []
    (attempt.path / "progress.json").write_text('{"a": 1}')
    assert read_progress(attempt.path) is None
