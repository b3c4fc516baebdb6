"""Temporary directories; what a killed process left is removed by the next one with the same purpose."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A new temporary directory, removed at the end of the block.

    Args:
        purpose: what it is for; those that dead processes left for the same purpose are removed. It is locked (flock)
            as long as it is in use.
    """
    prefix = f"nml-ray-{hashlib.sha256(purpose.encode()).hexdigest()[:16]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_unused(left)
    path, descriptor = _locked(prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _locked(prefix: str) -> tuple[Path, int]:
    while True:
        path = tempfile.mkdtemp(prefix=prefix)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken for a dead process's before it was locked
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(path):
            return Path(path), descriptor
        os.close(descriptor)


def _remove_unused(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone, or another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
