"""The distinct jobs that have run under one study's name. A rerun with changes takes the study's own files over; what
it was before is kept.

    studies/<name>/job.yaml, stages.json, ...        of the job that was begun last
    studies/<name>/history/<key>/study.json          a job and the stages it names, written as one
    studies/<name>/history/<key>/given/...           its links to the user's data
    studies/<name>/history/<key>/lease.json          while it runs
    studies/<name>/history/latest                    the key of the job that was begun last

The key is of what the job file says but for `run`: another number of workers makes no other job.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import read_json, write_bytes, write_json
from nml_ray.storage.digest import digest_of
from nml_ray.storage.lease import LEASE, locked
from nml_ray.storage.twin import tell

HISTORY, VERSION, LATEST, GIVEN = "history", "study.json", "latest", "given"
KEY = re.compile(r"[0-9a-f]{16}")
_ARTIFACT = re.compile(r"[a-z_]+/[0-9a-z]+")


def key_of(job: Mapping[str, Any]) -> str:
    """The key of a job, given as plain data."""
    return digest_of({name: value for name, value in job.items() if name != "run"})[:16]


def links_of(directory: Path, job: Mapping[str, Any]) -> Path:
    """Where a study's links to the user's data lie, from its directory and its job."""
    there = directory / HISTORY / key_of(job) / GIVEN
    return there if there.is_dir() else directory / GIVEN  # of an older run


class Version:
    """One job under a study's name, while it runs.

    Args:
        directory: of the study.
        job: as plain data.
        text: of job.yaml.
    """

    def __init__(self, directory: Path, job: Mapping[str, Any], text: bytes) -> None:
        self.directory, self._job, self._text = directory, dict(job), text
        self.key = key_of(job)
        self.place = directory / HISTORY / self.key
        self.links = self.place / GIVEN
        self._claimed = False
        self._named: set[str] | None = None

    def keep(self, stages: Mapping[str, Mapping[str, str]]) -> None:
        """Keep the job with the stages it names; what it named before stays known."""
        self.place.mkdir(parents=True, exist_ok=True)
        if self._named is None:
            self._named = set()
            with suppress(UserError):
                self._named = names_of(self.place)
        now = {f"{one['kind']}/{one['digest']}" for one in stages.values() if one.get("digest")}
        self._named |= now
        found = {"job": self._job, "stages": dict(stages), "before": sorted(self._named - now)}
        write_json(self.place / VERSION, found)
        tell(self.place / VERSION)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Whether the study's own files are this job's to write, and stay so meanwhile. They are from the first time on
        that it asks, until another job is begun."""
        history = self.directory / HISTORY
        with locked(history, make=True):
            if not self._claimed:
                self._claimed = True
                write_bytes(history / LATEST, self.key.encode())
                write_bytes(self.directory / "job.yaml", self._text)
            yield (history / LATEST).read_bytes() == self.key.encode()

    @property
    def latest(self) -> bool:
        """Whether no other job of this name has been begun since."""
        with self.writing() as mine:
            return mine


@contextmanager
def running(store: Store, version: Version) -> Iterator[list[str]]:
    """Hold a job's lease while it runs. Gives, of each other job of this name that is running, who runs it."""
    kind = version.place.parent.relative_to(store.root).as_posix()
    lease = store.lease(kind, version.key)  # or another runs the same job
    try:
        yield [_who(store, kind, key) for key in _held(store, version.place.parent) if key != version.key]
    finally:
        if lease:
            lease.release()


def _held(store: Store, history: Path) -> list[str]:
    kind, mirror = history.relative_to(store.root).as_posix(), store.mirror
    keys = {path.parent.name for path in history.glob(f"*/{LEASE}")}
    if mirror:
        with suppress(remote.NotThere):
            keys |= {one.name.partition("/")[0] for one in remote.objects(mirror.at(history)) if LEASE in one.name}
    return [key for key in sorted(keys) if KEY.fullmatch(key) and store.held(kind, key)]


def _who(store: Store, kind: str, key: str) -> str:
    holder = store.holder(kind, key)
    return f"process {holder.pid} on {holder.host}, kept in {HISTORY}/{key}" if holder else f"kept in {HISTORY}/{key}"


def names_of(place: Path, where: str = "") -> set[str]:
    """All that one job of a name has named, as kind/digest, from its directory.

    Raises:
        UserError: it cannot be read.
    """
    path = place / VERSION
    try:
        if (found := read_json(path)) is None:
            return set()  # only its lease is there yet
        stages = [f"{one['kind']}/{one['digest']}" for one in found["stages"].values() if one.get("digest")]
        names = {*stages, *found["before"]}
        if wrong := [name for name in names if not _ARTIFACT.fullmatch(name)]:
            raise ValueError(f"{wrong[0][:40]!r} is no artifact")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"cannot be read ({' '.join(str(error).split())[:80]})",
            where=where or str(path),
            expected="what an earlier job of the study refers to; remove its directory if that is to go",
        ) from None
    return names


def versions_in(directory: Path) -> list[Path]:
    """The directories of the jobs that are kept of a study, by its directory."""
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(os.listdir(directory / HISTORY))
        return [directory / HISTORY / name for name in names if KEY.fullmatch(name)]
    return []


def latest_of(directory: Path) -> str:
    """The key of the job of a study that was begun last; "" of one without history."""
    with suppress(OSError, UnicodeDecodeError):
        return (directory / HISTORY / LATEST).read_text().strip()
    return ""
