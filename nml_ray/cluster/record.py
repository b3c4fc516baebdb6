"""What a submission leaves on storage, readable when its cluster is gone.

<storage>/submissions/<id>/submission.json     what was submitted
<storage>/submissions/<id>/job.yaml            the job as it was understood
<storage>/submissions/<id>/status.json         how it stands, with a heartbeat (see beat.py)
<storage>/submissions/<id>/driver/000001.log   the driver's output, in parts: an object store cannot append
<storage>/submissions/<id>/nodes/<node>/resources/000001.jsonl   what the job and the machine used (see usage.py)
<storage>/submissions/<id>/nodes/<node>/ray/<file>/000001.log    logs of Ray's processes (see node_logs.py)
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nml_ray.cluster.submission import is_id
from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.atomic import json_bytes, write_bytes
from nml_ray.storage.location import Location, locate
from nml_ray.storage.patience import Patience

_FULL = (errno.ENOSPC, errno.EDQUOT)
SUBMISSIONS = "submissions"
SUBMISSION, STATUS, JOB = "submission.json", "status.json", "job.yaml"
DRIVER, NODES = "driver", "nodes"


@dataclass(frozen=True)
class Record:
    """The files of one submission, by name below `location`; names have forward slashes."""

    location: Location

    def at(self, name: str) -> Location:
        """Where a file of it lies."""
        at = self.location
        for part in name.split("/"):
            at /= part
        return at

    def write(self, name: str, data: bytes, patience: Patience | None = None) -> None:
        """Write a file whole; what was there is replaced at once.

        Raises:
            UserError: the storage refuses or cannot be reached.
        """
        at = self.at(name)
        if at.remote:
            remote.write(data, at, patience)
            return
        try:
            at.local.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(at.local, data, durable=False)
        except OSError as error:
            if error.errno in _FULL and _write_over(at.local, data):
                return
            raise UserError(f"cannot be written ({error.strerror})", where=str(at)) from None

    def write_json(self, name: str, data: Any, patience: Patience | None = None) -> None:
        """Write plain data as a JSON file."""
        self.write(name, json_bytes(data), patience)

    def read(self, name: str, patience: Patience | None = None) -> bytes | None:
        """The bytes of a file; None where there is none.

        Raises:
            UserError: the storage refuses or cannot be reached.
        """
        at = self.at(name)
        try:
            return remote.read(at, patience) if at.remote else at.local.read_bytes()
        except (remote.NotThere, FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(at)) from None

    def changed(self, name: str, patience: Patience | None = None) -> float | None:
        """When a file was last written, Unix time by the storage's clock; None where there is none. See `read`."""
        at = self.at(name)
        if at.remote:
            return remote.changed(at, patience)
        with suppress(OSError):
            return at.local.stat().st_mtime
        return None

    def read_json(self, name: str, patience: Patience | None = None) -> Any:
        """The data of a JSON file; None where there is none, or a crash of the machine left it torn."""
        data = self.read(name, patience)
        with suppress(ValueError, RecursionError):
            return None if data is None else json.loads(data)
        return None

    def names(self, folder: str, patience: Patience | None = None) -> list[str]:
        """The files right below a folder, by name, sorted; none where there is no such folder."""
        at = self.at(folder)
        if at.remote:
            return remote.names(at, patience)
        try:
            return sorted(os.listdir(at.local)) if at.local.is_dir() else []
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(at)) from None

    def remove(self) -> None:
        """Remove all of it, what was submitted first: from then on it is none.

        Raises:
            UserError: the storage refuses or cannot be reached.
        """
        if not self.location.remote:
            gone = self.location.local.with_name(f".gone-{self.location.name}")
            self.location.local.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return
        names = [one.name for one in remote.objects(self.location)]
        for name in sorted(names, key=lambda name: name != SUBMISSION):
            remote.remove(self.at(name))

    def parts(self, folder: str) -> Iterator[bytes]:
        """The parts of a log, in order."""
        for name in self.names(folder):
            yield self.read(f"{folder}/{name}") or b""


def _write_over(path: Path, data: bytes) -> bool:
    """Write into the room that a file has already, which a full disk still takes, though not in one step; whether that
    could be done."""
    try:
        with open(path, "r+b", buffering=0) as file:
            written = file.write(data)
            file.truncate()
    except OSError:
        return False
    return written == len(data)


def record_of(storage: str, id: str) -> Record:
    """The record of a submission on a storage."""
    location = locate(storage, "storage")
    if not location.remote:
        location = Location("", str(Path(location.path).absolute()))
    return Record(location / SUBMISSIONS / id)


def submissions_on(storage: str) -> list[str]:
    """The ids of all submissions that a storage has, sorted; what else lies among them is passed over.

    Raises:
        UserError: it cannot be reached.
    """
    above = Record(locate(storage, "storage"))
    return [name for name in above.names(SUBMISSIONS) if is_id(name)]
