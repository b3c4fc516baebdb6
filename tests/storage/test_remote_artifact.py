"""Artifacts, attempts and leases of a storage on a real S3 server, seen from two machines: two working roots."""

import json
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nml_ray.config.errors import UserError
from nml_ray.storage import patience, remote, remote_lease, twin
from nml_ray.storage.artifact import Attempt, Store, arrived, read_progress
from nml_ray.storage.atomic import write_json
from nml_ray.storage.lease import LEASE
from nml_ray.storage.mirror import carried, mirror_of, present, working_root
from nml_ray.storage.patience import Patience
from nml_ray.storage.pulse import Pulse
from tests.object_store import Bucket, Fault

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    for name in ("PATIENCE", "QUICK"):
        monkeypatch.setattr(patience, name, Patience(first=0.01, most=0.02, total=0.5))
    monkeypatch.setattr(remote_lease, "QUICK", patience.QUICK)


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path):
    """A store on the bucket, as the machine of that name sees it."""
    return lambda name: Store(working_root(str(bucket.at("runs")), str(tmp_path / name)))


def begun(store: Store, **files: str) -> Attempt:
    attempt = store.attempt("pretrain", "d1", stage="x")
    for name, text in files.items():
        (attempt.path / name).write_text(text)
    return attempt


def keys(bucket: Bucket, below: str = "runs") -> set[str]:
    return {one.name for one in remote.objects(bucket.at(below)) if one.size or not one.name.endswith("/")}


def test_what_one_machine_makes_another_has(bucket, machine):
    here, there = machine("here"), machine("there")
    attempt = begun(here, weights="w" * 1000, empty="")
    (attempt.path / "deep").mkdir()
    (attempt.path / "deep/file").write_text("d")
    assert there.artifact("pretrain", "d1") is None
    assert attempt.finish(rows=3).record["rows"] == 3
    found = there.artifact("pretrain", "d1")
    assert found is not None and found.record["rows"] == 3 and found.record["files"]["count"] == 3
    assert not found.place.exists()
    bucket.faults.asked.clear()
    assert (found.path / "weights").read_text() == "w" * 1000
    assert (found.path / "deep/file").read_text() == "d" and (found.path / "empty").read_text() == ""
    assert [bucket.faults.count("GET", name) for name in ("/weights", "/file", "files.json")] == [1, 1, 1]
    assert there.artifacts([("pretrain", "d1"), ("pretrain", "d2")]) == {("pretrain", "d1")}
    assert there.digests("pretrain") == ["d1"]


def test_what_is_here_is_not_fetched_again(bucket, machine):
    begun(machine("here"), a="aaaa", b="bbbb").finish()
    found = machine("there").artifact("pretrain", "d1")
    (found.path / "a").unlink()
    bucket.faults.asked.clear()
    assert (found.path / "a").read_text() == "aaaa"
    assert [bucket.faults.count("GET", name) for name in ("/a", "/b", "files.json")] == [1, 0, 0]
    bucket.faults.asked.clear()
    artifact = machine("here").artifact("pretrain", "d1")
    assert artifact.path.is_dir() and not bucket.faults.asked


@pytest.mark.parametrize("fault", [Fault(keep=50), Fault(status=503), Fault(keep=0)], ids=["cut", "busy", "dropped"])
def test_what_passes_spoils_nothing(bucket, machine, fault, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", Patience(first=0.01, most=0.02, total=60))
    chance = random.Random(7)
    bucket.faults.spoil = lambda method, path: fault if chance.random() < 0.15 else None
    begun(machine("here"), weights="w" * 1000).finish()
    found = machine("there").artifact("pretrain", "d1")
    assert (found.path / "weights").read_text() == "w" * 1000


@pytest.mark.parametrize("part", ["/weights", "files.json", "record.json"])
def test_an_upload_that_is_cut_leaves_no_artifact(bucket, machine, part):
    here = machine("here")
    attempt = begun(here, weights="w" * 1000)
    bucket.faults.spoil = lambda method, path: Fault(500) if method in ("PUT", "POST") and part in path else None
    with pytest.raises(UserError, match=rf"{part}: cannot be reached, tried \d+ times"):
        attempt.finish()
    assert here.artifact("pretrain", "d1") is None and machine("there").artifact("pretrain", "d1") is None
    bucket.faults.spoil = lambda method, path: None
    attempt.finish()
    assert (machine("there").artifact("pretrain", "d1").path / "weights").read_text() == "w" * 1000


def test_an_object_that_was_changed_is_told(bucket, machine, tmp_path):
    attempt = begun(machine("here"), weights="right")
    attempt.finish()
    (tmp_path / "wrong").write_text("wrong")
    remote.upload(tmp_path / "wrong", bucket.at(f"runs/pretrain/d1/{attempt.path.name}/weights"))
    found = machine("there").artifact("pretrain", "d1")
    with pytest.raises(UserError, match=r"/weights: is not what was sent: 5 bytes came"):
        _ = found.path
    assert [path.name for path in found.place.iterdir()] == [".files.json"]
    assert machine("here").artifact("pretrain", "d1").path


def test_a_list_of_files_that_leads_elsewhere_is_refused(bucket, machine):
    attempt = begun(machine("here"), weights="w")
    attempt.finish()
    data = json.dumps({"../../outside": [1, "0", f"{attempt.path.name}/weights"]}).encode()
    remote.write(data, bucket.at(f"runs/pretrain/d1/{attempt.path.name}/files.json"))
    with pytest.raises(UserError, match="is not the one of the record beside it"):
        _ = machine("there").artifact("pretrain", "d1").path


def test_of_two_finishers_both_are_whole_and_all_see_one(machine):
    attempts = [begun(machine(name), weights="same") for name in ("here", "there")]
    assert attempts[0].path.name != attempts[1].path.name
    finished = []
    threads = [threading.Thread(target=lambda one=one: finished.append(one.finish())) for one in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    third = machine("third").artifact("pretrain", "d1")
    assert third.record["attempt"] in {attempt.path.name for attempt in attempts}
    for artifact in (*finished, third):
        assert (artifact.path / "weights").read_text() == "same"
    late = begun(machine("here"), weights="later")
    assert late.finish().record["attempt"] == third.record["attempt"]


def test_a_later_attempt_knows_of_those_of_other_machines(machine):
    first = begun(machine("here"))
    second = begun(machine("there"))
    assert [path.name for path in second.earlier] == [first.path.name]
    first.fail("loss became NaN")
    assert Attempt(second.earlier[0]).failure == "loss became NaN"


def test_paths_travel(machine, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    store = Store(working_root(str(bucket.at("runs"))))
    begun(store, weights="w").finish()
    place = store.artifact("pretrain", "d1").place
    text = carried(place)
    assert present(text) == place and "not-a-" not in text
    (tmp_path / "data").mkdir()
    (place / "link").symlink_to(tmp_path / "data")
    assert carried(place / "link") == str(tmp_path / "data") == carried(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    other = arrived(text)
    assert other.is_relative_to(tmp_path / "two") and (other / "weights").read_text() == "w"
    assert str(mirror_of(other).remote) == f"s3://{bucket.name}/runs"
    assert mirror_of(tmp_path) is None and present(str(tmp_path)) == tmp_path


def test_leases(machine, bucket):
    here, there = machine("here"), machine("there")
    taken = here.lease("pretrain", "d1")
    assert taken and here.lease("pretrain", "d1") is None and there.lease("pretrain", "d1") is None
    assert there.holder("pretrain", "d1").owner == here.holder("pretrain", "d1").owner
    taken.release()
    assert there.holder("pretrain", "d1") is None
    again = there.lease("pretrain", "d1")
    assert again
    held = there.holder("pretrain", "d1")
    again.release()
    location, now = bucket.at("runs/pretrain/d1"), time.time()
    for other, free in ((replace(held, machine="elsewhere"), False), (replace(held, pid=2**22 + 1), True)):
        remote_lease._write(location, replace(other, owner="x", heartbeat=now))
        mine = here.lease("pretrain", "d1")
        assert bool(mine) == free
        if mine:
            mine.release()
        assert here.held("pretrain", "d1") != free
    silent = replace(held, machine="elsewhere", owner="y", heartbeat=now + 3600)
    remote_lease._write(location, silent)
    pulse = Pulse(iter([0.0, 59.0, 70.0, 130.0]).__next__)
    directory = here.directory("pretrain", "d1")
    assert remote_lease.take(directory, location, pulse) is None
    assert remote_lease.take(directory, location, pulse) is None
    remote_lease._write(location, replace(silent, heartbeat=now + 3610))
    assert remote_lease.take(directory, location, pulse) is None, "it beats, whatever its clock says"
    assert remote_lease.take(directory, location, pulse), "its heart stopped beating"


def test_a_lease_that_another_took_over_is_left_alone(machine, bucket):
    here = machine("here")
    taken = here.lease("pretrain", "d1")
    location = bucket.at("runs/pretrain/d1")
    holder = remote_lease.holder(location)
    assert holder
    remote_lease._write(location, replace(holder, owner="other"))
    taken.release()
    assert remote_lease.holder(location).owner == "other"
    assert not (here.directory("pretrain", "d1") / LEASE).exists()


def test_a_lease_is_given_back_though_the_store_is_silent(machine, bucket):
    here = machine("here")
    taken = here.lease("pretrain", "d1")
    bucket.faults.spoil = lambda method, path: Fault(status=503)
    taken.release()
    assert not (here.directory("pretrain", "d1") / LEASE).exists()


def test_bundles_share_what_they_hold_and_go_alone(machine, bucket, tmp_path):
    attempt = begun(machine("here"))
    for name, text in (("a", "aaaa"), ("b", "bbbb")):
        (tmp_path / name).write_text(text)
    bundles = twin.twin_of(attempt.path)
    bundles.publish("checkpoints/1", {"c/1/a": tmp_path / "a", "c/1/b": tmp_path / "b"})
    bucket.faults.asked.clear()
    bundles.publish("best/1", {"best/1/a": tmp_path / "a"})
    assert sum(method in ("PUT", "POST") and "held" in path for method, path in bucket.faults.asked) == 0
    bundles.retire(["checkpoints/1", "checkpoints/7"][:1])
    held = {name.rpartition("-")[2] for name in keys(bucket, f"runs/pretrain/d1/{attempt.path.name}/held")}
    assert held == {"a"} and bundles.names() == ["best/1"] and bundles.names("checkpoints/") == []
    other = machine("there").directory("pretrain", "d1") / attempt.path.name
    assert twin.bring_bundles(other, "best/") == ["best/1"]
    assert (other / "best/1/a").read_text() == "aaaa"
    bundles.rename("best/1", "best/2", {"best/1/a": "best/2/a"})
    assert dict(bundles.files("best/2")).keys() == {"best/2/a"} and bundles.names() == ["best/2"]


@pytest.mark.parametrize("part", ["/held/", "/bundles/"])
def test_a_bundle_is_whole_or_not_there(machine, bucket, tmp_path, part):
    attempt = begun(machine("here"))
    (tmp_path / "a").write_text("a")
    bundles = twin.twin_of(attempt.path)
    bucket.faults.spoil = lambda method, path: Fault(500) if method in ("PUT", "POST") and part in path else None
    with pytest.raises(UserError, match="cannot be reached"):
        bundles.publish("checkpoints/1", {"a": tmp_path / "a"})
    bucket.faults.spoil = lambda method, path: None
    assert bundles.names() == []


def test_a_result_is_finished_by_a_driver_that_has_none_of_its_files(machine):
    driver = begun(machine("driver"))
    worker = machine("worker").directory("pretrain", "d1") / driver.path.name
    worker.mkdir(parents=True)
    (worker / "encoder").write_text("e")
    (worker / "fed").mkdir()
    (worker / "fed/rank-0-000000004.arrow").write_text("four")
    (worker / "fed/rank-0-000000008.arrow").write_text("cut, but nothing came of it")
    part = {"fed/rank-0-000000004.arrow": worker / "fed/rank-0-000000004.arrow"}
    twin.twin_of(worker).publish("fed/rank-0-000000004", part)
    twin.publish_result(worker)
    artifact = driver.finish()
    assert artifact.record["files"]["count"] == 2
    assert (artifact.path / "encoder").read_text() == "e" and not (artifact.place / "fed").exists()
    third = machine("third").artifact("pretrain", "d1")
    assert [path.name for path in (third.evidence() / "fed").iterdir()] == ["rank-0-000000004.arrow"]
    worker_sees = machine("worker").artifact("pretrain", "d1")
    assert [path.name for path in (worker_sees.evidence() / "fed").iterdir()] == ["rank-0-000000004.arrow"]


def test_progress_and_the_directory_of_a_study_are_told(machine, bucket):
    store = machine("here")
    attempt = begun(store)
    attempt.progress(1, 2, "steps")
    twin._teller.submit(lambda: None).result()
    said = read_progress(machine("there").directory("pretrain", "d1") / attempt.path.name)
    assert said is not None and (said.done, said.total) == (1, 2)
    study = store.root / "studies/s"
    (study / "given").mkdir(parents=True)
    write_json(study / "job.yaml", {"name": "s"})
    (study / "given/link").symlink_to(bucket.name)
    twin.publish_directory(study)
    other = machine("there").root / "studies/s"
    twin.bring_directory(other)
    assert [path.name for path in other.iterdir()] == ["job.yaml"]


def test_credentials_in_the_url_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"run\.storage: s3:// URL with credentials in it"):
        working_root("s3://key:hidden@bucket/runs", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
