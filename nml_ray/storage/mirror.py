"""Working roots: an object store holds a storage, every machine works on it in a directory of its own.

<working root>/mirror.json names the URL; below both, paths are the same. A path in a working root travels to another
machine as `carried` makes it, and is the path in that machine's working root after `present`.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.location import Location, locate

MARK = "mirror.json"
_TRAVELS = '{"storage": '


@dataclass(frozen=True)
class Mirror:
    """A working root and the place whose content is worked on there."""

    root: Path
    remote: Location
    scratch: str

    def at(self, path: Path) -> Location:
        """Where a path in the working root lies on the object store."""
        below = path.relative_to(self.root).as_posix()
        return self.remote / below if below != "." else self.remote


def working_root(storage: str, scratch: str = "") -> Path:
    """The directory to work in: the storage itself where it is local, one of this machine for that of an object store.

    Args:
        storage: a path or URL.
        scratch: directory of working roots; the user's cache directory when left out.

    Raises:
        UserError: a URL that cannot be used, or a path that leads through a file.
    """
    location = locate(storage, "run.storage")
    if not location.remote:
        there = next(path for path in (location.local.absolute(), *location.local.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"'{there}' is no directory", where="run.storage", expected="a directory")
        return location.local
    url = str(location)
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", location.path)[:60]
    base = Path(os.path.expanduser(scratch)).absolute() if scratch else default_scratch()
    root = base / f"{location.scheme}-{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if read_json(root / MARK) is None:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / MARK, {"storage": url, "scratch": scratch})
    return root


def default_scratch() -> Path:
    """Below the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nml_ray" / "storage"


def mirror_at(root: Path) -> Mirror | None:
    """The mirror whose working root a directory is; None of a storage that is local."""
    marked = read_json(root / MARK)
    return Mirror(root, locate(marked["storage"]), marked["scratch"]) if marked else None


def mirror_of(path: Path) -> Mirror | None:
    """The mirror in whose working root a path lies."""
    for directory in (path, *path.parents):
        if (directory / MARK).is_file():
            return mirror_at(directory)
    return None


def carried(path: Path | str) -> str:
    """A path as text for another process: one in a working root so that another machine finds its own.

    A link to the user's own file or directory is followed: that must lie there on every machine.
    """
    path = Path(path)
    mirror = mirror_of(path)
    if mirror is None:
        return str(path)
    if not path.resolve().is_relative_to(mirror.root.resolve()):
        return str(path.resolve())
    below = path.relative_to(mirror.root).as_posix()
    return json.dumps({"storage": str(mirror.remote), "scratch": mirror.scratch, "below": below})


def present(text: str) -> Path:
    """The path on this machine of what `carried` gave. Its files may have to be brought (see `artifact.bring`)."""
    if not text.startswith(_TRAVELS):
        return Path(text)
    told = json.loads(text)
    return working_root(told["storage"], told["scratch"]) / told["below"]
