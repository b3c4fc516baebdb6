"""A link to data on an object store, as a small JSON file: what a symbolic link is to local data.

`NAME.link.json` stands for the directory NAME beside it; it names the URL, and the cache through which it is read.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.storage.atomic import read_json, write_json
from nml_ray.storage.location import Location, locate
from nml_ray.storage.shard_cache import DEFAULT_SIZE, ShardCache, default_directory, size_of

SUFFIX = ".link.json"


@dataclass(frozen=True)
class Link:
    """Data at a URL. `cache` is a directory of each machine ("" for the user's own), `cache_size` text as in "50GB"."""

    url: str
    cache: str = ""
    cache_size: str = DEFAULT_SIZE

    @property
    def location(self) -> Location:
        """Where the data lies."""
        return locate(self.url)

    def shard_cache(self) -> ShardCache:
        """The cache through which it is read.

        Raises:
            UserError: its size is none.
        """
        return ShardCache(Path(self.cache) if self.cache else default_directory(), size_of(self.cache_size))

    def __str__(self) -> str:
        return self.url


def write_link(path: Path, link: Link) -> Path:
    """Make `path` stand for the data of a link; the file written."""
    file = path.with_name(path.name + SUFFIX)
    write_json(file, asdict(link))
    return file


def followed(place: "str | Path | Location | Link", where: str = "") -> Link | Path:
    """What a place stands for: a local path, or the link to an object store that it is, names, or holds.

    Raises:
        UserError: as `locate`; a damaged link.
    """
    if isinstance(place, Link):
        return place
    location = locate(place, where)
    if location.remote:
        return Link(str(location))
    path = location.local
    file = path.with_name(path.name + SUFFIX) if path.name else path
    if path.exists() or not file.is_file():
        return path
    try:
        link = Link(**read_json(file))
        return link if link.location.remote else link.location.local
    except (ValueError, TypeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(file), expected="a link that a run left") from None


def linked_names(directory: Path) -> list[str]:
    """The names that links of a directory stand for."""
    return sorted(file.name.removesuffix(SUFFIX) for file in directory.glob("*" + SUFFIX))
