"""The process that runs a submitted job: what it leaves on storage, also when it or the storage dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nml_ray.cluster.record import Record, record_of
from nml_ray.cluster.usage import Meter
from nml_ray.cluster.watch import submission_of
from nml_ray.storage.pulse import process_started
from tests.object_store import Bucket, Fault

PYTHON = sys.executable
ID = "some-20261124-000000-aaaa"


class Started:
    """Supervisors of one submission, ended with the test."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.all: list[subprocess.Popen[bytes]] = []

    def __call__(self, code: str, *options: str) -> subprocess.Popen[bytes]:
        command = [PYTHON, "-m", "nml_ray.cluster.supervisor", *options, self.storage, ID, "--", PYTHON, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.all.append(process)
        return process

    @property
    def record(self) -> Record:
        return record_of(self.storage, ID)

    @property
    def log(self) -> str:
        return b"".join(self.record.parts("driver")).decode()

    @property
    def status(self) -> dict:
        found = self.record.read_json("status.json")
        return {"state": "", **found} if isinstance(found, dict) else {"state": ""}

    def until(self, true: Callable[[], object]) -> None:
        while not true():
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    started = Started(str(tmp_path / "storage"))
    yield started
    end(started.all)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


WAITS = "import time\nprint('at work', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('not yet', flush=True))\n" + WAITS.replace(
    "time.sleep(600)", "\nwhile True: time.sleep(600)"
)


def test_output_is_passed_on_and_kept(start):
    process = start("import sys; print('one'); sys.stderr.write('two\\n\\n'); sys.stdout.buffer.write(b'\\xff 3\\r4')")
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, b"one\ntwo\n\n\xff 3\r4", b"")
    assert b"".join(start.record.parts("driver")) == output
    status = start.status
    assert (status["state"], status["exit_code"], status["attempt"], status["message"]) == ("succeeded", 0, 1, "4")
    assert status["started"] <= status["ended"] <= status["heartbeat"]
    (node,) = start.record.names("nodes")
    (reading,) = [json.loads(line) for part in start.record.parts(f"nodes/{node}/resources") for line in part.split()]
    assert reading["machine"]["memory_total"] > reading["job"]["memory"]


def test_what_a_tree_of_processes_uses_is_measured():
    meter = Meter(os.getpid())
    first = meter.read()
    sum(range(3_000_000))
    second = meter.read()
    assert first["job"]["processes"] >= 1
    assert second["job"]["cpu_percent"] > 0
    assert second["job"]["memory"] > 1 << 20
    assert Meter(2**22 + 1).read()["job"] == {"processes": 0, "cpu_percent": 0.0, "memory": 0}


@pytest.mark.parametrize(("code", "state"), [(1, "failed"), (2, "failed"), (143, "failed"), (0, "succeeded")])
def test_the_exit_code_is_the_jobs(start, code, state):
    assert start(f"raise SystemExit({code})").wait() == code
    assert (start.status["state"], start.status["exit_code"]) == (state, code)


def test_a_job_killed_from_outside_failed(start):
    assert start("import os; os.kill(os.getpid(), 9)").wait() == 137
    assert (start.status["state"], start.status["exit_code"]) == ("failed", 137)


def test_what_cannot_be_started_is_said(tmp_path):
    storage = str(tmp_path)
    done = subprocess.run(
        [PYTHON, "-m", "nml_ray.cluster.supervisor", storage, ID, "--", "./no-such-program", "x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 127
    said = "nml-ray: './no-such-program' cannot be started (No such file or directory)\n"
    assert done.stdout == said
    assert b"".join(record_of(storage, ID).parts("driver")).decode() == said


def test_a_storage_that_makes_no_sense_is_refused():
    done = subprocess.run(
        [PYTHON, "-m", "nml_ray.cluster.supervisor", "ftp://host/x", ID, "--", "true"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("nml-ray: storage: 'ftp://' cannot be read; expected a path, or an s3:// or gs://")


def test_a_stopped_job_ends_by_itself(start):
    stops = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print('kept'), sys.exit(130)))\n" + WAITS
    process = start(stops)
    start.until(lambda: start.log == "at work\n")
    process.terminate()
    assert process.wait() == 130
    assert (start.status["state"], start.status["exit_code"], start.status["message"]) == ("stopped", 130, "kept")


def test_a_job_that_ray_ends_while_it_starts_counts_as_stopped(start):
    stops = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))\n" + WAITS
    process = start(stops)
    start.until(lambda: start.log)
    process.terminate()
    assert process.wait() == 15
    assert start.status["state"] == "stopped"


def test_a_job_that_does_not_stop_is_killed_with_its_children(start):
    child = f"import subprocess; p = subprocess.Popen(['{PYTHON}', '-c', 'import time; time.sleep(600)']); print(p.pid)"
    process = start(f"{child}\n{STUBBORN}", "--stop-seconds", "0.5")
    start.until(lambda: "at work" in start.log)
    pid = int(start.log.split()[0])
    assert process_started(pid) > 0
    process.terminate()
    assert process.wait() == 137
    assert start.status["state"] == "stopped"
    assert "not yet" in start.log
    start.until(lambda: process_started(pid) == -1)


def test_a_stopping_job_says_so(start):
    process = start(STUBBORN)
    start.until(lambda: "at work" in start.log)
    process.send_signal(signal.SIGINT)
    start.until(lambda: start.status["state"] == "stopping")
    assert process.poll() is None


@pytest.mark.long
def test_children_that_hold_the_output_do_not_hold_up_the_end(start):
    lingering = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    assert start(lingering + "start_new_session=True); print(1)").wait() == 0
    assert start.status["state"] == "succeeded"


def test_a_killed_supervisor_takes_its_job_along(start):
    process = start("import os; print(os.getpid(), flush=True)\n" + WAITS)
    start.until(lambda: "at work" in start.log)
    pid = int(start.log.split()[0])
    process.kill()
    start.until(lambda: process_started(pid) == -1)
    assert start.status["state"] == "running"  # nobody was left to say otherwise; see test_watch


def test_a_supervisor_started_again_goes_on(start):
    first = start(WAITS)
    start.until(lambda: "at work" in start.log)
    first.kill()
    assert start("print('again')").wait() == 0
    assert start.record.names("driver") == ["000001.log", "000002.log"]
    assert start.log == "at work\nagain\n"
    assert (start.status["attempt"], start.status["state"]) == (2, "succeeded")


@pytest.mark.parametrize("left", ['{"a": 1}', "[1]", '{"attempt": null}', "{", "null"])
def test_a_status_that_cannot_be_understood_is_written_anew(start, left):
    start.record.write("status.json", left.encode())
    process = start(WAITS)
    start.until(lambda: start.status["state"] == "running")
    process.terminate()
    process.wait()
    assert (start.status["attempt"], start.status["state"]) == (1, "stopped")


OF = ("--of", "some", "address", "0f", "2026-11-24T00:00:00+00:00")


def test_what_was_submitted_is_told_where_the_machine_that_did_so_could_not(start):
    assert start("pass", *OF).wait() == 0
    told = submission_of(start.record)
    assert told
    assert (told.job, told.kind, told.code, told.submitted) == ("some", "address", "0f", OF[-1])
    mine = {**told.to_data(), "code": "of the machine that submitted it"}
    start.record.write_json("submission.json", mine)
    assert start("pass", *OF).wait() == 0
    assert start.record.read_json("submission.json")["code"] == mine["code"]


def test_trouble_with_storage_is_said_once_and_the_job_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    start = Started(str(tmp_path / "file" / "below"))
    process = start("import time\nfor n in range(10): print(n, flush=True); time.sleep(0.1)")
    output, errors = process.communicate()
    assert process.returncode == 0
    assert output.split() == [b"%d" % n for n in range(10)]
    assert errors.count(b"the job goes on") == 1


@pytest.mark.long
def test_on_an_object_store(bucket: Bucket):
    start = Started(str(bucket.at("runs")))
    text = "x" * 99 + "\\n"
    process = start(f"for _ in range(25_000): print('{text}', end='')")
    assert len(process.communicate()[0]) == 2_500_000
    assert [len(part) for part in start.record.parts("driver")] == [1 << 20, 1 << 20, 2_500_000 - (2 << 20)]
    assert start.status["state"] == "succeeded"
    assert start("print('more')").wait() == 0
    assert start.record.names("driver")[-1] == "000004.log"
    assert start.log.endswith("x\nmore\n")


def test_an_object_store_that_comes_back_gets_the_whole_log(bucket: Bucket):
    start = Started(str(bucket.at("runs")))
    bucket.faults.spoil = lambda method, path: Fault(status=503)
    process = start("import sys; print('before', flush=True); sys.stdin.read(); print('after')")
    assert process.stderr
    assert b"the job goes on" in process.stderr.readline()
    bucket.faults.spoil = lambda method, path: None
    assert process.wait() == 0
    assert start.log == "before\nafter\n"
    assert os.path.basename(start.record.location.path) == ID
