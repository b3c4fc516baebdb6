"""What a pod does before it is ended: the job reaches a checkpoint first, with its workers still there.

    python -m nml_ray.cluster.drain driver ID SECONDS     where the driver runs: SIGTERM to it, and wait for its end
    python -m nml_ray.cluster.drain work SECONDS          elsewhere: wait for the end of the work that Ray does here

KubeRay ends all pods of a cluster at once, and tells the job nothing (when it is suspended, deleted, or out of time).
Waits SECONDS at most; the exit code is 0. Linux only, and nothing but the standard library.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_PACE = 0.5  # seconds between two looks
_SUPERVISOR = "nml_ray.cluster.supervisor"


def commands(proc: Path = Path("/proc")) -> dict[int, list[str]]:
    """The command line of every process that has one, by its id."""
    found = {}
    for directory in proc.iterdir():
        if directory.name.isdecimal():
            with suppress(OSError):
                line = (directory / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
                found[int(directory.name)] = line.split("\0")
    return {pid: words for pid, words in found.items() if words != [""]}


def supervisors(id: str) -> list[int]:
    """The processes that supervise a submission."""
    return [pid for pid, words in commands().items() if _SUPERVISOR in words and id in words]


def works() -> list[int]:
    """Ray's processes that are at a task or hold an actor."""
    titles = {pid: words[0] for pid, words in commands().items()}
    return [pid for pid, title in titles.items() if title.startswith("ray::") and not title.startswith("ray::IDLE")]


def wait(any_left: Callable[[], object], seconds: float) -> None:
    """Wait until nothing is left, so many seconds at most."""
    until = time.monotonic() + seconds
    while any_left() and time.monotonic() < until:
        time.sleep(_PACE)


def main(arguments: Sequence[str]) -> None:
    """See the module's text."""
    match arguments:
        case ["driver", id, seconds]:
            for pid in supervisors(id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            wait(lambda: supervisors(id), float(seconds))
        case ["work", seconds]:
            wait(works, float(seconds))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
