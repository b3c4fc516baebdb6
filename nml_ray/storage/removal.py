"""Removing artifacts. One step hides an artifact, and can be taken back; only what is hidden is deleted.

Locally the record is renamed, then the attempts, each at once: a kill leaves whole attempts, or names that nobody reads
(`.gone-record.json`, `gone-attempt-0001`), which the next removal takes along. On an object store the record goes
first, then what says that bundles are whole, then the rest.

Whoever removes an artifact holds its lease.
"""

import os
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nml_ray.storage import lease, remote
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import sync_directory
from nml_ray.storage.bundle import FOLDER
from nml_ray.storage.lease import LEASE
from nml_ray.storage.record import RECORD

GONE = "gone-"
HIDDEN = ".gone-record.json"
_THREADS = 16  # requests under way at once


class Removal:
    """The removal of one artifact, finished or not.

    Args:
        store: where it lies.
        kind: of the artifact.
        digest: of the artifact.
    """

    def __init__(self, store: Store, kind: str, digest: str) -> None:
        self._store, self._mirror = store, store.mirror
        self.directory = store.directory(kind, digest)
        self._record: bytes | None = None

    def hide(self) -> None:
        """Make the artifact absent. Of one on an object store this must have been told (`twin.tell_removed`)."""
        if mirror := self._mirror:
            with suppress(remote.NotThere):
                self._record = remote.read(mirror.at(self.directory / RECORD))
                remote.remove(mirror.at(self.directory / RECORD))
            (self.directory / RECORD).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            os.rename(self.directory / RECORD, self.directory / HIDDEN)
            sync_directory(self.directory)

    def take_back(self) -> None:
        """Make the artifact exist again as it was, unless another has been finished meanwhile."""
        if mirror := self._mirror:
            if self._record and remote.size_of(mirror.at(self.directory / RECORD)) is None:
                remote.write(self._record, mirror.at(self.directory / RECORD))
            return
        with suppress(FileNotFoundError, FileExistsError):
            os.link(self.directory / HIDDEN, self.directory / RECORD)
        (self.directory / HIDDEN).unlink(missing_ok=True)
        sync_directory(self.directory)

    def delete(self, names: Collection[str]) -> None:
        """Delete files of the hidden artifact; those that came since they were listed stay.

        Args:
            names: of the files, below the artifact's directory.
        """
        attempts = {name.partition("/")[0] for name in names if "/" in name}
        if self._mirror:
            _delete_objects(self._store, self.directory, names)
            attempts = {path.name for path in self.directory.glob("*") if path.is_dir()} & attempts
        _delete_local(self.directory, attempts)
        for name in set(names) - {RECORD, LEASE}:
            if "/" not in name:  # of writers that were killed
                (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the directory if nothing is left in it; call it once the lease has been released."""
        lease.discard(self.directory)


def delete_leftovers(store: Store, kind: str, digest: str, names: Collection[str]) -> None:
    """Delete files of an artifact that is finished and does not need them, and folders that hold nothing then."""
    directory = store.directory(kind, digest)
    if store.mirror:
        _delete_objects(store, directory, names)
    folders = set()
    for name in names:
        (directory / name).unlink(missing_ok=True)
        folders |= {parent for parent in PurePosixPath(name).parents if parent.name}
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        with suppress(OSError):
            (directory / folder).rmdir()


def _delete_local(directory: Path, attempts: Iterable[str]) -> None:
    for name in attempts:
        gone = directory / (name if name.startswith(GONE) else GONE + name)
        if gone.name != name:
            shutil.rmtree(gone, ignore_errors=True)  # of a removal that was killed
            with suppress(FileNotFoundError):
                os.rename(directory / name, gone)
        shutil.rmtree(gone, ignore_errors=True)
    (directory / HIDDEN).unlink(missing_ok=True)


def _delete_objects(store: Store, directory: Path, names: Iterable[str]) -> None:
    mirror = store.mirror
    assert mirror
    going = [name for name in names if PurePosixPath(name).name != LEASE]
    markers = [name for name in going if f"/{FOLDER}/" in name]
    with ThreadPoolExecutor(_THREADS) as pool:
        for some in (markers, [name for name in going if name not in set(markers)]):
            list(pool.map(lambda name: remote.remove(mirror.at(directory / name)), some))
