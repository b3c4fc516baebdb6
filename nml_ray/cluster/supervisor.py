"""Runs a submitted job where it was sent, and tells of it on storage while it runs.

    python -m nml_ray.cluster.supervisor [--stop-seconds SECONDS] [--of JOB KIND CODE SUBMITTED]
        STORAGE ID -- COMMAND [ARGUMENT]...

The command runs in a session of its own. Its output is passed on as it comes, and kept in the submission's record;
status.json there has a sign of life every ten seconds. SIGTERM (or SIGINT) is passed on to the command, which has
SECONDS to end by itself. Trouble with the storage never stops the job. The exit code is the command's, 128 and the
signal's number if one ended it, 127 if it could not be started, 2 if STORAGE makes no sense.

Where the machine that submitted the job could not leave submission.json there, it is written with what --of tells.

Started again with the same ID, it goes on with the same record as its next attempt.
"""

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any

from nml_ray.cluster.beat import Beat, BeatState, said
from nml_ray.cluster.fields import Unreadable
from nml_ray.cluster.parts import Parts
from nml_ray.cluster.record import DRIVER, NODES, STATUS, SUBMISSION, Record, record_of
from nml_ray.cluster.submission import Submission
from nml_ray.cluster.usage import Meter
from nml_ray.cluster.watch import beat_of
from nml_ray.config.errors import UserError
from nml_ray.storage.lease import HEARTBEAT
from nml_ray.storage.patience import Patience
from nml_ray.storage.pulse import process_started, this_machine

STOP_SECONDS = 120
NOT_STARTED = 127
_BY_SIGNAL = (128 + signal.SIGINT, 128 + signal.SIGTERM, signal.SIGTERM)  # the last is Ray's, while it starts
_NOW = Patience(total=0)
_AT_LAST = Patience(total=120)
_LOCAL_PACE, _REMOTE_PACE = 0.2, 3.0  # seconds between two writes of the log
_ALONE = 2  # beats after which the machine that submitted the job is not going to leave a record
_REMOTE_USAGE = 6  # beats between two uploads of what was used
_DRAIN = 2.0  # seconds for output that is still on its way when the command has ended
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """One attempt at a submitted job."""

    def __init__(
        self, record: Record, command: Sequence[str], stop_seconds: float, submission: Submission | None = None
    ) -> None:
        self.command = command
        self.stop_seconds = stop_seconds
        self.teller = Teller(record, submission)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = self._killed = False

    def run(self) -> int:
        """Run the command to its end; its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        try:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                preexec_fn=_ends_with_parent(),  # no other thread runs yet
            )
        except OSError as error:
            line = f"nml-ray: '{self.command[0]}' cannot be started ({error.strerror})\n".encode()
            _pass_on(line)
            self.teller.output(line)
            self.teller.end("failed", NOT_STARTED)
            return NOT_STARTED
        self._child = child
        if self._stopping:
            self._pass_stop_on()
        self.teller.start(child.pid)
        assert child.stdout
        reader = threading.Thread(target=self._read, args=(child.stdout.fileno(),), name="output", daemon=True)
        reader.start()
        over = threading.Event()
        threading.Thread(target=_wait, args=(child.pid, over), name="wait", daemon=True).start()
        over.wait()  # without a limit: a signal's handler runs meanwhile
        with suppress(ProcessLookupError, PermissionError):  # what the command left; its number is still its own
            os.killpg(child.pid, signal.SIGKILL)
        reader.join(_DRAIN)
        code = child.wait()
        code = code if code >= 0 else 128 - code
        self.teller.end(self._verdict(code), code)
        return code

    def _verdict(self, code: int) -> BeatState:
        if self._stopping and (code in _BY_SIGNAL or self._killed):
            return "stopped"
        return "succeeded" if code == 0 else "failed"

    def _read(self, descriptor: int) -> None:
        heard = True
        while data := os.read(descriptor, 1 << 16):
            heard = heard and _pass_on(data)
            self.teller.output(data)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._child:
            self._pass_stop_on()

    def _pass_stop_on(self) -> None:
        assert self._child
        self.teller.stopping = True
        os.kill(self._child.pid, signal.SIGTERM)
        timer = threading.Timer(self.stop_seconds, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        assert self._child
        if self._child.returncode is None:
            self._killed = True
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)


class Teller:
    """Keeps a record up to date from a thread of its own."""

    def __init__(self, record: Record, submission: Submission | None) -> None:
        self.record = record
        self._submission = submission
        self.stopping = False
        self.log = Parts(record, DRIVER, ".log")
        self.usage = Parts(record, f"{NODES}/{socket.gethostname()}/resources", ".jsonl")
        self._pace = _REMOTE_PACE if record.location.remote else _LOCAL_PACE
        now, pid = time.time(), os.getpid()
        process = process_started(pid)
        self._beat = Beat("running", 0, socket.gethostname(), pid, process, now, now, machine=this_machine())
        self._recent = b""
        self._meter: Meter | None = None
        self._news, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._troubled = False
        self._beats = 0

    def start(self, pid: int) -> None:
        """Tell from now on, also what the tree of processes below one uses."""
        self._meter = Meter(pid)
        self._thread = threading.Thread(target=self._tell, name="tell", daemon=True)
        self._thread.start()

    def output(self, data: bytes) -> None:
        """Take output of the command."""
        self.log.add(data)
        self._recent = (self._recent + data)[-4096:]
        self._news.set()

    def end(self, state: BeatState, code: int) -> None:
        """Tell the end, patiently: nobody will tell it later."""
        self._over.set()
        self._news.set()
        if self._thread:
            self._thread.join()
        self._beat = replace(self._beat, state=state, exit_code=code, ended=time.time())
        patience = _AT_LAST
        writes = (self.log.flush, self.usage.flush, self._write_status)  # a reader of the end finds the whole log
        for write in (*writes, self._write_submission):
            patience = patience if self._try(write, patience) else _NOW

    def _tell(self) -> None:
        due = time.monotonic()
        stopping = False
        while not self._over.is_set():
            if time.monotonic() >= due or stopping != self.stopping:
                due = time.monotonic() + HEARTBEAT
                stopping = self.stopping
                self._beat_once()
            self._try(self.log.flush, _NOW)
            self._over.wait(self._pace)
            self._news.wait(max(0.0, min(due - time.monotonic(), 1.0)))
            self._news.clear()

    def _beat_once(self) -> None:
        assert self._meter
        self.usage.add(_line(self._meter.read()))
        every = _REMOTE_USAGE if self.record.location.remote else 1
        if self._try(self._write_status, _NOW) and self._beats % every == 0:
            self._try(self.usage.flush, _NOW)
        self._beats += 1
        if self._beats > _ALONE:
            self._try(self._write_submission, _NOW)

    def _write_status(self, patience: Patience) -> None:
        if self._beat.attempt == 0:
            self._beat = replace(self._beat, attempt=self._before(patience) + 1)
        state: BeatState = "stopping" if self.stopping and self._beat.ended is None else self._beat.state
        message = said(self._recent.decode(errors="replace")) or self._beat.message
        self._beat = replace(self._beat, state=state, message=message, heartbeat=time.time())
        self.record.write_json(STATUS, self._beat.to_data(), patience)
        self._troubled = False

    def _write_submission(self, patience: Patience) -> None:
        """What was submitted, unless the machine that did so has told it, and more."""
        if self._submission and self.record.read(SUBMISSION, patience) is None:
            self.record.write_json(SUBMISSION, self._submission.to_data(), patience)
        self._submission = None

    def _before(self, patience: Patience) -> int:
        """The attempt before this one; 0 where there was none, or none that can be understood."""
        try:
            before = beat_of(self.record, patience)
        except Unreadable:
            return 0
        return before.attempt if before else 0

    def _try(self, write: Callable[[Patience], None], patience: Patience) -> bool:
        """Whether it could be written; the first of several failures is said."""
        try:
            write(patience)
        except (UserError, OSError, ValueError) as error:
            if not self._troubled:
                _pass_on(f"nml-ray: the record of this job cannot be written; the job goes on ({error})\n".encode(), 2)
            self._troubled = True
            return False
        return True


def _wait(pid: int, over: threading.Event) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # stays a zombie, so that its number is not given away
    over.set()


def _pass_on(data: bytes, descriptor: int = 1) -> bool:
    """Whether anybody still listens to this process."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        return False
    return True


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _ends_with_parent() -> Callable[[], None] | None:
    """What a child calls to get SIGTERM when this process is killed; only Linux can do that."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Supervise by the command line; see the module."""
    description = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser("python -m nml_ray.cluster.supervisor", description=description)
    parser.add_argument("--stop-seconds", type=float, default=STOP_SECONDS, help="given to the command after SIGTERM")
    parser.add_argument("--of", nargs=4, metavar=("JOB", "KIND", "CODE", "SUBMITTED"), help="facts of the submission")
    parser.add_argument("storage", help="path or URL")
    parser.add_argument("id", help="of the submission")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args(arguments)
    try:
        record = record_of(given.storage, given.id)
    except UserError as error:
        print(f"nml-ray: {error}", file=sys.stderr)
        return 2
    submission = None
    if given.of:
        job, kind, code, submitted = given.of
        submission = Submission(given.id, job, {"kind": kind}, given.storage, (), code, submitted)
    return Supervisor(record, given.command, given.stop_seconds, submission).run()


if __name__ == "__main__":
    sys.exit(main())
