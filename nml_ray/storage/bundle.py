"""Files of an attempt on an object store, a bundle at a time: whole or not there, whatever cuts an upload.

<attempt>/bundles/NAME.json     written last: the files of the bundle, their bytes, sha256, and where each lies
<attempt>/held/HASH-NAME        a file that may change or go again, such as a checkpoint's, by its content
<attempt>/PATH                  a file that stays
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid4

from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.atomic import json_bytes
from nml_ray.storage.digest import digest_of_file
from nml_ray.storage.location import Location
from nml_ray.storage.names import flaw_of
from nml_ray.storage.patience import Patience

HELD = "held"
FOLDER = "bundles"
_THREADS = 8  # requests under way at once
_SUFFIX = ".json"


@dataclass(frozen=True)
class Entry:
    """One file: bytes, sha256, and where it lies below the artifact's directory."""

    size: int
    sha256: str
    at: str


Files = Mapping[str, Entry]  # by path in the attempt


class Bundles:
    """The bundles of one attempt.

    Args:
        directory: of the attempt on this machine.
        location: of the attempt on the object store.
    """

    def __init__(self, directory: Path, location: Location) -> None:
        self.directory, self.location = directory, location

    def names(self, prefix: str = "") -> list[str]:
        """The bundles that are whole, sorted; `prefix` ends in a slash."""
        try:
            found = remote.objects(self.location / FOLDER / prefix.rstrip("/") if prefix else self.location / FOLDER)
        except remote.NotThere:
            return []
        return [prefix + one.name.removesuffix(_SUFFIX) for one in found if one.name.endswith(_SUFFIX)]

    def files(self, name: str) -> Files:
        """The files of a bundle.

        Raises:
            NotThere: there is no such bundle.
        """
        return parse_files(remote.read(self._marker(name)), str(self._marker(name)))

    def publish(self, name: str, files: Mapping[str, Path], *, held: bool = True, known: Iterable[Entry] = ()) -> None:
        """Upload files (see `send`), then the bundle's marker."""
        remote.write(files_json(self.send(files, held=held, known=known)), self._marker(name))

    def send(self, files: Mapping[str, Path], *, held: bool = True, known: Iterable[Entry] = ()) -> Files:
        """Upload files; what lies there already is not sent again.

        Args:
            files: local ones, by path in the attempt.
            held: they may change or go again.
            known: files that lie there already, by whatever name.
        """
        same = {(entry.size, entry.sha256): entry for entry in known}

        def put(path: str, file: Path) -> Entry:
            size, sha256 = file.stat().st_size, digest_of_file(file)
            if found := same.get((size, sha256)):
                return found
            below = f"{HELD}/{sha256[:24]}-{PurePosixPath(path).name}" if held else path
            target = self.location / below
            if not held or remote.size_of(target) != size:
                remote.upload(file, target)
            return Entry(size, sha256, f"{self.directory.name}/{below}")

        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(files, pool.map(put, files, files.values()), strict=True))

    def contents(self, names: Sequence[str]) -> Files:
        """The files of several bundles together; where two have one path, that of the later name. Bundles that are
        gone meanwhile have none."""
        return {path: entry for files in self._each(names) for path, entry in files.items()}

    def bring(self, names: Sequence[str]) -> None:
        """Bring the files of bundles that are not here.

        Raises:
            UserError: a file does not come as it was sent.
        """
        bring(self.directory, self.location, self.contents(names))

    def rename(self, name: str, new: str, paths: Mapping[str, str]) -> None:
        """Give a bundle another name, and those of its files that `paths` has another path."""
        files = self.files(name)
        remote.write(files_json({paths[path]: files[path] for path in files if path in paths}), self._marker(new))
        remote.remove(self._marker(name))

    def retire(self, names: Iterable[str]) -> None:
        """Remove bundles, the markers first, and files of theirs that no other bundle has."""
        going = list(names)
        if not going:
            return
        files = self._each(going)
        for name in going:
            remote.remove(self._marker(name))
        own = f"{self.directory.name}/"
        lost = {entry.at for one in files for entry in one.values() if entry.at.startswith(own)}
        kept = {entry.at for one in self._each(self.names()) for entry in one.values()}
        for at in sorted(lost - kept):
            remote.remove(self.location / at.removeprefix(own))

    def _each(self, names: Sequence[str]) -> list[Files]:
        def known(name: str) -> Files:
            try:
                return self.files(name)
            except remote.NotThere:
                return {}

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(known, names))

    def _marker(self, name: str) -> Location:
        return self.location / FOLDER / f"{name}{_SUFFIX}"


def files_json(files: Files) -> bytes:
    """Files as JSON."""
    return json_bytes({path: list(astuple(entry)) for path, entry in sorted(files.items())})


def parse_files(data: bytes, where: str) -> Files:
    """Files of JSON.

    Raises:
        UserError: it is damaged, or names files outside of the attempt.
    """
    try:
        files = {str(path): Entry(*told) for path, told in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"is damaged ({error})", where=where, expected="a list of files that nml-ray wrote") from None
    for path, entry in files.items():
        if flaw := flaw_of(path) or flaw_of(entry.at):
            raise UserError(f"names a file that {flaw}", where=where, expected="names below the attempt's directory")
    return files


def bring(directory: Path, location: Location, files: Files) -> None:
    """Bring files that are not here; existing ones of the right size are left alone.

    Args:
        directory: of the attempt, on this machine.
        location: of the attempt, on the object store.
        files: what is wanted.

    Raises:
        UserError: one is not there, or does not come as it was sent.
    """
    parent = Location(location.scheme, location.path.rpartition("/")[0], location.options)
    missing = {path: entry for path, entry in files.items() if _size(directory / path) != entry.size}

    def fetch(path: str, entry: Entry) -> None:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
        try:
            _download(parent / entry.at, aside, entry)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    if missing:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(fetch, missing, missing.values()))


def _download(source: Location, target: Path, entry: Entry, patience: Patience | None = None) -> None:
    for _ in range(2):  # what came wrong once may come right
        size = remote.download(source, target, patience=patience)
        if size == entry.size and digest_of_file(target) == entry.sha256:
            return
    raise UserError(
        f"is not what was sent: {size:,} bytes came, sent were {entry.size:,} of sha256 {entry.sha256[:12]}...",
        where=str(source),
        expected="an object that nobody has changed; remove its artifact's record.json to make it again",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1
