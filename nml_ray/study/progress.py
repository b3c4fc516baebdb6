"""How a run shows itself: a bar for each batch at work on a terminal, plain lines elsewhere.

Both are driven by the `progress.json` that running attempts write, looked at from a thread; so it makes no difference
in which process, or on which machine, the work is done.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from nml_ray.storage.artifact import read_progress

if TYPE_CHECKING:
    from rich.progress import Progress

_LOOK = 0.5  # seconds between two looks
_QUIET = 2.0  # a batch that ends sooner shows no line of progress
_LINE = 5.0  # seconds between two plain lines at first; later a twelfth of the time that the batch has taken


@dataclass(frozen=True)
class Sum:
    """Progress of a batch: the sum over its attempts."""

    done: float
    total: float
    unit: str


def total_of(attempts: Sequence[Path]) -> Sum | None:
    """The progress of all attempts together; None before the first has said anything."""
    said = [progress for attempt in attempts if (progress := read_progress(attempt))]
    if not said:
        return None
    return Sum(sum(one.done for one in said), sum(one.total for one in said), said[0].unit)


class Rate:
    """The rate since the first sight of any progress, and the time left by it."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def words(self, now: float, progress: Sum) -> str:
        """ "1,200/15,606 samples, 310/s, 46 s left"."""
        text = f"{progress.done:,.0f}/{progress.total:,.0f} {progress.unit}"
        if self.first is None:
            self.first = (now, progress.done)
            return text
        elapsed, done = now - self.first[0], progress.done - self.first[1]
        if elapsed <= 0 or done <= 0:
            return text
        rate = done / elapsed
        return f"{text}, {_rate(rate)}/s, {duration((progress.total - progress.done) / rate)} left"


def duration(seconds: float) -> str:
    """ "45 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class PlainDisplay:
    """Lines of text: one when a batch ends, and one every few seconds while a longer one is at work."""

    def __init__(self, stream: TextIO | None = None, look: float = _LOOK, quiet: float = _QUIET) -> None:
        self.stream = stream or sys.stderr
        self.look = look
        self.quiet = quiet

    def say(self, line: str) -> None:
        """One line for the user."""
        self.stream.write(line + "\n")  # at once: batches side by side speak from threads
        self.stream.flush()

    @contextmanager
    def stage(self, title: str, attempts: Sequence[Path]) -> Iterator[None]:
        """Shown while one batch is at work."""
        ended = threading.Event()
        begun = time.monotonic()
        watcher = threading.Thread(target=self._watch, args=(title, attempts, ended), name="progress", daemon=True)
        watcher.start()
        try:
            yield
        except BaseException:
            self._end(ended, watcher)
            self.say(f"{title}: stopped after {duration(time.monotonic() - begun)}")
            raise
        self._end(ended, watcher)
        self.say(f"{title}: {duration(time.monotonic() - begun)}")

    def _end(self, ended: threading.Event, watcher: threading.Thread) -> None:
        ended.set()
        watcher.join()

    def _watch(self, title: str, attempts: Sequence[Path], ended: threading.Event) -> None:
        rate, begun = Rate(), time.monotonic()
        spoken = begun + self.quiet - _LINE
        said = ""
        while not ended.wait(self.look):
            now, progress = time.monotonic(), total_of(attempts)
            words = rate.words(now, progress) if progress else "starting"
            if now - spoken >= max(_LINE, (now - begun) / 12) and words != said:
                self.say(f"{title}: {words}")
                spoken, said = now, words


class TerminalDisplay(PlainDisplay):
    """A bar with rate and time left for each batch that is at work, and one line when it has ended."""

    def __init__(self, stream: TextIO | None = None, look: float = _LOOK, quiet: float = _QUIET) -> None:
        super().__init__(stream, look, quiet)
        self._bars: Progress | None = None  # while batches are at work
        self._at_work = 0
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, title: str, attempts: Sequence[Path]) -> Iterator[None]:
        """Shown while one batch is at work."""
        with self._lock:
            self._at_work += 1
            if self._bars is None:
                self._bars = _bars(self.stream)
                self._bars.start()
        try:
            with super().stage(title, attempts):
                yield
        finally:
            with self._lock:
                self._at_work -= 1
                if not self._at_work:
                    self._bars.stop()
                    self._bars = None

    def say(self, line: str) -> None:
        """One line for the user, above bars that are being drawn."""
        if bars := self._bars:
            bars.console.print(line, markup=False, highlight=False)
        else:
            super().say(line)

    def _watch(self, title: str, attempts: Sequence[Path], ended: threading.Event) -> None:
        assert self._bars is not None
        rate, bars = Rate(), self._bars
        task = bars.add_task(title, total=None, words="")
        while not ended.wait(self.look):
            if progress := total_of(attempts):
                words = rate.words(time.monotonic(), progress)
                bars.update(task, total=progress.total, completed=progress.done, words=words)
        bars.remove_task(task)


def _bars(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    return Progress(*columns, console=Console(file=stream), transient=True, refresh_per_second=4)


def display(stream: TextIO | None = None) -> PlainDisplay:
    """The display that suits a stream (standard error by default)."""
    stream = stream or _with_own_descriptor(sys.stderr)
    return TerminalDisplay(stream) if stream.isatty() else PlainDisplay(stream)


def _with_own_descriptor(stream: TextIO) -> TextIO:
    """A stream to the same place; descriptor 2 itself goes to a file while Ray runs (see session.py)."""
    try:
        descriptor = os.dup(stream.fileno())
    except OSError:  # not a file, such as what a test captures with
        return stream
    return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors="backslashreplace")
