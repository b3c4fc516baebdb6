"""What of artifacts and attempts lies on an object store, under the same names as in a working root (see `mirror`).

<kind>/<digest>/record.json                          written last; its `files` has the sha256 of files.json
<kind>/<digest>/<attempt>/attempt.json               the attempt has begun
<kind>/<digest>/<attempt>/files.json                 all files of the artifact
removed/<name>.json                                  artifacts that were removed (see `forget_removed`)
<kind>/<digest>/<attempt>/bundles, held              what exists before the artifact does (see `bundle`)

An object store's libraries offer no "create unless it exists" that all stores have: of two attempts that finish within
a blink the later record stays. Both are whole and equal, so nothing is lost but the work of one.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.atomic import json_bytes, write_bytes, write_json
from nml_ray.storage.bundle import FOLDER, HELD, Bundles, Entry, bring, files_json, parse_files
from nml_ray.storage.lease import LEASE
from nml_ray.storage.mirror import Mirror, mirror_at, mirror_of
from nml_ray.storage.names import flaw_of
from nml_ray.storage.patience import Patience
from nml_ray.storage.record import RECORD, checked, no_record, read_record

RESULT = "result"  # the bundle of what a worker leaves for the driver to finish
CHECKPOINTS, BEST, FED, SHARDS = "checkpoints/", "best/", "fed/", "shards/"  # bundles' names begin so
REMOVED, _ASKED = "removed", ".asked"
TOLD_FOR = 90 * 86400.0  # seconds for which a removal is told
_TOLD_EVERY = 10.0  # seconds between two uploads of progress
_LISTED = ".files.json"
_OWN = {"attempt.json", "progress.json", "failure.json", "error.log", "files.json"}
_EVIDENCE = ("fed/", "holes-", "best/")  # what only an audit or a user reads
_teller = ThreadPoolExecutor(1, thread_name_prefix="tell")
_told: dict[Path, float] = {}
_heard: dict[Path, tuple[float, Any]] = {}


def twin_of(attempt: Path) -> Bundles | None:
    """The bundles of an attempt of a working root; None where the storage is local."""
    mirror = mirror_at(attempt.parents[2])
    return Bundles(attempt, mirror.at(attempt)) if mirror else None


def attempts(mirror: Mirror, directory: Path) -> list[str]:
    """The names of the attempts at an artifact; `directory` is the artifact's in the working root."""
    return [name for name in remote.names(mirror.at(directory)) if name.startswith("attempt-")]


def read_json(mirror: Mirror, path: Path) -> Any:
    """A JSON object under the name of a path in the working root; None where there is none."""
    try:
        return json.loads(remote.read(mirror.at(path)))
    except remote.NotThere:
        return None


def tell(path: Path, patiently: bool = True) -> None:
    """Put a small file of a working root on the object store too; else what it says is lost with this machine."""
    if mirror := mirror_of(path):
        if patiently:
            remote.upload(path, mirror.at(path))
        elif time.monotonic() - _told.get(path, -_TOLD_EVERY) >= _TOLD_EVERY:
            _told[path] = time.monotonic()
            _teller.submit(_tell_quietly, path, mirror)


def told(path: Path) -> Any:
    """What a process of another machine last told in a small JSON file; asked for now and then, None before that."""
    mirror, now = mirror_of(path), time.monotonic()
    if mirror and now - _heard.get(path, (-_TOLD_EVERY, None))[0] >= _TOLD_EVERY:
        _heard[path] = now, None
        with suppress(UserError, ValueError):
            _heard[path] = now, json.loads(remote.read(mirror.at(path), Patience(total=0)))
    return _heard.get(path, (now, None))[1]


def _tell_quietly(path: Path, mirror: Mirror) -> None:
    with suppress(UserError, OSError):  # the next one comes soon
        remote.upload(path, mirror.at(path), Patience(total=0))


def publish_result(attempt: Path) -> None:
    """Upload what a worker leaves in an attempt, for the driver to finish, wherever that is."""
    if bundles := twin_of(attempt):
        known = bundles.contents(bundles.names(BEST)).values()
        files = {path: file for path, file in _local_files(attempt).items() if not path.startswith(("fed/", "holes-"))}
        bundles.publish(RESULT, files, held=False, known=known)


def finish(attempt: Path, mirror: Mirror, record: Mapping[str, Any]) -> None:
    """Upload what is not there yet, then the record; nothing happens where the artifact exists already.

    The log of what was fed counts as the workers' bundles have it, the rest as it lies here or in their result.
    """
    record_file = attempt.parent / "record.json"
    if read_json(mirror, record_file) is not None:
        return
    bundles = Bundles(attempt, mirror.at(attempt))
    parts = [name for name in bundles.names() if not name.startswith((CHECKPOINTS, BEST))]
    files = bundles.contents(sorted(parts, key=lambda name: name == RESULT))
    local = {path: file for path, file in _local_files(attempt).items() if not path.startswith(_EVIDENCE)}
    sent = bundles.send(local, held=False, known=[*files.values(), *_adoptable(attempt, mirror)])
    listed = {**files, **sent}
    data = files_json(listed)
    remote.write(data, bundles.location / "files.json")
    write_bytes(attempt / _LISTED, data)
    size = sum(entry.size for entry in listed.values())
    about = {"count": len(listed), "bytes": size, "sha256": hashlib.sha256(data).hexdigest()}
    remote.write(json_bytes({**record, "files": about}), mirror.at(record_file))


def _adoptable(attempt: Path, mirror: Mirror) -> list[Entry]:
    """Files of earlier attempts' finished shards, which this one may have linked."""
    earlier = [path for path in attempt.parent.glob("attempt-*") if path != attempt]
    bundles = [Bundles(path, mirror.at(path)) for path in earlier]
    return [entry for one in bundles for entry in one.contents(one.names(SHARDS)).values()]


def _local_files(attempt: Path) -> dict[str, Path]:
    """Files of an attempt that belong to its result."""
    found: dict[str, Path] = {}
    for directory, folders, names in os.walk(attempt):
        at = Path(directory)
        if at == attempt:
            folders[:] = [folder for folder in folders if folder not in ("checkpoints", FOLDER, HELD)]
            names = [name for name in names if name not in _OWN]
        folders[:] = [folder for folder in folders if not folder.startswith("aside-")]
        found |= {(at / name).relative_to(attempt).as_posix(): at / name for name in names if not name.startswith(".")}
    return found


def bring_artifact(attempt: Path, record: Mapping[str, Any], evidence: bool = False) -> None:
    """Bring the files of a finished artifact to its winning attempt's directory; nothing happens on local storage.

    Args:
        attempt: that directory.
        record: of the artifact.
        evidence: also what was fed, by this attempt and those it went on from, and the best checkpoint.

    Raises:
        UserError: they cannot be reached, or are not what was sent.
    """
    mirror = mirror_at(attempt.parents[2])
    if mirror is None or "files" not in record:
        return
    listed = attempt / _LISTED
    if not listed.exists() or hashlib.sha256(listed.read_bytes()).hexdigest() != record["files"]["sha256"]:
        data = remote.read(mirror.at(attempt) / "files.json")
        if hashlib.sha256(data).hexdigest() != record["files"]["sha256"]:
            where = f"{mirror.at(attempt)}/files.json"
            raise UserError("is not the one of the record beside it", where=where, expected="objects left unchanged")
        attempt.mkdir(parents=True, exist_ok=True)
        write_bytes(listed, data)
    files = parse_files(listed.read_bytes(), str(listed))
    wanted = {path: entry for path, entry in files.items() if evidence or not path.startswith(_EVIDENCE)}
    bring(attempt, mirror.at(attempt), wanted)
    if evidence:
        for path in (attempt / "fed").glob("*.arrow"):
            if path.relative_to(attempt).as_posix() not in files:  # cut, but the run never came to count it
                path.unlink()
        for name in attempts(mirror, attempt.parent):
            if name != attempt.name:
                bring_bundles(attempt.with_name(name), FED)


def bring_bundles(attempt: Path, prefix: str, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Bring an attempt's bundles whose names begin with `prefix`; their names. None are there on local storage."""
    bundles = twin_of(attempt)
    folder = prefix[: prefix.rindex("/") + 1]
    names = [name for name in bundles.names(folder) if name.startswith(prefix) and wanted(name)] if bundles else []
    if bundles:
        bundles.bring(names)
    return names


def publish_directory(directory: Path) -> None:
    """Upload the plain files below a directory of a working root under their names, such as a study's."""
    mirror = mirror_of(directory)
    if mirror is None:
        return
    files = [file for file in directory.rglob("*") if file.is_file() and not file.is_symlink()]
    files = [file for file in files if not file.name.startswith(".") and file.name != LEASE]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: remote.upload(file, mirror.at(file)), files))


def bring_directory(directory: Path) -> None:
    """Bring what `publish_directory` left, anew; nothing happens where there is nothing."""
    mirror = mirror_of(directory)
    if mirror is None:
        return
    try:
        found = remote.objects(mirror.at(directory))
    except remote.NotThere:
        return
    for one in found:
        target = directory / one.name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, remote.read(mirror.at(target)), durable=False)


def tell_removed(mirror: Mirror, removed: Iterable[tuple[str, str, str]]) -> None:
    """Say, before it is done, which artifacts (kind, digest, attempt) are removed: working roots keep records."""
    remote.write(json_bytes([list(one) for one in removed]), mirror.at(mirror.root / REMOVED / f"{uuid4().hex}.json"))


def forget_removed(mirror: Mirror) -> None:
    """Drop the records kept here of artifacts that were removed from the object store; of each removal once.

    Who has not asked for long may have missed a removal that nobody tells of any more: then all records kept here are
    dropped, and asked for anew.
    """
    asked = mirror.root / REMOVED / _ASKED
    if not asked.exists() or time.time() - asked.stat().st_mtime > TOLD_FOR / 2:
        for record in mirror.root.glob("*/*/record.json"):
            record.unlink(missing_ok=True)
    names = remote.names(mirror.at(mirror.root / REMOVED))
    for name in names:
        heard = mirror.root / REMOVED / name
        if heard.exists():
            continue
        try:
            removed = json.loads(remote.read(mirror.at(heard)))
        except remote.NotThere:  # too old to be told since
            continue
        for kind, digest, attempt in removed:
            if flaw_of(f"{kind}/{digest}"):
                continue
            directory = mirror.root / kind / digest
            if (kept := read_record(directory)) and kept["attempt"] == attempt:
                (directory / RECORD).unlink(missing_ok=True)
        heard.parent.mkdir(exist_ok=True)
        write_json(heard, removed)
    for heard in (mirror.root / REMOVED).glob("*.json"):
        if heard.name not in names:
            heard.unlink(missing_ok=True)
    asked.parent.mkdir(exist_ok=True)
    asked.touch()


def tell_no_more(mirror: Mirror, now: float) -> None:
    """Remove what was told of removals longer than `TOLD_FOR` ago; `now` is Unix time."""
    with suppress(remote.NotThere):
        for one in remote.objects(mirror.at(mirror.root / REMOVED)):
            if now - one.modified / 1e9 > TOLD_FOR:
                remote.remove(mirror.at(mirror.root / REMOVED / one.name))


def keep_record(mirror: Mirror, directory: Path) -> dict[str, Any] | None:
    """The record of an artifact on the object store, kept here from now on; None where it is not finished."""
    where = directory / RECORD
    try:
        record = read_json(mirror, where)
    except (ValueError, RecursionError) as error:
        raise no_record(error, str(mirror.at(where))) from None
    if record is not None:
        record = checked(record, str(mirror.at(where)))
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "record.json", record)
    return record
