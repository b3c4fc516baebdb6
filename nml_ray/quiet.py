"""Keeps what Ray's C++ code logs on standard error from the terminal, and passes everything else on.

Run as a script; standard input is what the process that joined a cluster writes to descriptor 2. Ray's lines are
dropped, but for fatal ones. If that process ends without having said that it will (`END`), the last of the dropped
lines follow: Ray ends a process whose cluster is gone, and says why there alone.
"""

import re
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator

END = b"\0 the end\n"
LAST = 10  # lines
_LOGGED = re.compile(
    rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]) \d+ \d+\]"  # Ray's
    rb"|([A-Z])\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\]"  # of its libraries
    rb"|WARNING: All log messages before absl::"
)
_FATAL = (b"C", b"F")


def passed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines that the user is shown; a line that is indented belongs to the one before it."""
    dropped: deque[bytes] = deque(maxlen=LAST)
    drops = False
    for line in lines:
        if line.endswith(END):
            dropped.clear()
            if not (line := line.removesuffix(END)):
                continue
        if found := _LOGGED.match(line):
            drops = (found[1] or found[2]) not in _FATAL
        elif not line[:1].isspace():
            drops = False
        if drops:
            dropped.append(line)
        else:
            yield line
    yield from dropped


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # a job server sends it to all processes; the driver's word counts
        signal.signal(number, signal.SIG_IGN)
    for shown in passed(sys.stdin.buffer):
        sys.stderr.buffer.write(shown)
        sys.stderr.buffer.flush()
