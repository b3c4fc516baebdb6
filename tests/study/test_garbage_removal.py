"""Removal of what no study refers to, on real storages: beside runs that begin, killed, on an object store."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from nml_ray.cli.main import call
from nml_ray.config.errors import UserError
from nml_ray.storage import lease, patience, remote, remote_lease
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import write_json
from nml_ray.storage.mirror import working_root
from nml_ray.storage.patience import Patience
from nml_ray.study.garbage_removal import look, remove
from nml_ray.study.garbage_scan import named, ray_directories, scan
from tests.object_store import Bucket, Fault
from tests.study.sweep_jobs import RATE, job_of, quiet

OLD = time.time() - 10 * 86400


def digest(number: int) -> str:
    return f"{number:016x}"


def make(store: Store, kind: str, number: int, size: int = 100, finished: bool = True, **facts) -> Path:
    """An artifact, ten days old."""
    attempt = store.attempt(kind, digest(number), **facts)
    (attempt.path / "deep").mkdir()
    (attempt.path / "deep/data").write_bytes(b"x" * size)
    if finished:
        attempt.finish()
    grow_old(store)
    return attempt.path


def grow_old(store: Store) -> None:
    for path in store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (OLD, OLD), follow_symlinks=False)


def study(store: Store, name: str, *keys: tuple[str, int]) -> Path:
    directory = store.root / "studies" / name
    directory.mkdir(parents=True, exist_ok=True)
    entries = {f"{kind}/{number}": {"kind": kind, "digest": digest(number), "state": "to do"} for kind, number in keys}
    write_json(directory / "stages.json", entries)
    return directory


def there(store: Store) -> set[tuple[str, int]]:
    return {(one.kind, int(one.digest, 16)) for one in scan(store) if one.files}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two arms of which a study names one, with what they were made from, and leftovers."""
    store = Store(tmp_path / "runs")
    make(store, "shards", 1)
    for number in (2, 3):
        make(store, "pretrain", number, inputs={"shards": f"shards/{digest(1)}"})
        make(store, "extract", number + 10, inputs={"encoder": f"pretrain/{digest(number)}"})
    study(store, "s", ("extract", 12))
    return store


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
    keys = {one.kind for one in look(store, 0).artifacts}
    assert keys == {"heads", "trial"}  # those of the trial that was not the best
    kept = named(store)
    remove(store, look(store, 0), 0)
    assert len(store.digests("trial")) == 1 and all(store.artifact(*key) for key in kept if key[0] == "heads")
    again = execute(job, quiet(), inline=True)
    assert not again.outcome.failures and len(store.digests("trial")) == 2


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


def test_the_command_lists_and_removes_only_when_told(store: Store, capsys) -> None:
    assert call(["gc", "--storage", str(store.root)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:2]] == [f"extract/{digest(13)}", f"pretrain/{digest(3)}"]
    assert "10.0 days" in told[0] and told[2].startswith("2 to remove, ") and told[2].endswith("--remove does it")
    assert len(there(store)) == 5
    assert call(["gc", "--storage", str(store.root), "--older-than", "11", "--remove"]) == 0
    assert capsys.readouterr().out == "0 to remove, 0 B\n" and len(there(store)) == 5
    assert call(["gc", "--storage", str(store.root), "--remove"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 removed, ") and len(there(store)) == 3
    assert call(["gc", "--storage", str(store.root / "none")]) == 2
    assert "no directory" in capsys.readouterr().err


def test_records_of_submissions_go_only_when_told(store: Store, capsys) -> None:
    now = time.time()
    beat = {"attempt": 1, "host": "far", "pid": 1, "process": 1, "started": OLD, "message": ""}
    for id, state in (
        ("old", {"state": "failed", "heartbeat": OLD, "exit_code": 1, "ended": OLD}),
        ("new", {"state": "succeeded", "heartbeat": now, "exit_code": 0, "ended": now}),
        ("alive", {"state": "running", "heartbeat": now}),
        ("lost", {"state": "running", "heartbeat": OLD}),
    ):
        (store.root / "submissions" / id / "driver").mkdir(parents=True)
        (store.root / "submissions" / id / "submission.json").write_text("{}")
        write_json(store.root / "submissions" / id / "status.json", {**beat, **state})
    (store.root / "submissions" / "queued").mkdir()
    assert call(["gc", "--storage", str(store.root), "--remove"]) == 0
    assert len(os.listdir(store.root / "submissions")) == 5
    assert call(["gc", "--storage", str(store.root), "--remove", "--submissions"]) == 0
    assert sorted(os.listdir(store.root / "submissions")) == ["alive", "new", "queued"]
    assert "2 removed" in capsys.readouterr().out


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


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path, monkeypatch):
    """The store of a bucket as a machine of that name sees it."""
    for name in ("PATIENCE", "QUICK"):
        monkeypatch.setattr(patience, name, Patience(first=0.01, most=0.02, total=0.5))
    monkeypatch.setattr(remote_lease, "QUICK", patience.QUICK)
    return lambda name: Store(working_root(str(bucket.at("runs")), str(tmp_path / name)))


def put_study(store: Store, *keys: tuple[str, int]) -> None:
    data = (study(store, "s", *keys) / "stages.json").read_bytes()
    remote.write(data, store.mirror.at(store.root / "studies/s/stages.json"))


def make_there(store: Store, kind: str, number: int, **facts) -> None:
    attempt = store.attempt(kind, digest(number), **facts)
    (attempt.path / "data").write_bytes(b"x" * 100)
    attempt.finish()


def whole_there(store: Store) -> bool:
    return all(
        remote.size_of(store.mirror.at(store.directory(one.kind, one.digest)) / entry) is not None
        for one in scan(store)
        if one.finished
        for entry in (f"{store.artifact(*one.key).place.name}/{name}" for name in ("data", "files.json"))
    )


@pytest.mark.long
def test_an_object_store_loses_it_for_all_machines(machine) -> None:
    here, elsewhere = machine("here"), machine("elsewhere")
    make_there(here, "pretrain", 1)
    make_there(here, "pretrain", 2)
    make_there(here, "extract", 3, inputs={"encoder": f"pretrain/{digest(1)}"})
    put_study(here, ("extract", 3))
    wanted = [("pretrain", digest(number)) for number in (1, 2)]
    assert elsewhere.artifacts(wanted) == set(wanted)
    going = look(elsewhere, 0)
    assert [one.key for one in going.artifacts] == [("pretrain", digest(2))]
    assert remove(elsewhere, going, 0).count == 1
    for store in (here, elsewhere):
        assert store.artifacts(wanted) == {wanted[0]}
        assert there(store) == {("pretrain", 1), ("extract", 3)}
    assert here.artifact("pretrain", digest(1)).path.is_dir() and whole_there(here)
    make_there(here, "pretrain", 2)
    assert elsewhere.artifacts(wanted) == set(wanted) == here.artifacts(wanted)


@pytest.mark.long
def test_an_object_store_that_fails_in_the_middle_leaves_no_artifact_in_parts(machine, bucket: Bucket) -> None:
    store = machine("here")
    put_study(store)
    for allowed in (0, 1, 3):
        make_there(store, "pretrain", 2)
        left = iter(range(allowed))

        def spoil(method: str, path: str, left=left) -> Fault | None:
            counts = method == "DELETE" and "lease" not in path
            return Fault(status=403) if counts and next(left, None) is None else None

        bucket.faults.spoil = spoil
        going = look(store, 0)
        with pytest.raises(UserError, match="credentials"):
            remove(store, going, 0)
        bucket.faults.spoil = lambda method, path: None
        assert whole_there(store)
        for one in scan(store):
            if not one.finished:  # younger than a day: it is another's
                for name in one.files:
                    remote.remove(store.mirror.at(store.directory(one.kind, one.digest)) / name)
        remove(store, look(store, 0), 0)
        assert there(store) == set()


@pytest.mark.long
def test_an_object_store_has_back_what_a_study_names_meanwhile(machine) -> None:
    here, elsewhere = machine("here"), machine("elsewhere")
    make_there(here, "pretrain", 2)
    put_study(here)
    seen = []

    def begin() -> None:
        elsewhere.hear()
        seen.append(elsewhere.artifact("pretrain", digest(2)))
        put_study(elsewhere, ("pretrain", 2))

    done = remove(here, look(here, 0), 0, hidden=begin)
    assert seen == [None] and done.count == 0
    for store in (here, elsewhere):
        assert store.artifacts([("pretrain", digest(2))]) and store.artifact("pretrain", digest(2)).path.is_dir()


@pytest.mark.long
def test_leftovers_on_an_object_store(machine) -> None:
    from nml_ray.storage.bundle import Bundles

    store = machine("here")
    attempt = store.attempt("pretrain", digest(2))
    for name in ("data", "model", "log"):
        (attempt.path / name).write_text(name * 50)
    bundles = Bundles(attempt.path, store.mirror.at(attempt.path))
    bundles.publish("checkpoints/step-000000001", {"checkpoints/step-000000001/model": attempt.path / "model"})
    bundles.publish("fed/000000001", {"fed/a": attempt.path / "log"})
    (attempt.path / "model").unlink()
    (attempt.path / "log").unlink()
    attempt.finish()
    put_study(store, ("pretrain", 2))
    (one,) = look(store, 0).leftovers
    assert sorted(name.split("/")[1] for name in one.leftovers) == ["bundles", "held"]
    remove(store, look(store, 0), 0)
    assert look(store, 0).leftovers == ()
    found = machine("elsewhere").artifact("pretrain", digest(2))
    assert (found.evidence() / "fed/a").read_text() == "log" * 50 and (found.path / "data").exists()
