"""Whether a process elsewhere is alive. Clocks of machines differ, so none is ever compared with ours."""

import os
import threading
import time
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path


class Pulse:
    """How long signs of life have stayed the same, by a clock of this process's own.

    Args:
        clock: seconds, from any beginning, never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}
        self._lock = threading.Lock()

    def silence(self, whose: Hashable, sign: Hashable) -> float:
        """Seconds since a sign was first seen here; 0 where it has changed since the last look, or is looked at first.

        Args:
            whose: name of what gives signs.
            sign: what it says now.
        """
        with self._lock:
            now = self._clock()
            last, since = self._seen.get(whose, (None, now))
            if last != sign:
                self._seen[whose], since = (sign, now), now
            return now - since

    def forget(self, whose: Hashable) -> None:
        """Look at it for the first time next time."""
        with self._lock:
            self._seen.pop(whose, None)


@cache
def this_machine() -> str:
    """What only processes have in common that see each other under the same pids: the boot and the pid namespace.

    "" where that cannot be told. A host's name would not do: containers share it.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # pids of another namespace
            return ""
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_started(pid: int) -> int:
    """When a process of this host started, in clock ticks since boot; -1 if there is none (a zombie is none).

    0 for a living one of which that cannot be told: there is no /proc, or it hides other people's processes.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return -1
    except PermissionError:
        pass
    return 0


def surely_dead(machine: str, pid: int, started: int) -> bool:
    """Whether a process has ended for certain: it ran where this one runs, and is not there any more.

    Args:
        machine: its `this_machine`.
        pid: of it, there.
        started: its `process_started`; a later process may have its pid.
    """
    if not machine or machine != this_machine():
        return False
    return process_started(pid) not in (0, started)
