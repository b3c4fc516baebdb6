"""Files that are either whole or absent, whatever kills the writer."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data` in one step: a reader sees the old file or the new one.

    With `durable` the bytes are on the disk before the name changes; otherwise a crash of the machine can lose them.
    """
    with _aside(path, data, durable) as aside:
        os.replace(aside, path)
    if durable:
        sync_directory(path.parent)


def write_json(path: Path, data: Any, *, durable: bool = True) -> None:
    """`write_bytes` of plain data as JSON, indented for people."""
    write_bytes(path, json_bytes(data), durable=durable)


def aside_of(path: Path) -> Path:
    """A hidden name beside a path that no other process takes, on no machine: pids are alike in containers."""
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}")


def create_json(path: Path, data: Any) -> bool:
    """Create `path` with its whole content unless it exists; say whether this call made it.

    The content is written aside and linked to its name, which fails where the name is taken (as O_EXCL does, but no
    reader ever sees half a file). Of any number of callers exactly one gets True.
    """
    with _aside(path, json_bytes(data), durable=True) as aside:
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(aside)
    sync_directory(path.parent)
    return True


def json_bytes(data: Any) -> bytes:
    """Indented JSON with a final newline."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def read_json_if_whole(path: Path) -> Any:
    """`read_json` of a file written without `durable`: None also where a crash of the machine left it torn."""
    try:
        return read_json(path)
    except (ValueError, RecursionError):
        return None


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Make every file and name below `root` survive a crash of the machine."""
    for directory, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(directory))


@contextmanager
def _aside(path: Path, data: bytes, durable: bool) -> Iterator[str]:
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        yield aside
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise
