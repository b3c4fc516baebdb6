"""Changes of what all threads of a process have in common."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Shared:
    """A change that holds while any thread is inside: the first to enter makes it, the last to leave undoes it.

    Args:
        change: makes the change and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A block in which the change holds."""
        with self._lock:
            if not self._inside:
                self._undo = self._change()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._undo()
