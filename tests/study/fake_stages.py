"""Tiny stages for the tests of the runner."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.study.task import Context, Task

calls: list[list[str]] = []


def add(tasks: Sequence[Task], context: Context) -> None:
    """Each makes the sum of its inputs and its own number."""
    calls.append([task.stage.name for task in tasks])
    for number, task in enumerate(tasks):
        task.attempt.progress(number, len(tasks), "numbers")
        total = sum(int((source.path / "sum").read_text()) for source in task.inputs.values())
        (task.attempt.path / "sum").write_text(str(total + task.stage.settings["number"]))
        task.attempt.finish(total=total)


def add_but_kill(tasks: Sequence[Task], context: Context) -> None:
    """As `add`, killed once after the first task has finished."""
    marker = Path(os.environ["KILL_ONCE"])
    if not marker.exists():
        marker.write_text("killed")
        add(tasks[:1], context)
        (tasks[-1].attempt.path / "sum").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    add(tasks, context)


def odd_fail(tasks: Sequence[Task], context: Context) -> None:
    """Tasks with an odd number fail, the others are finished."""
    for task in tasks:
        if task.stage.settings["number"] % 2:
            task.attempt.fail("odd")
        else:
            add([task], context)
    raise RuntimeError("some were odd")


def explode(tasks: Sequence[Task], context: Context) -> None:
    """A failure of the work."""
    raise ZeroDivisionError("no\nresult")


def forget(tasks: Sequence[Task], context: Context) -> None:
    """Returns without finishing."""


def mistake(tasks: Sequence[Task], context: Context) -> None:
    """A mistake of the user's, seen only now."""
    raise UserError("bad label", where="labels.parquet")


def picky(tasks: Sequence[Task], context: Context) -> None:
    """A mistake of the user's in one task, which keeps all from being made."""
    if any(task.stage.settings["number"] % 2 for task in tasks):
        raise UserError("odd number")
    add(tasks, context)


def slow(tasks: Sequence[Task], context: Context) -> None:
    """As `add`, after a while."""
    time.sleep(0.3)
    add(tasks, context)


def leave(tasks: Sequence[Task], context: Context) -> None:
    """As Ray Train on Ctrl-C: takes the signal over and leaves by SystemExit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(0)
