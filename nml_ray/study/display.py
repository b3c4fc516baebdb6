"""What a run shows itself on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Display(Protocol):
    """Where a run shows itself, also from several threads at once; see progress.py."""

    def stage(self, title: str, attempts: Sequence[Path]) -> AbstractContextManager[None]:
        """Shown while one batch is at work."""

    def say(self, line: str) -> None:
        """One line for the user."""
