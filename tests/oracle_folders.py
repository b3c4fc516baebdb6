"""Folders of golden files: those that an environment variable names, or the ones that come with the tests."""

import os
from pathlib import Path

_OWN = Path(__file__).parent / "oracles"


def folders(variable: str, own: str, mark: str) -> list[Path]:
    """Every folder with files like `mark`: each that the variable names (separated as in PATH), or those below it.

    A named folder without any is kept, so that its test fails instead of testing nothing.
    """
    named = [Path(path) for path in os.environ.get(variable, "").split(os.pathsep) if path] or [_OWN / own]
    found = []
    for folder in named:
        below = sorted({path.parent for path in folder.rglob(mark)})
        found += [folder] if folder in below or not below else below
    return found
