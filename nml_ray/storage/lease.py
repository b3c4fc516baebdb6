"""Leases: who is at work on an artifact. They save work; they never guard a result (attempts write apart)."""

import fcntl
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import read_json_if_whole, write_json
from nml_ray.storage.pulse import Pulse, process_started, surely_dead, this_machine

LEASE = "lease.json"
_LOCK = ".lease.lock"
HEARTBEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds without a new one, as seen by who waits, after which a lease is void
STALE = 3600.0  # age of the last one by the storage's clock at which one look is enough
PULSE = Pulse()


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    `machine` and `started` tell a process from another of the same pid (see `pulse`); `heartbeat` is Unix time on its
    machine: others only see that it changes.
    """

    owner: str
    host: str
    pid: int
    started: int
    heartbeat: float
    machine: str = ""

    @classmethod
    def from_data(cls, data: Any) -> Self | None:
        """Of a lease's content; None where that is no lease."""
        if not isinstance(data, dict):
            return None
        try:
            found = cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})
            texts = all(one.isprintable() for one in (found.owner, found.host, found.machine))
            process = isinstance(found.pid, int) and isinstance(found.started, int) and found.pid > 0
            return found if texts and process and math.isfinite(found.heartbeat) else None
        except (TypeError, AttributeError, OverflowError):
            return None

    @property
    def dead(self) -> bool:
        """Whether it has ended for certain, which only a process beside it can tell."""
        return surely_dead(self.machine, self.pid, self.started)

    def silent(self, where: str, pulse: Pulse) -> bool:
        """Whether it is dead, or has given no sign of life while this process has watched it for EXPIRY."""
        return self.dead or pulse.silence(where, self) >= EXPIRY


class Lease:
    """A lease that this process holds on the artifact whose attempts lie in `directory`; beats until released."""

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = directory
        self.owner = owner
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{directory.name}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; nothing happens to one that another has taken over. What cannot be removed expires."""
        self._released.set()
        self._thread.join()
        with suppress(OSError, UserError), locked(self.directory):
            found = holder(self.directory)
            if found and found.owner == self.owner:
                (self.directory / LEASE).unlink()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with suppress(OSError, UserError), locked(self.directory):  # of the storage: the work goes on
                found = holder(self.directory)
                if found is None or found.owner != self.owner:
                    return
                _write(self.directory, self.owner)


def take(directory: Path, pulse: Pulse = PULSE) -> Lease | None:
    """Take the lease on an artifact, also from a holder that is dead; None while another may be alive.

    One that is silent is found out by taking again and again: it is dead after EXPIRY, or at once where it was last
    heard of long ago.

    Raises:
        UserError: the storage refuses.
    """
    with locked(directory, make=True) as lock:
        found = holder(directory)
        if found and not found.silent(str(directory), pulse) and _age(directory, lock) < STALE:
            return None
        pulse.forget(str(directory))
        owner = uuid4().hex
        _write(directory, owner)
    return Lease(directory, owner)


def holder(directory: Path) -> Holder | None:
    """Who holds the lease on an artifact, dead or alive."""
    return Holder.from_data(read_json_if_whole(directory / LEASE))


def held(directory: Path) -> bool:
    """Whether somebody may hold the lease on an artifact, as far as one look tells."""
    found = holder(directory)
    with suppress(FileNotFoundError):
        return found is not None and not found.dead and time.time() - (directory / LEASE).stat().st_mtime < STALE
    return False


def _age(directory: Path, lock: int) -> float:
    """Seconds since the last sign of life, both ends by the storage's clock."""
    os.utime(lock)  # where files have a server's time, the server's
    with suppress(FileNotFoundError):
        return os.fstat(lock).st_mtime - (directory / LEASE).stat().st_mtime
    return 0.0


def _write(directory: Path, owner: str) -> None:
    pid = os.getpid()
    mine = Holder(owner, socket.gethostname(), pid, process_started(pid), time.time(), this_machine())
    write_json(directory / LEASE, asdict(mine), durable=False)


def discard(directory: Path) -> None:
    """Remove the directory of an artifact if it holds nothing, not even a lease."""
    with suppress(OSError), locked(directory):
        if os.listdir(directory) == [_LOCK]:
            (directory / _LOCK).unlink()
            directory.rmdir()  # not if somebody makes the lock anew meanwhile


@contextmanager
def locked(directory: Path, make: bool = False) -> Iterator[int]:
    """The lock of a directory that may be discarded at any time; `make`: it is made anew then. Gives its descriptor."""
    path = directory / _LOCK
    while True:
        if make:
            with suppress(FileExistsError):  # it is discarded between two looks, or a file is in the way
                directory.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            if make:
                continue
            raise
        except OSError as error:
            raise UserError(f"cannot be locked ({error.strerror})", where=str(path)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _same(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
