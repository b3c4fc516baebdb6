"""The files of a data set on an object store, read through the shard cache of this machine.

dataset.json is read anew at each opening. What it says names everything else in the cache: an index by its CRC, a tar
by the digest of its content and the CRC of its index; so a changed data set is never taken for the one in the cache.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import DatasetInfo, ShardInfo, read_info
from nml_ray.data.files import OpenTar, check_index
from nml_ray.data.index import index_path, read_index
from nml_ray.data.remote_indexing import indices_aside
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from nml_ray.storage.patience import QUICK, Patience
from nml_ray.storage.shard_cache import INDEX_SUFFIX, ShardCache, size_text

_TRIES = 2  # of a file that is not what it should be: pyarrow does not notice an answer that is shorter than its range


@dataclass(frozen=True)
class RemoteFiles:
    """The files below a URL."""

    location: Location
    cache: ShardCache
    _sizes: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _unchecked: list[int] = field(default_factory=list, repr=False, compare=False)  # bytes of tars, until there is room

    @property
    def remote(self) -> bool:
        """Whole tars are brought here before they are read."""
        return True

    @cached_property
    def _again(self) -> str:
        return f"the tar that was indexed; after a change run `nml-ray data index {self.location}`"

    def info(self) -> DatasetInfo:
        """dataset.json, all of whose tars are there.

        Raises:
            UserError: it or a tar is missing or of another size; no such bucket, access denied, no answer.
        """
        info = read_info(self.location, QUICK)
        self._sizes.update({one.name: one.size for one in remote.objects(self.location, QUICK)})
        for shard in info.shards:
            found = self._sizes.get(shard.name)
            if found != shard.bytes:
                what = "is missing" if found is None else f"has {found} bytes, not {shard.bytes}"
                raise UserError(what, where=str(self.location / shard.name), expected=self._again)
        self._unchecked[:] = [shard.bytes for shard in info.shards]
        return info

    def _check_cache(self) -> None:
        """Before the first tar is brought: who only looks at indices, or at a few images, needs no room for tars.

        Raises:
            UserError: the cache is too small for one tar, or larger than its disk.
        """
        sizes = tuple(self._unchecked)
        if not sizes:
            return
        where, largest = f"shard cache {self.cache.directory}", max(sizes)
        if largest > self.cache.limit:
            raise UserError(
                f"of {size_text(self.cache.limit)} is too small for a tar of {size_text(largest)}",
                where=where,
                expected="a larger one (run.shard_cache_size)",
            )
        wanted = min(self.cache.limit, sum(sizes))
        if (room := self.cache.room()) < wanted:
            raise UserError(
                f"may take {size_text(self.cache.limit)}, but its disk has room for {size_text(room)}",
                where=where,
                expected="a smaller size (run.shard_cache_size), or another disk (run.shard_cache)",
            )
        self._unchecked.clear()

    def index(self, shard: ShardInfo) -> pa.Table:
        """The index of a tar, mapped from the cache.

        Raises:
            UserError: it is missing, damaged, or does not fit.
        """
        source = self.location / _index_name(shard.name)
        size = self._sizes.get(_index_name(shard.name))
        if size is None:
            expected = f"an index; make it with `nml-ray data index {self.location}`"
            raise UserError("is missing", where=str(source), expected=expected)
        stem = PurePosixPath(shard.name).name.removesuffix(".tar")
        name = f"{stem}-{shard.index_crc32:08x}-{shard.digest[:16]}{INDEX_SUFFIX}"

        def bring(target: int) -> None:
            for _ in range(_TRIES):
                remote.download(source, target, size)
                if zlib.crc32(os.pread(target, size, 0)) == shard.index_crc32:
                    return
            expected = f"an index; make it anew with `nml-ray data index {self.location}`"
            raise UserError("is damaged, or another than dataset.json knows", where=str(source), expected=expected)

        held = self.cache.fetch(name, size, bring)  # in use until it is mapped
        table = read_index(held.path, shard.index_crc32)
        check_index(table, shard, shard.bytes, str(self.location / shard.name), self._again)
        return table

    def tar(
        self,
        shard: ShardInfo,
        index: pa.Table,
        release: Callable[[], bool] = lambda: False,
        check: Callable[[], None] = lambda: None,
    ) -> OpenTar:
        """A tar from the cache, brought there if need be; its images are then compared with the index.

        Raises:
            UserError: it is gone, or another than was indexed; the server does not answer; the cache is full, too small
                for one tar, or larger than its disk.
        """
        self._check_cache()

        def bring(target: int) -> None:
            self._bring_tar(shard, index, target, check)

        return self.cache.fetch(_tar_name(shard), shard.bytes, bring, release, check=check)

    def bring_ahead(self, shard: ShardInfo, index: pa.Table, check: Callable[[], None]) -> None:
        """Bring a tar to the cache, if there is room, without much patience.

        Raises:
            UserError: as `tar`.
        """
        self._check_cache()

        def bring(target: int) -> None:
            self._bring_tar(shard, index, target, check, QUICK)

        self.cache.fetch(_tar_name(shard), shard.bytes, bring, patience=0, check=check)

    def _bring_tar(
        self,
        shard: ShardInfo,
        index: pa.Table,
        target: int,
        check: Callable[[], None],
        patience: Patience | None = None,
    ) -> None:
        source = self.location / shard.name
        for _ in range(_TRIES):
            remote.download(source, target, shard.bytes, patience=patience, check=check)
            wrong = first_other(index, target)
            if not wrong:
                return
        raise UserError(f"holds another image of key '{wrong}'", where=str(source), expected=self._again)

    def some_bytes(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        """Bytes of a tar, by a request of their own unless it is in the cache.

        Raises:
            UserError: it is gone, or cannot be read.
        """
        if held := self.cache.get(_tar_name(shard)):
            return os.pread(held.descriptor, size, offset)
        return remote.read_range(self.location / shard.name, offset, size)

    @contextmanager
    def checkout(self, shard: ShardInfo) -> Iterator[Path]:
        """A temporary directory that holds the tar and its index under their own names, as far as they are there."""
        with tempfile.TemporaryDirectory(prefix="nml-ray-") as directory:
            tar = Path(directory) / shard.name
            tar.parent.mkdir(parents=True, exist_ok=True)
            for name in (shard.name, _index_name(shard.name)):  # the index last: it must be the newer
                try:
                    remote.download(self.location / name, Path(directory) / name)
                except remote.NotThere:
                    continue
            yield Path(directory)

    def indices(self) -> AbstractContextManager[Path]:
        """A temporary directory that holds all indices under their own names, as far as they are there."""
        return indices_aside(self.location)


def first_other(index: pa.Table, descriptor: int) -> str:
    """The key of the first image of a tar that is not the one that was indexed; "" if there is none."""
    columns = zip(*(index[name].to_pylist() for name in ("key", "members", "image", "content")), strict=True)
    for key, members, image, content in columns:
        data = os.pread(descriptor, members[image]["size"], members[image]["offset"])
        if hashlib.blake2b(data, digest_size=16).digest() != content:
            return str(key)
    return ""


def _index_name(tar: str) -> str:
    return index_path(Path(tar)).as_posix()


def _tar_name(shard: ShardInfo) -> str:
    stem = PurePosixPath(shard.name).name.removesuffix(".tar")
    return f"{stem}-{shard.index_crc32:08x}-{shard.digest[:16]}.tar"
