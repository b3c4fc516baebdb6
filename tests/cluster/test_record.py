"""The record of a submission and those who read it: on a disk, on an object store, after a death, as it grows."""

import errno
import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nml_ray.cluster import parts, registry, watch
from nml_ray.cluster.beat import Beat, said
from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import Record, record_of, submissions_on
from nml_ray.cluster.submission import Status, Submission, is_id, new_id
from nml_ray.config.errors import UserError
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.storage.pulse import Pulse, this_machine
from tests.object_store import Bucket, Fault

NOW = 1_000_000.0
BEAT = Beat("running", 1, "elsewhere", 7, 5, started=NOW - 100, heartbeat=NOW - 5, message="pretrain: 40 %")
SUBMISSION = Submission("demo-1", "demo", {"kind": "local"}, "/data/runs", ("job.yaml", "--inline"), "0f", "2026-11-24")


@pytest.fixture(params=["disk", "object store"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Record:
    if request.param == "disk":
        return record_of(str(tmp_path), "demo-1")
    return record_of(str(request.getfixturevalue("bucket").at("runs")), "demo-1")


def test_what_is_not_there_is_nothing(record):
    assert record.read("status.json") is None
    assert record.names("driver") == []
    assert watch.status_of(record) is None
    assert watch.submission_of(record) is None
    assert watch.Tail(record).more() == ""


def test_files_are_kept_by_name(record):
    record.write_json("submission.json", SUBMISSION.to_data())
    record.write("driver/000001.log", b"one")
    record.write("driver/000002.log", b"two")
    assert watch.submission_of(record) == SUBMISSION
    assert b"".join(record.parts("driver")) == b"onetwo"
    assert record.names("driver") == ["000001.log", "000002.log"]
    above = record.location
    assert submissions_on(str(Location(above.scheme, above.path.rpartition("/submissions/")[0]))) == ["demo-1"]


def test_a_storage_without_submissions_has_none(tmp_path):
    assert submissions_on(str(tmp_path / "nowhere")) == []


def test_a_full_disk_still_takes_what_stands_in_the_place_of_the_old(tmp_path, monkeypatch):
    def full(path: Path, data: bytes, *, durable: bool = True) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    record = record_of(str(tmp_path), "x")
    record.write_json("status.json", {**BEAT.to_data(), "message": "x" * 99})
    monkeypatch.setattr("nml_ray.cluster.record.write_bytes", full)
    ended = replace(BEAT, state="succeeded", exit_code=0, ended=NOW)
    record.write_json("status.json", ended.to_data())
    assert watch.beat_of(record) == ended
    with pytest.raises(UserError, match=r"job\.yaml: cannot be written \(No space left"):
        record.write("job.yaml", b"new")


def test_a_file_that_a_crash_tore_counts_as_none(tmp_path):
    record = record_of(str(tmp_path), "x")
    record.write("status.json", b'{"state": ')
    assert watch.status_of(record) is None


def test_logs_are_read_as_they_grow(record, monkeypatch):
    monkeypatch.setattr(parts, "FULL", 10)
    log, tail = Parts(record, "driver", ".log"), watch.Tail(record)
    seen = ""
    for piece in ["a", "", "bcdefghijk", "\u00e9" * 8, "0123456789" * 3, "end\n"]:
        log.add(piece.encode())
        log.flush()
        seen += tail.more()
    assert seen == "abcdefghijk" + "\u00e9" * 8 + "0123456789" * 3 + "end\n"
    later = Parts(record, "driver", ".log")
    later.add(b"again")
    later.flush()
    assert tail.more() == "again"
    assert watch.Tail(record).more() == seen + "again"
    if record.location.remote:
        assert all(len(part) <= 10 for part in record.parts("driver"))


def test_a_character_cut_in_two_is_put_together(tmp_path):
    record = record_of(str(tmp_path), "x")
    log, tail = Parts(record, "driver", ".log"), watch.Tail(record)
    log.add("né".encode()[:2])
    log.flush()
    assert tail.more() == "n"
    log.add("né".encode()[2:])
    log.flush()
    assert tail.more() == "é"


def test_what_could_not_be_written_is_written_later(bucket: Bucket):
    record = record_of(str(bucket.at("runs")), "x")
    log = Parts(record, "driver", ".log")
    bucket.faults.spoil = lambda method, path: Fault(status=503) if method == "PUT" else None
    log.add(b"one ")
    with pytest.raises(UserError, match="cannot be reached"):
        log.flush(Patience(total=0))
    bucket.faults.spoil = lambda method, path: None
    log.add(b"two")
    log.flush()
    assert b"".join(record.parts("driver")) == b"one two"


def test_what_waits_too_long_is_dropped_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_MOST", 10)
    record = record_of(str(tmp_path), "x")
    log = Parts(record, "driver", ".log")
    log.add(b"0123456789abcde")
    while log._waiting:
        log.flush()
    text = b"".join(record.parts("driver")).decode()
    assert text == "\n[5 bytes are lost here: the storage could not be written]\n56789abcde"


def test_who_writes_faster_than_a_storage_that_is_well_waits_and_loses_nothing(record, monkeypatch):
    for name, size in (("_MOST", 3000), ("_ENOUGH", 2000), ("FULL", 100), ("_LARGE", 500)):
        monkeypatch.setattr(parts, name, size)
    log, over = Parts(record, "driver", ".log"), threading.Event()

    def write() -> None:
        while not over.is_set():
            log.flush()
            over.wait(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    said = [b"%06d\n" % number for number in range(4000)]
    for line in said:
        log.add(line)
    over.set()
    writer.join()
    log.flush()
    assert b"".join(record.parts("driver")) == b"".join(said)


def test_nobody_waits_for_a_storage_that_is_not_well(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_MOST", 10)
    monkeypatch.setattr(parts, "_ENOUGH", 5)
    (tmp_path / "submissions").touch()
    record = record_of(str(tmp_path), "x")
    log = Parts(record, "driver", ".log")
    log.add(b"01234")
    with pytest.raises(UserError, match="cannot be written"):
        log.flush()
    waits: list[float | None] = []
    monkeypatch.setattr(log._lock, "wait", waits.append)
    log.add(b"56789abcde")
    assert waits == []
    (tmp_path / "submissions").unlink()
    log.flush()
    text = b"".join(record.parts("driver")).decode()
    assert text == "\n[5 bytes are lost here: the storage could not be written]\n56789abcde"


def test_what_is_dropped_while_a_part_is_written_is_not_of_that_part(bucket: Bucket, monkeypatch):
    monkeypatch.setattr(parts, "_MOST", 10)
    record = record_of(str(bucket.at("runs")), "x")
    log, later = Parts(record, "driver", ".log"), [b"56789abc"]

    def while_it_is_written(method: str, path: str) -> None:
        if method == "PUT" and later:
            log.add(later.pop())

    bucket.faults.spoil = while_it_is_written
    log.add(b"01234")
    log.flush()
    log.flush()
    text = b"".join(record.parts("driver")).decode()
    assert text == "01234\n[3 bytes are lost here: the storage could not be written]\n89abc"


def test_the_log_is_followed_to_the_end(tmp_path):
    record = record_of(str(tmp_path), "x")
    log = Parts(record, "driver", ".log")
    states = iter([None, Status("running"), Status("running"), Status("succeeded")])

    def status() -> Status | None:
        log.add(b"line\n")
        log.flush()
        return next(states)

    assert "".join(watch.follow(record, status)) == "line\n" * 4


def test_a_beat_is_kept_as_data():
    assert Beat.from_data({**BEAT.to_data(), "of a newer version": 1}) == BEAT


def test_a_job_whose_supervisor_is_silent_is_lost():
    assert BEAT.status(5) == Status("running", "pretrain: 40 %", None, "storage")
    assert replace(BEAT, state="stopping").status(5).message == "stopping: pretrain: 40 %"
    lost = BEAT.status(61)
    assert (lost.state, lost.message) == ("lost", "no sign of life from elsewhere for 61 s; last: pretrain: 40 %")
    here = replace(BEAT, machine=this_machine(), pid=2**22 + 1)
    assert here.status(5).state == "lost" and not here.alive(NOW)
    container = replace(here, host=socket.gethostname(), machine="the same boot, another namespace")
    assert container.status(5).state == "running" and container.alive(NOW)
    ended = replace(BEAT, state="failed", exit_code=1, ended=NOW)
    assert ended.status(1e9) == Status("failed", "pretrain: 40 %", 1, "storage")


def test_one_look_takes_the_storages_time_where_the_supervisors_clock_is_off():
    slow, fast = replace(BEAT, heartbeat=NOW - 70), replace(BEAT, heartbeat=NOW + 3600)
    assert not slow.alive(NOW) and slow.alive(NOW, changed=NOW - 3) and not slow.alive(NOW, changed=NOW - 65)
    assert fast.silence(NOW, changed=NOW - 80) == 80 and fast.silence(NOW, changed=NOW + 1) == 0


def test_a_status_looked_at_once_is_that_of_a_supervisor_whose_clock_is_slow(tmp_path):
    record = record_of(str(tmp_path), "x")
    record.write_json("status.json", replace(BEAT, heartbeat=time.time() - 900).to_data())
    found = watch.status_of(record)
    assert found and found.state == "running"
    os.utime(record.at("status.json").local, (0, time.time() - 90))
    found = watch.status_of(record)
    assert found and found.state == "lost"


def test_a_status_that_is_watched_is_lost_only_after_a_minute_without_change(tmp_path):
    record, now = record_of(str(tmp_path), "x"), 0.0
    status = watch.watched(record, Pulse(lambda: now))
    assert status() is None

    def state(seconds: float, heartbeat: float) -> str:
        nonlocal now
        now += seconds
        record.write_json("status.json", replace(BEAT, heartbeat=heartbeat).to_data())
        found = status()
        assert found
        return found.state

    behind = time.time() - 120
    assert [state(0, behind), state(55, behind), state(55, behind + 10), state(59, behind + 10)] == ["running"] * 4
    assert state(2, behind + 10) == "lost"
    record.write_json("status.json", replace(BEAT, heartbeat=time.time() - 7200).to_data())
    os.utime(record.at("status.json").local, (0, time.time() - 7200))
    found = watch.watched(record)()
    assert found and found.state == "lost", "nobody waits for what ended hours ago"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("one\ntwo\n\n \n", "two"),
        ("one\n\x1b[2K\x1b[31mtwo\x1b[0m\n", "two"),
        ("1 %\r2 %\r3 %", "3 %"),
        ("1 %\r2 %\r\n", "2 %"),
        ("x" * 999, "x" * 200),
    ],
)
def test_the_last_words_are_one_short_line(output, line):
    assert said(output) == line


@given(st.text(max_size=200))
def test_any_output_gives_a_line_that_can_be_shown(output):
    assert said(output).isprintable()


def test_submissions_of_this_machine_are_found_by_a_beginning(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="nothing was submitted from this machine yet"):
        registry.find("last")
    for number, id in enumerate(["demo-a", "demo-b", "other"]):
        registry.remember(replace(SUBMISSION, id=id, submitted=f"2026-11-2{number}"))
    assert [one.id for one in registry.known()] == ["other", "demo-b", "demo-a"]
    assert registry.find("last").id == "other"
    assert registry.find("o").id == "other"
    assert registry.find("demo-a") == replace(SUBMISSION, id="demo-a", submitted="2026-11-20")
    with pytest.raises(UserError, match="2 submissions begin with 'demo'; expected one of demo-b, demo-a"):
        registry.find("demo")
    with pytest.raises(UserError, match=r"no submission 'othr' .* did you mean 'other'"):
        registry.find("othr")
    registry.remember_end("other", Status("stopped", "kept", 130))
    assert registry.end_of("other") == Status("stopped", "kept", 130)
    registry.forget("other")
    assert registry.end_of("other") is None
    assert [one.id for one in registry.known()] == ["demo-b", "demo-a"]


def test_an_end_is_kept_of_what_this_machine_submitted_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    registry.remember_end("../../../x", Status("succeeded"))
    registry.remember_end("demo-1", Status("succeeded"))
    assert list(tmp_path.rglob("*.json")) == []


TORN = [b"", b"{", b"[1]", b"[" * 100_000, b'{"a": 1}', b'"x"', b"\xff"]


@pytest.mark.parametrize("data", TORN)
def test_a_file_that_holds_no_submission_is_passed_over_and_said(tmp_path, monkeypatch, data):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    registry.remember(SUBMISSION)
    registry.remember_end("demo-1", Status("succeeded"))
    (registry.directory() / "demo-2.json").write_bytes(data)
    (registry.directory() / "ended" / "demo-1.json").write_bytes(data)
    assert registry.known() == [registry.find("last")] == [registry.find("demo")] == [registry.kept("demo-1")]
    assert registry.end_of("demo-1") is None
    (flaw,) = registry.flaws()
    assert str(flaw).startswith(f"{registry.directory()}/demo-2.json: holds no submission (")
    with pytest.raises(UserError, match="holds no submission"):
        registry.find("demo-2")


def test_a_state_directory_that_cannot_be_is_said_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert registry.known() == []
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\).*expected XDG_STATE_HOME with a"):
        registry.remember(SUBMISSION)
    registry.remember_end("demo-1", Status("succeeded"))
    registry.forget("demo-1")


GOOD = json.loads(json.dumps(SUBMISSION.to_data()))


@pytest.mark.parametrize(
    "data",
    [
        *([1], {"a": 1}, "x", None, {**GOOD, "id": "../../x"}, {**GOOD, "id": "demo-2"}, {**GOOD, "arguments": "ab"}),
        *({**GOOD, "cluster": {}}, {**GOOD, "cluster": {"kind": 1}}, {**GOOD, "submitted": "yesterday"}),
        *({**GOOD, "handle": {"job": 1}}, {**GOOD, "storage": None}),
    ],
)
def test_what_is_no_submission_is_refused(tmp_path, data):
    with pytest.raises(ValueError):
        Submission.from_data(data, "demo-1")
    record = record_of(str(tmp_path), "demo-1")
    record.write_json("submission.json", data)
    if data is not None:
        with pytest.raises(UserError, match=r"submissions/demo-1/submission.json: cannot be understood \("):
            watch.submission_of(record)


def test_a_submission_of_a_newer_version_is_read():
    assert Submission.from_data({**GOOD, "of a newer version": 1}, "demo-1") == SUBMISSION


@pytest.mark.parametrize("id", ["", ".", "..", "../x", "a/b", "-a", "a-", "A", "a\n", "1", "a" * 64])
def test_what_is_no_id_names_no_record(tmp_path, id):
    with pytest.raises(ValueError, match="its id is not"):
        Submission.from_data({**GOOD, "id": id}, id)
    if id and "/" not in id and set(id) != {"."}:
        record_of(str(tmp_path), id).write_json("submission.json", GOOD)
    assert submissions_on(str(tmp_path)) == []


@pytest.mark.parametrize(
    "change",
    [
        *({"state": "x"}, {"state": None}, {"attempt": None}, {"pid": "1"}, {"pid": 10**300}, {"heartbeat": 10**400}),
        *({"message": ["x"]}, {"exit_code": "0"}, {"ended": 1.0}, {"host": 3}),
    ],
)
def test_what_is_no_sign_of_life_is_refused(tmp_path, change):
    record = record_of(str(tmp_path), "demo-1")
    record.write_json("status.json", {**BEAT.to_data(), **change})
    with pytest.raises(UserError, match=r"submissions/demo-1/status.json: cannot be understood \("):
        watch.status_of(record)


@given(st.text(max_size=70))
def test_ids_are_names_everywhere(job):
    id = new_id(job)
    assert len(id) <= 47
    assert is_id(id)
    assert not set(id) - set("abcdefghijklmnopqrstuvwxyz0123456789-")
