"""Leases: who is at work on an artifact. They save work; they never guard a result (attempts write apart)."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from nml_ray.storage.atomic import read_json_if_whole, write_json

LEASE = "lease.json"
_LOCK = ".lease.lock"
HEARTBEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds after the last one at which a lease is void


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: `started` tells a process from a later one of the same pid; `heartbeat` is Unix time."""

    owner: str
    host: str
    pid: int
    started: int
    heartbeat: float

    def alive(self, now: float) -> bool:
        """Whether the lease still counts. A dead process of this host loses it at once, others at the expiry."""
        if self.host == socket.gethostname() and process_started(self.pid) != self.started:
            return False
        return now - self.heartbeat < EXPIRY


class Lease:
    """A lease that this process holds on the artifact whose attempts lie in `directory`; beats until released."""

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = directory
        self.owner = owner
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{directory.name}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; nothing happens to one that another has taken over."""
        self._released.set()
        self._thread.join()
        with suppress(FileNotFoundError), _locked(self.directory):
            found = holder(self.directory)
            if found and found.owner == self.owner:
                (self.directory / LEASE).unlink()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with suppress(FileNotFoundError), _locked(self.directory):
                found = holder(self.directory)
                if found is None or found.owner != self.owner:
                    return
                _write(self.directory, self.owner, time.time())


def take(directory: Path, clock: Callable[[], float] = time.time) -> Lease | None:
    """Take the lease on an artifact, also from a holder that is dead; None while another is alive."""
    with _locked(directory, make=True):
        found = holder(directory)
        if found and found.alive(clock()):
            return None
        owner = uuid4().hex
        _write(directory, owner, clock())
    return Lease(directory, owner)


def holder(directory: Path) -> Holder | None:
    """Who holds the lease on an artifact, dead or alive."""
    found = read_json_if_whole(directory / LEASE)
    return Holder(**found) if found else None


def process_started(pid: int) -> int:
    """When a process of this host started, in clock ticks since boot; -1 if there is none (a zombie is none).

    Where there is no /proc the answer for a living process is 0.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return -1
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        pass
    return 0


def _write(directory: Path, owner: str, now: float) -> None:
    pid = os.getpid()
    mine = Holder(owner, socket.gethostname(), pid, process_started(pid), now)
    write_json(directory / LEASE, asdict(mine), durable=False)


def discard(directory: Path) -> None:
    """Remove the directory of an artifact if it holds nothing, not even a lease."""
    with suppress(OSError), _locked(directory):
        if os.listdir(directory) == [_LOCK]:
            (directory / _LOCK).unlink()
            directory.rmdir()  # not if somebody makes the lock anew meanwhile


@contextmanager
def _locked(directory: Path, make: bool = False) -> Iterator[None]:
    """The lock of a directory that may be discarded at any time; `make`: it is made anew then."""
    path = directory / _LOCK
    while True:
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "w")
        except FileNotFoundError:
            if make:
                continue
            raise
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _same(file.fileno(), path):
                yield
                return


def _same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
