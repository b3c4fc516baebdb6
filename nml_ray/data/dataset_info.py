"""What dataset.json holds."""

import tempfile
from pathlib import Path

from pydantic import ValidationError

from nml_ray.config.errors import UserError
from nml_ray.config.settings import Settings
from nml_ray.storage.atomic import write_json
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience

FILE = "dataset.json"


class ShardInfo(Settings):
    """One tar of a data set."""

    name: str
    """Path below the data set's directory."""
    samples: int
    """Samples in it."""
    bytes: int
    """Size of the tar; another size means another file."""
    digest: str
    """sha256 over (key, content digest, label, caption) in tar order."""
    index_crc32: int
    """CRC-32 of its index file."""


class DatasetInfo(Settings):
    """What dataset.json holds."""

    format: int = 1
    """Version of this file."""
    classes: tuple[str, ...]
    """Class names in label order; empty without labels."""
    shards: tuple[ShardInfo, ...]
    """The tars."""
    samples: int
    """Samples in all, known bad ones included."""
    digest: str
    """sha256 over (key, content digest, label, caption) of the good samples, sorted by key."""
    known_bad: tuple[str, ...] = ()
    """Keys of undecodable samples: excluded."""
    key_prefix: str = ""
    """"shard" where keys were made unique by their shard's name; noise then depends on the sharding."""
    source: str = ""
    """Where the data came from."""
    licence: str = ""
    """Under which licence."""
    warnings: tuple[str, ...] = ()
    """What indexing noticed: members and samples skipped, keys that agree after normalisation."""


def read_info(directory: Path | Location | Link, patience: Patience | None = None) -> DatasetInfo:
    """What dataset.json of a directory, or of the one that a link leads to, holds. `patience`: with an object store.

    Raises:
        UserError: missing, malformed or of another version; an object store that cannot be reached.
    """
    place = followed(directory)
    directory = place.location if isinstance(place, Link) else place
    path = directory / FILE
    expected = f"a directory of indexed tars; make it with `nml-ray data index {directory}`"
    try:
        info = DatasetInfo.model_validate_json(_bytes(path, patience))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("is missing", where=str(path), expected=expected) from None
    except (OSError, ValidationError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected=expected) from None
    if info.format != 1:
        raise UserError(f"has format {info.format}", where=str(path), expected=expected)
    return info


def _bytes(path: Path | Location, patience: Patience | None) -> bytes:
    if isinstance(path, Path):
        return path.read_bytes()
    from nml_ray.storage import remote

    try:
        return remote.read(path, patience)
    except remote.NotThere as error:
        raise FileNotFoundError(str(error)) from None


def save_info(directory: Path | Location, info: DatasetInfo) -> None:
    """Write dataset.json, atomically."""
    data = info.model_dump(mode="json")
    if isinstance(directory, Path):
        write_json(directory / FILE, data)
        return
    from nml_ray.storage import remote

    with tempfile.TemporaryDirectory(prefix="nml-ray-") as aside:
        write_json(Path(aside) / FILE, data, durable=False)
        remote.upload(Path(aside) / FILE, directory / FILE)
