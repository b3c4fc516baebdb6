"""Removal of what no study refers to, on an object store, as several machines see it."""

import os
import time
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import patience, remote, remote_lease, twin
from nml_ray.storage.artifact import Store
from nml_ray.storage.mirror import working_root
from nml_ray.storage.patience import Patience
from nml_ray.study.garbage_removal import look, remove
from nml_ray.study.garbage_scan import scan
from tests.object_store import Bucket, Fault
from tests.study.garbage_storage import digest, study, there


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
def test_what_was_told_of_removals_goes_and_who_missed_it_asks_anew(machine) -> None:
    here, elsewhere, away = machine("here"), machine("elsewhere"), machine("away")
    make_there(here, "pretrain", 2)
    put_study(here)
    wanted = [("pretrain", digest(2))]
    assert elsewhere.artifacts(wanted) == away.artifacts(wanted) == set(wanted)
    told = here.mirror.at(here.root / "removed")
    remove(here, look(here, 0), 0)
    assert len(remote.names(told)) == 1 and elsewhere.artifacts(wanted) == set()
    twin.tell_no_more(here.mirror, time.time())
    assert len(remote.names(told)) == 1
    twin.tell_no_more(here.mirror, time.time() + twin.TOLD_FOR + 60)
    assert remote.names(told) == []
    assert elsewhere.artifacts(wanted) == set() and not list((elsewhere.root / "removed").glob("*.json"))
    asked = time.time() - twin.TOLD_FOR / 2 - 60
    os.utime(away.root / "removed" / ".asked", (asked, asked))
    assert away.artifacts(wanted) == set()


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
