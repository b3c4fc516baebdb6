"""Ends what is left of an embedded Ray when its process has ended, however it ended.

Run as a script with the session's directory as its argument; standard input is a pipe that only the process that
started Ray holds. When the pipe closes (also by SIGKILL) the processes that carry the session's mark in their
environment get a few seconds to end, are then killed, and the directory is removed. Some of Ray's agents would
otherwise stay for more than a minute.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "NML_RAY_SESSION"
GRACE = 5.0  # seconds


def marked(directory: str) -> list[int]:
    """The processes of this session: empty where there is no /proc, and Ray's own means must do."""
    mark = f"{MARK}={directory}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def reap(directory: str) -> None:
    """Wait for the session's processes to end, kill those that do not, remove the directory."""
    deadline = time.monotonic() + GRACE
    while marked(directory) and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(50):
        left = marked(directory)
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(sys.argv[1])
