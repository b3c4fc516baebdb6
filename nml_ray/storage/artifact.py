"""Content-addressed artifacts: attempts write apart, one small record written last names the winner.

<root>/<kind>/<digest>/attempt-0001/...     what a stage leaves
<root>/<kind>/<digest>/record.json          written last; from then on the artifact exists
<root>/<kind>/<digest>/lease.json           who is at work (saves work, guards nothing; see lease.py)

A root may be the working root of a storage on an object store (see mirror.py, twin.py): then that has the truth, and
what is read here comes from there.
"""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from nml_ray.storage import lease as leases
from nml_ray.storage import remote, remote_lease, twin
from nml_ray.storage.atomic import create_json, read_json, read_json_if_whole, sync_tree, write_json
from nml_ray.storage.mirror import Mirror, mirror_at, mirror_of, present
from nml_ray.storage.record import ATTEMPT, RECORD, read_record

PROGRESS = "progress.json"
_BEGUN = "attempt.json"
_FAILURE = "failure.json"
_PREFIX = "attempt-"
_PROGRESS_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. `place` is the winning attempt's directory; `record` what `finish` wrote."""

    kind: str
    digest: str
    place: Path
    record: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """`place`, with the files in it: those of an object store are brought, but for the log of what was fed and the
        best checkpoint (see `evidence`).

        Raises:
            UserError: they cannot be brought.
        """
        twin.bring_artifact(self.place, self.record)
        return self.place

    def evidence(self) -> Path:
        """`path`, also with what was fed (here and in the attempts before) and the best checkpoint."""
        twin.bring_artifact(self.place, self.record, evidence=True)
        return self.place


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
        siblings = (path for path in _attempts(self.path.parent) if _place(path) < _place(self.path))
        return sorted(siblings, key=_place, reverse=True)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Say how far the work is; cheap to call often (at most a few small writes a second; the last one always)."""
        now = time.monotonic()
        if done < total and self._reported and now - self._reported[0] < _PROGRESS_EVERY:
            return
        self._reported[:] = [now]
        write_json(
            self.path / PROGRESS, {"done": done, "total": total, "unit": unit, "time": time.time()}, durable=False
        )
        twin.tell(self.path / PROGRESS, patiently=False)

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
        if mirror := self._mirror:
            twin.finish(self.path, mirror, record)
            twin.keep_record(mirror, self.path.parent)
        else:
            create_json(self.path.parent / RECORD, record)
        artifact = _artifact(self.path.parent)
        assert artifact is not None
        return artifact

    def fail(self, reason: str, trace: str = "") -> None:
        """Leave word of why this attempt ends without an artifact, for the one who reports the run's failures."""
        write_json(self.path / _FAILURE, {"reason": reason, "trace": trace, "time": _now()})
        twin.tell(self.path / _FAILURE)

    @property
    def failure(self) -> str:
        """The reason that `fail` left, or ""."""
        return str(self._left.get("reason", ""))

    @property
    def trace(self) -> str:
        """The traceback that `fail` left, or ""."""
        return str(self._left.get("trace", ""))

    @property
    def _left(self) -> Mapping[str, Any]:
        left = read_json(self.path / _FAILURE)
        if left is None and (mirror := self._mirror):
            left = twin.read_json(mirror, self.path / _FAILURE)
        return left or {}

    @property
    def _mirror(self) -> Mirror | None:
        return mirror_at(self.path.parents[2])


@dataclass(frozen=True)
class Store:
    """Where artifacts lie: a directory, local or shared."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).absolute())

    def directory(self, kind: str, digest: str) -> Path:
        """The directory of an artifact's attempts, record and lease; it may not exist."""
        return self.root / kind / digest

    @property
    def mirror(self) -> Mirror | None:
        """Of a root that is the working root of an object store."""
        return mirror_at(self.root)

    def artifact(self, kind: str, digest: str) -> Artifact | None:
        """The artifact, if it has been finished."""
        directory = self.directory(kind, digest)
        found = _artifact(directory)
        if found is None and (mirror := self.mirror) and twin.keep_record(mirror, directory):
            return _artifact(directory)
        return found

    def artifacts(self, wanted: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which artifacts, by kind and digest, have been finished; an object store is asked for several at once."""
        if self.mirror is None:
            return {one for one in wanted if self.artifact(*one)}
        self.hear()
        asked = list(dict.fromkeys(wanted))
        with ThreadPoolExecutor(16) as pool:
            return {
                one for one, found in zip(asked, pool.map(lambda one: self.artifact(*one), asked), strict=True) if found
            }

    def hear(self) -> None:
        """Take note of what was removed from an object store; nothing happens on local storage."""
        if mirror := self.mirror:
            twin.forget_removed(mirror)

    def digests(self, kind: str) -> list[str]:
        """The artifacts of a kind that were begun, sorted."""
        begun = {path.name for path in (self.root / kind).glob("*") if path.is_dir()}
        if mirror := self.mirror:
            begun |= set(remote.names(mirror.at(self.root / kind)))
        return sorted(begun)

    def attempt(self, kind: str, digest: str, **facts: Any) -> Attempt:
        """Begin an attempt: a new directory that no other process has. `facts` go into the record at the end."""
        parent = self.directory(kind, digest)
        parent.mkdir(parents=True, exist_ok=True)
        mirror = self.mirror
        for name in twin.attempts(mirror, parent) if mirror else ():
            (parent / name).mkdir(exist_ok=True)
        number = max((_place(path)[0] for path in _attempts(parent)), default=0)
        while True:
            number += 1
            # Nothing keeps two machines from taking the same number.
            path = parent / (f"{_PREFIX}{number:04d}" + (f"-{uuid4().hex[:8]}" if mirror else ""))
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            begun = {"host": socket.gethostname(), "pid": os.getpid(), "begun": _now(), "begun_unix": time.time()}
            write_json(path / _BEGUN, {**begun, **facts})
            twin.tell(path / _BEGUN)
            return Attempt(path)

    def lease(self, kind: str, digest: str) -> leases.Lease | remote_lease.RemoteLease | None:
        """Take the lease on an artifact; None while another holds it."""
        directory, mirror = self.directory(kind, digest), self.mirror
        return remote_lease.take(directory, mirror.at(directory)) if mirror else leases.take(directory)

    def holder(self, kind: str, digest: str) -> leases.Holder | None:
        """Who holds the lease on an artifact, dead or alive."""
        directory, mirror = self.directory(kind, digest), self.mirror
        return leases.holder(directory) or (remote_lease.holder(mirror.at(directory)) if mirror else None)

    def held(self, kind: str, digest: str) -> bool:
        """Whether somebody may be at work on an artifact, as far as one look tells."""
        directory, mirror = self.directory(kind, digest), self.mirror
        return leases.held(directory) or (mirror is not None and remote_lease.held(mirror.at(directory)))


def bring(path: Path) -> None:
    """Bring what lies at a path of a working root (see `mirror.present`): an artifact, what is in one, or a study's
    links; nothing happens elsewhere.

    Raises:
        UserError: it cannot be brought.
    """
    mirror = mirror_of(path)
    if mirror is None or path == mirror.root:
        return
    kind, *below = path.relative_to(mirror.root).parts
    if kind == "studies":
        twin.bring_directory(path if path.is_dir() else path.parent)
    elif below and (artifact := Store(mirror.root).artifact(kind, below[0])):
        twin.bring_artifact(artifact.place, artifact.record)


def arrived(text: str) -> Path:
    """The path on this machine of what `mirror.carried` gave, with what lies there (see `bring`)."""
    path = present(text)
    bring(path)
    return path


def read_progress(attempt: Path) -> Progress | None:
    """What an attempt's `progress` last said, here or on another machine."""
    said = read_json_if_whole(attempt / PROGRESS) or twin.told(attempt / PROGRESS)
    with suppress(TypeError):
        return Progress(**said) if said else None
    return None


def _artifact(directory: Path) -> Artifact | None:
    record = read_record(directory)
    if record is None:
        return None
    return Artifact(directory.parent.name, directory.name, directory / record["attempt"], record)


def _attempts(directory: Path) -> list[Path]:
    return [path for path in directory.glob(_PREFIX + "*") if ATTEMPT.fullmatch(path.name)]


def _place(attempt: Path) -> tuple[int, str]:
    return int(attempt.name.removeprefix(_PREFIX).partition("-")[0]), attempt.name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
