"""The files of a data set: in a local directory, or on an object store (see `remote_files`)."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import DatasetInfo, ShardInfo, read_info
from nml_ray.data.index import index_facts, index_path, read_index, still_fits
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location

RETRY_AFTER = (0.1, 0.5, 2.0)  # seconds: network file systems drop a request now and then


class OpenTar(Protocol):
    """A tar that is open as long as this is referred to."""

    descriptor: int


class Files(Protocol):
    """Reads the files of one data set; plain data."""

    @property
    def location(self) -> Location:
        """The directory."""
        ...

    @property
    def remote(self) -> bool:
        """Whether whole tars must be brought here before they are read."""
        ...

    def info(self) -> DatasetInfo:
        """dataset.json, checked against what is there as far as one look at the directory tells."""
        ...

    def index(self, shard: ShardInfo) -> pa.Table:
        """The index of a tar, mapped, and checked against dataset.json and the tar's size and age."""
        ...

    def tar(
        self, shard: ShardInfo, index: pa.Table, release: Callable[[], bool] = ..., check: Callable[[], None] = ...
    ) -> OpenTar:
        """A tar, open for reading. `release`: see `ShardCache.fetch`; `check`: see `remote.download`."""
        ...

    def checkout(self, shard: ShardInfo) -> AbstractContextManager[Path]:
        """A directory that holds the tar and its index under their own names, as far as they are there."""
        ...

    def indices(self) -> AbstractContextManager[Path]:
        """A directory that holds all indices under their own names, as far as they are there."""
        ...

    def some_bytes(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Bytes of a tar, without bringing the whole of it."""
        ...


def files_of(place: "str | Path | Location | Link") -> "Files":
    """The files of the data set at a place: a directory, a URL, or a link to one.

    Raises:
        UserError: the URL is of a kind that cannot be read.
    """
    found = followed(place)
    if isinstance(found, Link):
        from nml_ray.data.remote_files import RemoteFiles

        return RemoteFiles(found.location, found.shard_cache())
    return LocalFiles(found)


class _LocalTar:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class LocalFiles:
    """The files of a local directory."""

    remote = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def location(self) -> Location:
        """The directory."""
        return Location("", str(self.directory))

    def info(self) -> DatasetInfo:
        """dataset.json.

        Raises:
            UserError: missing or malformed.
        """
        return read_info(self.directory)

    def index(self, shard: ShardInfo) -> pa.Table:
        """The index of a tar, mapped.

        Raises:
            UserError: it or its tar is missing, damaged, does not fit; it is older than the tar and of other samples.
        """
        tar = self.directory / shard.name
        again = f"the tar that was indexed; after a change run `nml-ray data index {self.directory}`"
        try:
            status = tar.stat()
        except FileNotFoundError:
            raise UserError("is missing", where=str(tar), expected=again) from None
        table = read_index(index_path(tar), shard.index_crc32)
        check_index(table, shard, status.st_size, str(tar), again)
        younger = index_path(tar).stat().st_mtime_ns < status.st_mtime_ns
        if younger and not still_fits(tar, table):  # copies have other times
            raise UserError("was changed after it was indexed", where=str(tar), expected=again)
        return table

    def tar(
        self,
        shard: ShardInfo,
        index: pa.Table,
        release: Callable[[], bool] = lambda: False,
        check: Callable[[], None] = lambda: None,
    ) -> OpenTar:
        """A tar, open for reading: one that is gone or changed is told at once, other errors are tried again first.

        Raises:
            UserError: it is gone, or of another size.
        """
        path = self.directory / shard.name
        opened = _persistently_open(path)
        if (size := os.fstat(opened.descriptor).st_size) != shard.bytes:
            raise UserError(
                f"has {size} bytes, not {shard.bytes}", where=str(path), expected="the tar that was indexed"
            )
        return opened

    def some_bytes(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Bytes of a tar.

        Raises:
            UserError: it is gone, or of another size.
        """
        tar = self.tar(shard, pa.table({}))
        return os.pread(tar.descriptor, size, offset)

    @contextmanager
    def checkout(self, shard: ShardInfo) -> Iterator[Path]:
        """A directory that holds the tar and its index under their own names, as far as they are there."""
        yield self.directory

    @contextmanager
    def indices(self) -> Iterator[Path]:
        """The directory."""
        yield self.directory


def check_index(table: pa.Table, shard: ShardInfo, tar_bytes: int, tar: str, again: str) -> None:
    """Compare an index with dataset.json and the size of its tar.

    Raises:
        UserError: they differ.
    """
    for what, found in (("has", tar_bytes), ("was indexed with", index_facts(table)["tar_bytes"])):
        if found != shard.bytes:
            raise UserError(f"{what} {found} bytes, not {shard.bytes}", where=tar, expected=again)
    if table.num_rows != shard.samples:
        raise UserError(f"has an index of {table.num_rows} samples, not {shard.samples}", where=tar, expected=again)


def _persistently_open(path: Path) -> _LocalTar:
    for pause in (*RETRY_AFTER, None):
        try:
            return _LocalTar(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if pause is None:
                raise
            if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
                raise UserError(
                    f"cannot be read ({error.strerror})", where=str(path), expected="the tar that was indexed"
                ) from None
            time.sleep(pause)
    raise AssertionError
