"""What dataset.json holds."""

from pathlib import Path

from pydantic import ValidationError

from nml_ray.config.errors import UserError
from nml_ray.config.settings import Settings
from nml_ray.storage.atomic import write_json

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


def read_info(directory: Path) -> DatasetInfo:
    """What dataset.json of a directory holds.

    Raises:
        UserError: missing, malformed or of another version.
    """
    path = directory / FILE
    expected = f"a directory of indexed tars; make it with `nml-ray data index {directory}`"
    try:
        info = DatasetInfo.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("is missing", where=str(path), expected=expected) from None
    except (OSError, ValidationError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected=expected) from None
    if info.format != 1:
        raise UserError(f"has format {info.format}", where=str(path), expected=expected)
    return info


def save_info(directory: Path, info: DatasetInfo) -> None:
    """Write dataset.json, atomically."""
    write_json(directory / FILE, info.model_dump(mode="json"))
