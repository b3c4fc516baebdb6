"""Removal of what no study refers to, on a file system: beside runs that begin, and killed."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import lease
from nml_ray.storage.artifact import Store
from nml_ray.study.garbage_removal import look, remove
from nml_ray.study.garbage_scan import named, ray_directories, scan
from nml_ray.study.progress import PlainDisplay
from tests.study.garbage_storage import digest, grow_old, make, study, there, two_arms
from tests.study.sweep_jobs import RATE, job_of, quiet


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return two_arms(tmp_path / "runs")


def test_what_no_study_refers_to_goes_and_the_rest_is_whole(store: Store) -> None:
    going = look(store, 1)
    assert [one.key for one in going.artifacts] == [("extract", digest(13)), ("pretrain", digest(3))]
    size = sum(one.size for one in going.artifacts)
    done = remove(store, going, 1)
    assert (done.count, done.size, done.stayed) == (2, size, {}) and size > 200
    assert there(store) == {("shards", 1), ("pretrain", 2), ("extract", 12)}
    assert not store.directory("pretrain", digest(3)).exists() and not store.directory("extract", digest(13)).exists()
    assert all(store.artifact(one.kind, one.digest) for one in scan(store))
    assert look(store, 1).artifacts == ()


def test_a_lease_that_lives_keeps_it(store: Store) -> None:
    going = look(store, 1)
    held = store.lease("pretrain", digest(3))
    assert held
    try:
        done = remove(store, going, 1)
        assert list(done.stayed) == [f"pretrain/{digest(3)}"] and store.artifact("pretrain", digest(3))
        assert [one.key for one in look(store, 1).artifacts] == []
    finally:
        held.release()
    assert [one.key for one in look(store, 1).artifacts] == [("pretrain", digest(3))]


def test_a_study_that_begins_while_it_is_removed_has_it_back(store: Store) -> None:
    going = look(store, 1)
    seen = []

    def begin() -> None:
        seen.append(store.artifact("extract", digest(13)))
        study(store, "new", ("extract", 13))

    done = remove(store, going, 1, hidden=begin)
    assert seen == [None] and done.count == 0 and len(done.stayed) == 2
    assert store.artifact("extract", digest(13)) and store.artifact("pretrain", digest(3))
    assert not list(store.root.rglob(".gone-*"))


def test_an_attempt_that_begins_while_it_is_removed_stays(store: Store) -> None:
    going = look(store, 1)
    begun = []
    remove(store, going, 1, hidden=lambda: begun.append(store.attempt("pretrain", digest(3))))
    assert begun[0].path.is_dir() and store.artifact("pretrain", digest(3))


def test_a_study_that_nobody_can_read_stops_everything(store: Store) -> None:
    going = look(store, 1)

    def spoil() -> None:
        (study(store, "torn") / "stages.json").write_text('{"a": ')

    with pytest.raises(UserError, match=r"studies/torn/stages.json: cannot be read .* remove its directory"):
        remove(store, going, 1, hidden=spoil)
    assert store.artifact("extract", digest(13)) and store.artifact("pretrain", digest(3))
    with pytest.raises(UserError, match="torn"):
        look(store, 1)


def test_an_unfinished_attempt_stays_for_a_day(store: Store) -> None:
    young = store.attempt("heads", digest(7), inputs={"extract": f"extract/{digest(13)}"})
    (young.path / "part").write_text("x")
    assert look(store, 0).artifacts == ()
    grow_old(store)
    remove(store, look(store, 0), 0)
    assert there(store) == {("shards", 1), ("pretrain", 2), ("extract", 12)}


def test_leftovers_go_from_within_what_stays(store: Store) -> None:
    winner = store.artifact("pretrain", digest(2)).path
    lost = store.attempt("pretrain", digest(2)).path
    for path in (winner, lost):
        for name in ("checkpoints/step-000000001/model.safetensors", "fed/rank-0-000000001.arrow"):
            (path / name).parent.mkdir(parents=True)
            (path / name).write_bytes(b"y" * 1000)
    grow_old(store)
    (one,) = look(store, 1).leftovers
    assert one.key == ("pretrain", digest(2)) and len(one.leftovers) == 2
    done = remove(store, look(store, 1), 1)
    assert done.size > 2000 and look(store, 1).leftovers == ()
    assert not (winner / "checkpoints").exists() and not (lost / "checkpoints").exists()
    assert (winner / "deep/data").exists() and all((path / "fed").is_dir() for path in (winner, lost))


def test_files_with_other_names_free_nothing(store: Store) -> None:
    linked = make(store, "extract", 14, size=5000)
    (other,) = store.directory("extract", digest(12)).glob("attempt-*")
    os.link(linked / "deep/data", other / "deep/linked")
    sizes = {one.digest: one.size for one in look(store, 1).artifacts}
    assert sizes[digest(14)] < 5000
    assert remove(store, look(store, 1), 1).size < 5000 and (other / "deep/linked").stat().st_size == 5000


def test_directories_of_rays_ended_runs(store: Store) -> None:
    for name in (f"pretrain-{digest(2)}-attempt-0001", f"sweep-heads-{digest(9)}-attempt-0002", "new"):
        (store.root / "ray" / name).mkdir(parents=True)
        (store.root / "ray" / name / "state.json").write_text("{}")
    grow_old(store)
    assert ray_directories(store, time.time(), 0) == []  # the directories themselves are new
    found = ray_directories(store, time.time() + 2 * 86400, 0)
    assert len(found) == 3
    held = store.lease("pretrain", digest(2))
    assert held
    assert len(ray_directories(store, time.time(), 0)) == 0
    held.release()


@pytest.mark.long
def test_trials_stay_as_long_as_heads_that_may_take_them(tmp_path: Path) -> None:
    from nml_ray.study.execute import execute

    job = job_of(tmp_path, {"search": {RATE: [1e-7, 0.1]}})
    done = execute(job, quiet(), inline=True)
    store = Store(tmp_path / "runs")
    assert len(store.digests("trial")) == 2 and look(store, 0).artifacts == ()
    (done.directory / "trials.parquet").unlink()
    keys = {one.kind for one in look(store, 0, earlier=True).artifacts}
    assert keys == {"heads", "trial"}  # those of the trial that was not the best
    kept = named(store, earlier=False)
    remove(store, look(store, 0, earlier=True), 0, earlier=True)
    assert len(store.digests("trial")) == 1 and all(store.artifact(*key) for key in kept if key[0] == "heads")
    again = execute(job, quiet(), inline=True)
    assert not again.outcome.failures and len(store.digests("trial")) == 2


@pytest.mark.long
def test_nothing_that_a_run_needs_goes_while_it_is_at_work(tmp_path: Path) -> None:
    from nml_ray.study.execute import execute

    store, over = Store(tmp_path / "runs"), threading.Event()

    def remove_all() -> list[int]:
        counts = []
        while not over.is_set():
            if store.root.is_dir():
                counts.append(remove(store, look(store, 0), 0).count)
        return counts

    with ThreadPoolExecutor(1) as beside:
        removal = beside.submit(remove_all)
        try:
            done = execute(job_of(tmp_path, {"search": {RATE: [1e-3, 0.1]}, "max_concurrent": 1}), quiet(), inline=True)
        finally:
            over.set()
    counts = removal.result()
    assert not done.outcome.failures and sum(counts) == 0 and len(counts) > 3
    made = [key for key in named(store) if key[0] in ("heads", "report")]
    assert len(made) >= 3 and all(store.artifact(*key) for key in made) and len(store.digests("trial")) == 2


@pytest.mark.long
def test_a_sweep_that_begins_again_keeps_what_its_later_rounds_left(tmp_path: Path) -> None:
    from nml_ray.study.execute import execute

    job = job_of(tmp_path, {"search": {RATE: [1e-7, 1e-3, 0.1]}, "max_concurrent": 1})
    store, left = Store(tmp_path / "runs"), []

    class Interrupted(PlainDisplay):
        def say(self, line: str) -> None:
            if line.startswith("trial 2 "):
                raise KeyboardInterrupt

    class Looking(PlainDisplay):
        def say(self, line: str) -> None:
            left.append([one.key for one in look(store, 0).artifacts])

    with pytest.raises(KeyboardInterrupt):
        execute(job, Interrupted(open(os.devnull, "w")), inline=True)
    assert len(store.digests("trial")) == 3
    execute(job, Looking(open(os.devnull, "w")), inline=True)
    assert len(left) >= 3 and left[:3] == [[], [], []]


def whole(store: Store) -> bool:
    """Whether every artifact that is there has all of its files, and what the study names is there."""
    finished = [one for one in scan(store) if one.finished]
    inputs = {key for one in finished for key in one.refers if one.key in named(store)}
    return all(
        (store.artifact(*one.key).place / "deep/data").stat().st_size == 100
        and (store.artifact(*one.key).place / "attempt.json").exists()
        for one in finished
    ) and inputs <= {one.key for one in finished}


def killed_at(store: Store, step: int) -> bool:
    """Remove garbage in a process that is killed before its change of that number; whether it came to that."""
    child = os.fork()
    if child == 0:
        changes = 0

        def count(event: str, arguments: tuple) -> None:
            nonlocal changes
            if event in ("os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir"):
                changes += 1
                if changes == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            remove(store, look(store, 1), 1)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.long
def test_a_kill_anywhere_leaves_no_artifact_in_parts_and_the_next_removal_ends_it(tmp_path: Path) -> None:
    kills = 0
    for step in range(1, 200):
        store = Store(tmp_path / str(step))
        for number in (1, 2):
            make(store, "pretrain", number)
        study(store, "s", ("pretrain", 1))
        lost = store.attempt("pretrain", digest(1)).path
        (lost / "encoder.safetensors").write_text("y")
        grow_old(store)
        if not killed_at(store, step):
            break
        kills += 1
        assert whole(store) and store.artifact("pretrain", digest(1))
        earlier = [path for path in store.attempt("pretrain", digest(2)).earlier if path.exists()]
        assert all((path / "deep/data").exists() for path in earlier)
        grow_old(store)
        remove(store, look(store, 1), 1)
        assert there(store) == {("pretrain", 1)} and whole(store)
        assert not list(store.root.rglob("*gone-*")) and not (lost / "encoder.safetensors").exists()
    assert kills > 10


def test_taking_a_lease_goes_on_while_its_directory_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "pretrain" / digest(1)
    errors = []

    def take() -> None:
        try:
            for _ in range(100):
                if held := lease.take(directory):
                    held.release()
                lease.discard(directory)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and not directory.exists()
