"""Content-addressed artifacts: attempts write apart, one small record written last names the winner.

<root>/<kind>/<digest>/attempt-0001/...     what a stage leaves
<root>/<kind>/<digest>/record.json          written last; from then on the artifact exists
<root>/<kind>/<digest>/lease.json           who is at work (saves work, guards nothing; see lease.py)
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nml_ray.storage.atomic import create_json, read_json, read_json_if_whole, sync_tree, write_json

RECORD = "record.json"
PROGRESS = "progress.json"
_BEGUN = "attempt.json"
_FAILURE = "failure.json"
_PREFIX = "attempt-"
_PROGRESS_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `path` is the winning attempt's directory; `record` what `finish` wrote."""

    kind: str
    digest: str
    path: Path
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far an attempt is: `done` of `total` units ("samples", "trials"), at Unix time `time`."""

    done: float
    total: float
    unit: str
    time: float


@dataclass(frozen=True)
class Attempt:
    """One try at making an artifact, in a directory of its own.

    It is nothing but its path: `Attempt(path)` in another process is the same attempt.
    """

    path: Path
    _reported: list[float] = field(default_factory=list, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The kind of the artifact to be made."""
        return self.path.parent.parent.name

    @property
    def digest(self) -> str:
        """The digest of the artifact to be made."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """A name no other attempt has, for runs that a library names (Ray resumes an old name silently)."""
        return f"{self.kind}-{self.digest}-{self.path.name}"

    @property
    def earlier(self) -> list[Path]:
        """The directories of the attempts begun before this one, newest first. They may hold checkpoints."""
        siblings = (path for path in self.path.parent.glob(_PREFIX + "*") if _number(path) < _number(self.path))
        return sorted(siblings, key=_number, reverse=True)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Say how far the work is; cheap to call often (at most a few small writes a second; the last one always)."""
        now = time.monotonic()
        if done < total and self._reported and now - self._reported[0] < _PROGRESS_EVERY:
            return
        self._reported[:] = [now]
        write_json(
            self.path / PROGRESS, {"done": done, "total": total, "unit": unit, "time": time.time()}, durable=False
        )

    def finish(self, **facts: Any) -> Artifact:
        """Make the artifact exist, with `facts` (plain JSON data) in its record, and return it.

        The record's own entries (attempt, kind, digest, host, settings, seconds, ...) keep their values.
        Everything in the directory is on the disk before. Where another attempt has finished already, that one stays
        the artifact, and it is returned: stages are pure, so both are equal.
        """
        begun = read_json(self.path / _BEGUN) or {}
        sync_tree(self.path)
        own = {
            "attempt": self.path.name,
            "kind": self.kind,
            "digest": self.digest,
            **begun,
            "finished": _now(),
            "seconds": round(time.time() - begun.get("begun_unix", time.time()), 3),
        }
        record = {**own, **{name: fact for name, fact in facts.items() if name not in own}}
        create_json(self.path.parent / RECORD, record)
        artifact = _artifact(self.path.parent)
        assert artifact is not None
        return artifact

    def fail(self, reason: str) -> None:
        """Leave word of why this attempt ends without an artifact, for the one who reports the run's failures."""
        write_json(self.path / _FAILURE, {"reason": reason, "time": _now()})

    @property
    def failure(self) -> str:
        """What `fail` left, or ""."""
        left = read_json(self.path / _FAILURE)
        return left["reason"] if left else ""


@dataclass(frozen=True)
class Store:
    """Where artifacts lie: a directory, local or shared."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())

    def directory(self, kind: str, digest: str) -> Path:
        """The directory of an artifact's attempts, record and lease; it may not exist."""
        return self.root / kind / digest

    def artifact(self, kind: str, digest: str) -> Artifact | None:
        """The artifact, if it has been finished."""
        return _artifact(self.directory(kind, digest))

    def attempt(self, kind: str, digest: str, **facts: Any) -> Attempt:
        """Begin an attempt: a new directory that no other process has. `facts` go into the record at the end."""
        parent = self.directory(kind, digest)
        parent.mkdir(parents=True, exist_ok=True)
        number = max((_number(path) for path in parent.glob(_PREFIX + "*")), default=0)
        while True:
            number += 1
            path = parent / f"{_PREFIX}{number:04d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            begun = {"host": socket.gethostname(), "pid": os.getpid(), "begun": _now(), "begun_unix": time.time()}
            write_json(path / _BEGUN, {**begun, **facts})
            return Attempt(path)


def read_progress(attempt: Path) -> Progress | None:
    """What an attempt's `progress` last said."""
    said = read_json_if_whole(attempt / PROGRESS)
    return Progress(**said) if said else None


def _artifact(directory: Path) -> Artifact | None:
    record = read_json(directory / RECORD)
    if record is None:
        return None
    return Artifact(directory.parent.name, directory.name, directory / record["attempt"], record)


def _number(attempt: Path) -> int:
    return int(attempt.name.removeprefix(_PREFIX))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
