"""Files of object stores kept on the local disk, up to a limit, shared by all processes of a machine.

<directory>/files/NAME            a whole file; its modification time is its last use
<directory>/files/NAME.part       one being fetched, as large as it will be; locked (flock) by who fetches it
<directory>/locks/NAME            locked by whoever fetches NAME: all others wait for it, and go on when it dies
<directory>/lock                  locked while room is made, and while a file that has come takes its name

A file in use is open and share-locked, so that nobody removes it; locks end with their process, however it ends. What
has not been used for longest goes first. Names are made of what defines a file's content: a changed one is another.
"""

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from nml_ray.config.errors import UserError

DEFAULT_SIZE = "50GB"
INDEX_SUFFIX = ".index.arrow"
WAIT_FOR_ROOM = 60.0  # seconds until it is told that everything in the cache is in use
INDICES_LAST = 30 * 24 * 3600 * 10**9  # ns that an index outlives a shard: every start of a run needs all of them
_LOOK = 0.1  # seconds between two looks for room, or at a lock
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def default_directory() -> Path:
    """Below the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nml_ray" / "shards"


def size_of(text: str, where: str = "") -> int:
    """Bytes of a text such as "50GB", "800 MB" or "1.5GiB".

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].lower().removesuffix("b") + "b" if found[2] else "") if found else None
    size = int(Decimal(found[1]) * unit) if found and unit else 0
    if not size:
        raise UserError(f"'{text}' is no size", where=where, expected="one such as 50GB, 800MB or 1.5TiB")
    return size


def size_text(size: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} GB"


class CachedFile:
    """A file of the cache, open and in use until nothing refers to it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class ShardCache:
    """The cache in a directory, at most `limit` bytes of files. Plain data: any process may make its own."""

    directory: Path
    limit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(os.path.expanduser(self.directory)).absolute())

    @property
    def files(self) -> Path:
        """Where the files lie."""
        return self.directory / "files"

    def get(self, name: str) -> CachedFile | None:
        """A file, if it is there."""
        path = self.files / name
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits only while somebody decides whether to remove it
            if os.fstat(descriptor).st_nlink:
                os.utime(descriptor)
                return CachedFile(path, descriptor)
            os.close(descriptor)

    def fetch(
        self,
        name: str,
        size: int,
        bring: Callable[[int], None],
        release: Callable[[], bool] = lambda: False,
        patience: float = WAIT_FOR_ROOM,
        check: Callable[[], None] = lambda: None,
    ) -> CachedFile:
        """A file, brought if it is not there; however many ask for it, it is brought once.

        Args:
            name: of its content.
            size: its bytes.
            bring: writes it to a descriptor; what it raises is raised here, and nothing is left.
            release: called when there is no room; gives up a file that the caller has in use, False if it has none.
            patience: seconds to wait until others give up theirs.
            check: called some times a second while others bring the file, or hold all room; what it raises is raised
                here. `bring` has its own.

        Raises:
            UserError: no room for it.
        """
        self._make_directories()
        if found := self.get(name):
            return found
        with _locked(self.directory / "locks" / name, check):
            if found := self.get(name):
                return found
            part = self.files / f"{name}.part"
            descriptor = self._reserve(part, size, release, patience, check)
            try:
                bring(descriptor)
                os.fsync(descriptor)
                with _locked(
                    self.directory / "lock"
                ):  # else it is not seen under either name, or removed between locks
                    os.rename(part, self.files / name)
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
            except BaseException as error:
                part.unlink(missing_ok=True)
                os.close(descriptor)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._full(error.strerror or "") from None
                raise
            return CachedFile(self.files / name, descriptor)

    def holds(self, name: str) -> bool:
        """Whether a file is there; it may go at any time."""
        return (self.files / name).exists()

    def room(self) -> int:
        """Bytes that the cache may come to hold: its limit, or what the disk has left for it."""
        existing = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        held = sum(size for _, size, _ in _listed(self.files))
        return min(self.limit, shutil.disk_usage(existing).free + held)

    def _make_directories(self) -> None:
        try:
            for directory in (self.files, self.directory / "locks"):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot be made ({error.strerror})",
                where=f"shard cache {self.directory}",
                expected="a directory on a local disk (run.shard_cache)",
            ) from None

    def _reserve(
        self, part: Path, size: int, release: Callable[[], bool], patience: float, check: Callable[[], None]
    ) -> int:
        """An empty file of `size` bytes, exclusively locked, for which room has been made."""
        if size > self.limit:
            raise UserError(
                f"of {size_text(self.limit)} is too small for a file of {size_text(size)}",
                where=f"shard cache {self.directory}",
                expected="a larger one (run.shard_cache_size)",
            )
        deadline = time.monotonic() + patience
        while True:
            with _locked(self.directory / "lock", check):
                if self._make_room(size):
                    return _created(part, size)
            if not release():
                if time.monotonic() > deadline:
                    raise UserError(
                        f"of {size_text(self.limit)} is full of files in use",
                        where=f"shard cache {self.directory}",
                        expected="a larger one (run.shard_cache_size), fewer lanes or fewer workers on this machine",
                    )
                check()
                time.sleep(_LOOK)

    def _make_room(self, size: int) -> bool:
        """Remove what has not been used for longest until `size` more bytes fit; False if what is in use forbids it."""
        while True:  # what was gone before it was removed may lie there under its other name
            listed = sorted(_listed(self.files))
            excess = sum(held for _, held, _ in listed) + size - self.limit
            if excess <= 0:
                return True
            if not any(_removed(path) for _, _, path in listed):
                return False

    def _full(self, why: str) -> UserError:
        return UserError(
            f"its disk is full ({why})",
            where=f"shard cache {self.directory}",
            expected="room for run.shard_cache_size "
            f"({size_text(self.limit)}), a smaller size, or another disk (run.shard_cache)",
        )


def _listed(directory: Path) -> Iterator[tuple[int, int, str]]:
    """Last use (an index's counts as later), bytes and path of each file."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        later = INDICES_LAST if entry.name.endswith(INDEX_SUFFIX) else 0
        yield status.st_mtime_ns + later, status.st_size, entry.path


def _removed(path: str) -> bool:
    """Remove a file, if it is still there; False where it is in use."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)
    return True


def _created(part: Path, size: int) -> int:
    part.unlink(missing_ok=True)  # of a process that died
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, size)  # counts at once; takes no room yet
    return descriptor


@contextmanager
def _locked(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Among threads and processes; a dead holder's lock is free. `check` is called between two tries."""
    pause = _LOOK / 64
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                check()
                time.sleep(pause)
                pause = min(2 * pause, _LOOK)
        yield
