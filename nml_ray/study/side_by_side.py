"""Batches of stages at work at once, each in a thread of the driver, as far as the cluster has room.

Threads wait for Ray, or compute what the driver computes by itself; the main thread starts them and hears how they
end. What ends the run ends it at once: the Ray of this process is stopped, so nothing goes on behind a stage's back.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from nml_ray.study.display import Display
from nml_ray.study.schedule import Schedule
from nml_ray.study.task import Context

LOOK = 10.0  # seconds between two looks whether the cluster has grown
GRACE = 10.0  # seconds that stages have to notice that Ray was stopped

Made = TypeVar("Made")
Work = Callable[[Context, Display], Made]
"""What makes a batch, in a thread of its own."""


class Stopped(BaseException):
    """Ends a stage's thread when the run has ended; not for stage functions to catch."""


@dataclass(frozen=True)
class _End(Generic[Made]):
    number: int
    made: Made | None
    error: BaseException | None


def run_side_by_side(
    schedule: Schedule,
    work_of: Callable[[Sequence[str]], Work[Made] | None],
    took: Callable[[Made], None],
    context: Context,
    display: Display,
) -> None:
    """Run all batches of a schedule.

    Args:
        schedule: none of whose batches has been started.
        work_of: called in this thread when a batch may start; None where there is nothing left of it to do.
        took: called in this thread with what a batch's work returned.
        context: for the work; `nodes` is asked for the room there is.
        display: for the work.

    Raises:
        BaseException: what a batch's work raised, after the others were stopped.
    """
    ends: SimpleQueue[_End[Made]] = SimpleQueue()
    stopped, threads = threading.Event(), dict[int, threading.Thread]()
    inside, shown = _stoppable(context, stopped), _Stoppable(display, stopped)

    def begin(number: int) -> None:
        work = work_of(schedule.batches[number].names)
        if work is None:
            schedule.end(number)
            return

        def run() -> None:
            try:
                ends.put(_End(number, work(inside, shown), None))
            except BaseException as error:
                ends.put(_End(number, None, error))

        threads[number] = threading.Thread(target=run, name=f"batch-{number}", daemon=True)
        threads[number].start()

    try:
        while not schedule.finished:
            for number in schedule.start(context.nodes() if schedule.wants_cluster else ()):
                begin(number)
            if not threads:
                continue
            try:
                end = ends.get(timeout=LOOK)
            except Empty:
                continue
            threads.pop(end.number).join()
            if end.error is not None:
                raise end.error
            took(end.made)  # type: ignore[arg-type]
            schedule.end(end.number)
    except BaseException:
        stopped.set()
        _stop(list(threads.values()), context)
        raise


def _stop(threads: Sequence[threading.Thread], context: Context) -> None:
    """Stop what runs. A thread that computes in the driver ends with the process."""
    if not threads:
        return
    context.stop_ray()
    for thread in threads:
        thread.join(GRACE / len(threads))


def _stoppable(context: Context, stopped: threading.Event) -> Context:
    def start_ray() -> None:
        if stopped.is_set():
            raise Stopped
        context.start_ray()

    return replace(context, start_ray=start_ray)


class _Stoppable:
    """A display that ends the stages shown on it once the run has ended, so that none counts as failed by that."""

    def __init__(self, display: Display, stopped: threading.Event) -> None:
        self._display, self._stopped = display, stopped

    def say(self, line: str) -> None:
        """One line for the user."""
        if not self._stopped.is_set():
            self._display.say(line)

    @contextmanager
    def stage(self, title: str, attempts: Sequence[Path]) -> Iterator[None]:
        """Shown while one batch is at work."""
        self._go_on()
        with self._display.stage(title, attempts):
            yield
            self._go_on()

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise Stopped
