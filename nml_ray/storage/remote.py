"""Objects of an object store, through pyarrow: listed, read, brought to a local file, put there. Each piece of work is
repeatable and is tried again (see `patience`); connections are made when they are needed, once a process."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nml_ray.config.errors import UserError
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Incomplete, NotThere, Patience, limits, persistent

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = [
    *("NotThere", "Object", "download", "etag", "filesystem", "names", "objects", "read", "read_range", "remove"),
    *("size_of", "upload", "write"),
]

_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
BLOCK = 8 << 20  # bytes of one request: what a dropped connection costs


@dataclass(frozen=True)
class Object:
    """A file that was listed: its path below the directory, bytes and time of its last change (ns)."""

    name: str
    size: int
    modified: int


def filesystem(location: Location) -> "pyarrow.fs.FileSystem":
    """The filesystem of a remote location.

    Raises:
        UserError: this pyarrow lacks it.
    """
    options = dict(location.options)
    if location.scheme == "s3" and "endpoint_override" not in options:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"} if endpoint else {}
    if location.scheme == "s3" and "region" not in options:
        options["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not options["region"] and "endpoint_override" not in options:
            options["region"] = _region(location.bucket)
    return _filesystem(location.scheme, tuple(sorted(options.items())), os.getpid(), limits())


@lru_cache(maxsize=64)
def _filesystem(
    scheme: str, options: tuple[tuple[str, str], ...], process: int, seconds: tuple[float, float]
) -> "pyarrow.fs.FileSystem":
    """`process`: a connection does not survive a fork. `seconds`: see `limits`."""
    import pyarrow.fs as fs

    given = dict(options)
    anonymous = given.pop("anonymous", "") == "true"
    if scheme == "gs":
        from datetime import timedelta

        if seconds[0] < Patience.connect:
            _knock(given, seconds[0])
        return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=5), **given)
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=given.pop("region", "") or "us-east-1",
        connect_timeout=seconds[0],
        request_timeout=seconds[1],
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        **given,
    )


def _knock(given: Mapping[str, str], seconds: float) -> None:
    """Ask, for a user who waits, whether a server of Google's interface can be connected to: its own client takes
    minutes to say that it cannot.

    Raises:
        OSError: no connection in time.
    """
    if any(os.environ.get(name) for name in _PROXIES):
        return
    host, _, port = given.get("endpoint_override", "storage.googleapis.com").partition(":")
    try:
        socket.create_connection((host, int(port or (80 if given.get("scheme") == "http" else 443))), seconds).close()
    except OSError as error:
        raise OSError(f"no connection to {host}: {error}") from None


@lru_cache(maxsize=64)
def _region(bucket: str) -> str:
    import pyarrow.fs as fs

    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError:
        return ""  # the first request tells what is wrong


def objects(directory: Location, patience: Patience | None = None) -> list[Object]:
    """All objects below a directory, sorted by name.

    Raises:
        UserError: there is none, no such bucket, no access.
    """
    import pyarrow.fs as fs

    def listed() -> list[Object]:
        found = filesystem(directory).get_file_info(fs.FileSelector(directory.path, recursive=True))
        return [
            Object(info.path[len(directory.path) + 1 :], info.size, info.mtime_ns or 0)
            for info in found
            if info.is_file
        ]

    found = persistent(listed, str(directory), patience)
    if not found:
        raise NotThere("holds nothing", where=str(directory), expected="objects below it")
    return sorted(found, key=lambda one: one.name)


def names(directory: Location, patience: Patience | None = None) -> list[str]:
    """What lies right below a directory, sorted; nothing where there is no such directory.

    Raises:
        UserError: no such bucket, no access.
    """
    import pyarrow.fs as fs

    def listed() -> list[str]:
        selector = fs.FileSelector(directory.path, allow_not_found=True)
        return sorted(info.base_name for info in filesystem(directory).get_file_info(selector))

    return persistent(listed, str(directory), patience)


def size_of(location: Location, patience: Patience | None = None) -> int | None:
    """Bytes of an object; None where there is none.

    Raises:
        UserError: no such bucket, no access.
    """
    info = persistent(lambda: filesystem(location).get_file_info(location.path), str(location), patience)
    return int(info.size) if info.is_file else None


def changed(location: Location, patience: Patience | None = None) -> float | None:
    """When an object was last written, Unix time by the store's clock; None where there is none.

    Raises:
        UserError: no such bucket, no access.
    """
    info = persistent(lambda: filesystem(location).get_file_info(location.path), str(location), patience)
    return float(info.mtime.timestamp()) if info.is_file and info.mtime else None


def read(location: Location, patience: Patience | None = None) -> bytes:
    """All bytes of a small object.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    return persistent(lambda: _block(location, 0, None), str(location), patience)


def etag(location: Location, patience: Patience | None = None) -> str:
    """What names the version of an object; "" where the store has no such name.

    Raises:
        UserError: it is not there.
    """

    def asked() -> str:
        with filesystem(location).open_input_file(location.path) as file:
            facts = {str(name).lower(): value for name, value in (file.metadata() or {}).items()}
        return facts.get("etag", b"").decode().strip('"')

    return persistent(asked, str(location), patience)


def read_range(location: Location, offset: int, size: int, patience: Patience | None = None) -> bytes:
    """Some bytes of an object.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    return persistent(lambda: _block(location, offset, size), str(location), patience)


def _block(location: Location, offset: int, size: int | None) -> bytes:
    with filesystem(location).open_input_file(location.path) as file:
        wanted = file.size() - offset if size is None else size
        data: bytes = file.read_at(wanted, offset)
    if len(data) != wanted:
        raise Incomplete(f"{len(data)} bytes came of {wanted}")
    return data


def download(
    location: Location,
    target: Path | int,
    size: int | None = None,
    *,
    patience: Patience | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Bring an object to a local file, block by block; a dropped connection costs the block.

    Args:
        location: what.
        target: a path, where a file appears once the object is found and stays if all of it comes; or the descriptor
            of a file open for writing, written from its beginning.
        size: bytes that it must have.
        patience: for each block.
        check: called before each block and between tries; what it raises is raised here.

    Returns:
        Its bytes.

    Raises:
        UserError: it is not there, of another size, or cannot be read.
        OSError: the local file cannot be written.
    """
    file = persistent(lambda: filesystem(location).open_input_file(location.path), str(location), patience, check)
    with file:
        total = int(file.size())
        if size is not None and total != size:
            raise UserError(
                f"has {total:,} bytes, not {size:,}",
                where=str(location),
                expected="the object that was indexed; after a change run `nml-ray data index` again",
            )
        with _opened(target) as descriptor:
            for offset in range(0, total, BLOCK):
                wanted = min(BLOCK, total - offset)

                def block(offset: int = offset, wanted: int = wanted) -> bytes:
                    data: bytes = file.read_at(wanted, offset)
                    if len(data) != wanted:
                        raise Incomplete(f"{len(data)} bytes came of {wanted}")
                    return data

                check()
                _write(descriptor, persistent(block, str(location), patience, check), offset)
    return total


@contextmanager
def _opened(target: Path | int) -> Iterator[int]:
    """A descriptor to write to; of a path that could not be written whole nothing is left."""
    if isinstance(target, int):
        yield target
        return
    with open(target, "wb") as file:
        try:
            yield file.fileno()
        except BaseException:
            target.unlink()
            raise


def _write(target: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        view, offset = view[written:], offset + written


def upload(file: Path, location: Location, patience: Patience | None = None) -> None:
    """Put a local file at a location, whole or not at all; what was there is replaced.

    Raises:
        UserError: no such bucket, no access, or the server does not answer.
    """
    import pyarrow.fs as fs

    size = file.stat().st_size

    def put() -> None:
        target = filesystem(location)
        fs.copy_files(
            str(file), location.path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=target
        )  # a stream's context manager would make a half written object exist when it is left by an error
        if (found := target.get_file_info(location.path).size) != size:
            raise Incomplete(f"{found} bytes arrived of {size}")

    persistent(put, str(location), patience)


def write(data: bytes, location: Location, patience: Patience | None = None) -> None:
    """Put a small object at a location, as `upload` does."""
    with tempfile.NamedTemporaryFile(prefix="nml-ray-") as file:
        file.write(data)
        file.flush()
        upload(Path(file.name), location, patience)


def remove(location: Location) -> None:
    """Remove an object, if it is there."""

    def gone() -> None:
        if filesystem(location).get_file_info(location.path).is_file:
            filesystem(location).delete_file(location.path)

    persistent(gone, str(location))
