"""Stages that share a call but nothing else: a mistake in the data of one leaves the others alone."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nml_ray.config.errors import UserError
from nml_ray.study.task import Task


class Apart:
    """The mistakes of the user's that were met so far, by the stage whose data they are in."""

    def __init__(self) -> None:
        self._mistakes: dict[str, UserError] = {}

    @contextmanager
    def of(self, *tasks: Task) -> Iterator[None]:
        """A block that works for these tasks alone: a mistake ends the block and fails their attempts."""
        try:
            yield
        except UserError as mistake:
            for task in tasks:
                self._mistakes.setdefault(task.stage.name, mistake)
                task.attempt.fail(str(mistake), traceback.format_exc())

    def sound(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks without a mistake.

        Raises:
            UserError: there is none; the first mistake.
        """
        found = [task for task in tasks if task.stage.name not in self._mistakes]
        if tasks and not found:
            raise self._mistakes[tasks[0].stage.name]
        return found
