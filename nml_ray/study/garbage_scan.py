"""What lies on a storage and what its studies name, for `garbage`."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nml_ray.config.errors import UserError
from nml_ray.storage import lease, remote, twin
from nml_ray.storage.artifact import Store
from nml_ray.storage.atomic import read_json
from nml_ray.storage.bundle import FOLDER, parse_files
from nml_ray.storage.lease import LEASE
from nml_ray.storage.mirror import Mirror
from nml_ray.storage.record import RECORD, checked
from nml_ray.study.execute import STUDIES
from nml_ray.study.garbage import DAY, ORDER, File, Found, Key, leftover_names
from nml_ray.study.listing import STAGES, read_stages
from nml_ray.study.version import HISTORY, VERSION, names_of, versions_in

_DIGEST = re.compile(r"[0-9a-f]{16}")
_RAY = re.compile(r"(?:sweep-)?([a-z]+)-([0-9a-f]{16})-attempt-")
_LEASES = {LEASE, ".lease.lock"}
_THREADS = 16  # requests under way at once


@dataclass(frozen=True)
class Directory:
    """A directory of Ray's own below the storage's `ray/`: its bytes, and when it changed last (Unix time)."""

    path: Path
    size: int
    changed: float


def scan(store: Store, known: Iterable[Found] = ()) -> list[Found]:
    """All artifacts of a storage, begun or finished.

    Args:
        store: where they lie.
        known: of an earlier scan; what has not changed since is not read again.

    Raises:
        UserError: it cannot be reached or read.
    """
    listed = _listed_remote if store.mirror else _listed_local
    before = {one.key: one for one in known}
    with ThreadPoolExecutor(_THREADS if store.mirror else 1) as pool:
        return list(pool.map(lambda one: _found(store, one[0], one[1], before.get(one[0])), listed(store)))


def named(store: Store, earlier: bool = True) -> set[Key]:
    """The artifacts that studies name: in stages.json, and of sweeps the tables of trials.

    Args:
        store: where they lie.
        earlier: also those that only earlier runs of a study named; what runs counts in any case.

    Raises:
        UserError: a study cannot be read, so that nobody knows what it names.
    """
    if store.mirror is None:
        return _named_in(store.root / STUDIES, earlier)
    with TemporaryDirectory(prefix="nml-ray-") as folder:
        _bring(store.mirror, store.root / STUDIES, Path(folder))
        return _named_in(Path(folder), earlier)


def _named_in(studies: Path, earlier: bool) -> set[Key]:
    found = set[Key]()
    for directory in sorted(path for path in studies.glob("*") if path.is_dir()):
        stages = read_stages(directory, f"{STUDIES}/{directory.name}/{STAGES}") or {}
        found |= {(entry.kind, entry.digest) for entry in stages.values() if entry.digest}
        found |= _tried(directory)
        for place in versions_in(directory):
            if earlier or lease.held(place):
                found |= {_key(name) for name in names_of(place, f"{STUDIES}/{place.relative_to(studies)}/{VERSION}")}
    return found


def ray_directories(store: Store, now: float, days: float) -> list[Directory]:
    """Ray's own directories of runs that have ended: nothing changed in them for so many days, at least one."""
    found = []
    for path in sorted((store.root / "ray").glob("*")):
        files = _files(path) if path.is_dir() else {}
        changed = max([path.lstat().st_mtime, *(file.changed for file in files.values())])
        run = _RAY.match(path.name)
        if path.is_dir() and now - changed >= max(days, 1) * DAY and not (run and store.held(run[1], run[2])):
            found.append(Directory(path, sum(file.size for file in files.values()), changed))
    return found


def _listed_local(store: Store) -> Iterator[tuple[Key, dict[str, File]]]:
    for kind in ORDER:
        for path in sorted((store.root / kind).glob("*")):
            if _DIGEST.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield (kind, path.name), _files(path)


def _listed_remote(store: Store) -> Iterator[tuple[Key, dict[str, File]]]:
    mirror = store.mirror
    assert mirror
    for kind in ORDER:
        by_digest = dict[str, dict[str, File]]()
        with suppress(remote.NotThere):
            for one in remote.objects(mirror.at(store.root / kind)):
                digest, _, name = one.name.partition("/")
                if name and _DIGEST.fullmatch(digest):
                    by_digest.setdefault(digest, {})[name] = File(one.size, one.modified / 1e9)
        for digest, files in by_digest.items():
            yield (kind, digest), files


def _files(root: Path) -> dict[str, File]:
    """Files below a directory; one of several names frees bytes only if all of them are here."""
    seen = list[tuple[str, os.stat_result]]()
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with suppress(FileNotFoundError):
                seen.append((os.path.relpath(path, root), os.lstat(path)))
    links = dict[tuple[int, int], int]()
    for _, status in seen:
        links[status.st_dev, status.st_ino] = links.get((status.st_dev, status.st_ino), 0) + 1
    found = dict[str, File]()
    for name, status in seen:
        inode = status.st_dev, status.st_ino
        frees = links.get(inode, 0) >= status.st_nlink and stat.S_ISREG(status.st_mode)
        if frees:
            links[inode] = 0  # counted once
        found[name] = File(status.st_size if frees else 0, status.st_mtime)
    return found


def _found(store: Store, key: Key, files: Mapping[str, File], before: Found | None) -> Found:
    kind, digest = key
    read = partial(_read, store, store.directory(kind, digest))
    own = {name: file for name, file in files.items() if name not in _LEASES}
    if before and before.files == own and not before.held and LEASE not in files:
        return before
    record = checked(read(RECORD), f"{kind}/{digest}/{RECORD}") if RECORD in own else None
    begun = [record] if record else [read(name) for name in own if re.fullmatch(r"attempt-[^/]*/attempt\.json", name)]
    refers, told = _refers(kind, [facts for facts in begun if facts])
    points = ("extract", str(record["extract"])) if kind == "set" and record and "extract" in record else None
    left = _leftovers(store, key, own, record["attempt"]) if record else ()
    held = LEASE in files and store.held(kind, digest)
    return Found(kind, digest, own, record is not None, held, refers, told, points, left)


def _refers(kind: str, begun: list[Any]) -> tuple[frozenset[Key], bool]:
    """What an artifact reads, by its record or its attempts, and whether that is all."""
    refers = {_key(name) for facts in begun for name in facts.get("inputs", {}).values()}
    if kind != "heads":
        return frozenset(refers), True
    try:
        trials = [digest for facts in begun for digest in _trials(facts)]
    except (UserError, ValueError, KeyError, TypeError):  # of another version
        return frozenset(refers), False
    return frozenset(refers | {("trial", digest) for digest in trials}), bool(begun)


def _trials(facts: Mapping[str, Any]) -> list[str]:
    from nml_ray.heads.config import HeadsSettings
    from nml_ray.sweep.heads import trial_digests
    from nml_ray.sweep.splits import PLAIN

    settings = HeadsSettings.model_validate(facts["settings"]["heads"])
    features = _key(facts["inputs"]["extract"])[1]
    return trial_digests(settings, features, facts["settings"].get("task", PLAIN))


def _key(name: str) -> Key:
    kind, _, digest = name.partition("/")
    return kind, digest


def _leftovers(store: Store, key: Key, files: Mapping[str, File], winner: str) -> tuple[str, ...]:
    """Files of a finished artifact that it does not need; on an object store those are looked up that lie there under
    another name."""
    kind = key[0]
    left = leftover_names(files, kind, winner)
    if not store.mirror or not left:
        return tuple(left)
    gone, needed = set(left), set[str]()
    for name in files:
        below = name.partition("/")[2]
        if name == f"{winner}/files.json" or (below.startswith(f"{FOLDER}/") and name not in gone):
            data = remote.read(store.mirror.at(store.directory(*key) / name))
            needed |= {entry.at for entry in parse_files(data, name).values()}
    return tuple(leftover_names(files, kind, winner, needed))


def _read(store: Store, directory: Path, name: str) -> Any:
    """A JSON file of an artifact; None where it is gone, or a crash of the machine left it torn."""
    with suppress(ValueError, RecursionError):
        return twin.read_json(store.mirror, directory / name) if store.mirror else read_json(directory / name)
    return None


def _tried(directory: Path) -> set[Key]:
    from nml_ray.study.sweep_table import TABLE, all_artifacts_of

    table = directory / TABLE
    if not table.exists():
        return set()
    try:
        found = {_key(name) for name in all_artifacts_of(table)}
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(directory.name, TABLE, error) from None
    return found


def _bring(mirror: Mirror, studies: Path, target: Path) -> None:
    """What the studies on an object store name, to a directory of its own."""
    from nml_ray.study.sweep_table import TABLE

    def bring(one: remote.Object) -> None:
        (target / one.name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(remote.NotThere):
            remote.download(mirror.at(studies / one.name), target / one.name)
            os.utime(target / one.name, (0, one.modified / 1e9))  # of a lease it tells

    with ThreadPoolExecutor(_THREADS) as pool, suppress(remote.NotThere):
        found = [(one, one.name.split("/")) for one in remote.objects(mirror.at(studies))]
        list(pool.map(bring, [one for one, (_, *below) in found if below in ([STAGES], [TABLE]) or _of_version(below)]))


def _of_version(below: list[str]) -> bool:
    return len(below) == 3 and below[0] == HISTORY and below[2] in (VERSION, LEASE)


def _unreadable(study: str, name: str, error: Exception) -> UserError:
    return UserError(
        f"cannot be read ({error})",
        where=f"{STUDIES}/{study}/{name}",
        expected="what the study refers to; run the study again, or remove its directory if it is to go",
    )
