"""What dataset.json holds."""

import json
import tempfile
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from nml_ray.config.errors import UserError
from nml_ray.config.patterns import SHA256
from nml_ray.config.settings import Settings
from nml_ray.storage.atomic import write_json
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location
from nml_ray.storage.names import RELATIVE, flaw_of
from nml_ray.storage.patience import Patience

FILE = "dataset.json"


class ShardInfo(Settings):
    """One tar of a data set."""

    name: str
    """Path below the data set's directory, with `/` between its parts; ends in `.tar`."""
    samples: int = Field(ge=0)
    """Samples in it."""
    bytes: int = Field(ge=0)
    """Size of the tar; another size means another file."""
    digest: str = Field(pattern=SHA256)
    """sha256 over (key, content digest, label, caption) in tar order."""
    index_crc32: int = Field(ge=0, lt=2**32)
    """CRC-32 of its index file."""

    @field_validator("name")
    @classmethod
    def _lies_below(cls, name: str) -> str:
        """Others take it for a path of their own disk.

        Raises:
            UserError: it could lead elsewhere.
        """
        refuse_name(name)
        return name


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
    image: str = ""
    """Extension of the image member where samples have several; "" for the usual one."""
    source: str = ""
    """Where the data came from."""
    licence: str = ""
    """Under which licence."""
    warnings: tuple[str, ...] = ()
    """What indexing noticed: members and samples skipped, keys that agree after normalisation."""


def refuse_name(name: str, where: str = "") -> None:
    """Refuse what is no name of a tar below a directory.

    Args:
        name: of a tar.
        where: of the data set, for messages.

    Raises:
        UserError: it is absolute, leads upwards, has empty parts, backslashes or control characters, or another
            ending.
    """
    if flaw := flaw_of(name) or ("" if name.endswith(".tar") else "does not end in '.tar'"):
        raise UserError(f"name {name!r} of a tar {flaw}", where=where, expected=RELATIVE)


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
        data = _bytes(path, patience)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("is missing", where=str(path), expected=expected) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected=expected) from None
    try:
        info = DatasetInfo.model_validate_json(data)
    except UserError as error:
        raise UserError(str(error), where=str(path)) from None
    except ValidationError as error:
        raise UserError(f"cannot be read ({_first(error)})", where=str(path), expected=expected) from None
    if info.format != 1:
        raise UserError(f"has format {info.format}", where=str(path), expected=expected)
    return info


def _first(failure: ValidationError) -> str:
    first = failure.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _bytes(path: Path | Location, patience: Patience | None) -> bytes:
    if isinstance(path, Path):
        return path.read_bytes()
    from nml_ray.storage import remote

    try:
        data = remote.read(path, patience)
        return data if _is_json(data) else remote.read(path, patience)  # pyarrow does not notice a short answer
    except remote.NotThere as error:
        raise FileNotFoundError(str(error)) from None


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


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
