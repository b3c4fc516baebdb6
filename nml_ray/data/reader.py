"""Bytes of single samples, read from tars by offset."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import Draws, hash_of
from nml_ray.data.files import RETRY_AFTER, OpenTar
from nml_ray.data.index import split_name
from nml_ray.data.prefetch import Prefetcher
from nml_ray.data.tar import BLOCK, member_name

REQUESTS = 16  # side by side
_PLAIN = frozenset(b"0\0")  # kinds of regular files
_INDEXED = "the tar that was indexed"


class ShardReader:
    """Reads images by sample number. Safe for many threads; keeps the `open_files` last opened tars open.

    Reads are `pread`, never through a mapping: of a tar that another process cuts short, a mapping would kill this one.

    Args:
        dataset: to read.
        open_files: at most.
        whole: tars on an object store are brought to the shard cache; otherwise each read is a request of its own,
            for the few who look at a few samples.
    """

    def __init__(self, dataset: Dataset, open_files: int = 256, *, whole: bool = True) -> None:
        self._dataset = dataset
        self._limit = open_files
        self._by_request = dataset.files.remote and not whole
        self._open: dict[int, OpenTar] = {}  # in the order of their opening
        self._lock = threading.Lock()
        self._closed = False

    def read(self, number: int) -> bytes:
        """The bytes of a sample's image member.

        Raises:
            UserError: its tar is gone, has changed, or cannot be brought here.
        """
        shard, offset, size, _, _ = self._layout
        return self.read_at(int(shard[number]), int(offset[number]), int(size[number]))

    def read_some(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """`read` of some samples; those that are requests of their own go side by side.

        Raises:
            UserError: as `read`.
        """
        if not self._by_request:
            yield from map(self.read, numbers)
            return
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="read") as pool:
            yield from pool.map(self.read, numbers)

    def read_hashed(self, number: int) -> tuple[bytes, np.uint64]:
        """The bytes of a sample's image member, and the hash of its key as its own tar header says it.

        Raises:
            UserError: as `read`, or the tar has no such header there.
        """
        shards, offsets, size, gap, planned = self._layout
        shard, offset = int(shards[number]), int(offsets[number])
        found = None
        if gap[number] == BLOCK:  # a read of its own: to cut a header off the image's bytes would copy them again
            found = self._plain_hash(self.read_at(shard, offset - BLOCK, BLOCK), shard)
        if found is None or found != planned[number]:
            found = int(self.header_hash(number))
        return self.read_at(shard, offset, int(size[number])), np.uint64(found)

    def read_at(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a tar, by its number.

        Raises:
            UserError: as `read`.
        """
        if self._by_request:
            return self._dataset.files.some_bytes(self._dataset.info.shards[shard], offset, size)
        data = self._pread(shard, offset, size)
        if len(data) != size:
            raise UserError(
                f"ends before byte {offset + size}", where=str(self._dataset.shard_location(shard)), expected=_INDEXED
            )
        return data

    def header_key(self, number: int) -> str:
        """The sample's key as its image member's own tar header says it, for the audit.

        Raises:
            UserError: the tar has no such header there.
        """
        shards, offset, _, gap, _ = self._layout
        shard, start = int(shards[number]), int(offset[number]) - int(gap[number])
        where = str(self._dataset.shard_location(shard))
        blocks = self.read_at(shard, start, int(gap[number]))
        name = member_name(blocks, where, start).decode(errors="replace")
        parts = split_name(name)
        if parts is None:
            raise UserError(f"member '{name}' at byte {start} has no key", where=where, expected=_INDEXED)
        return self._prefix(shard) + parts[0]

    def header_hash(self, number: int) -> np.uint64:
        """The 64-bit hash of `header_key`."""
        return np.uint64(hash_of(self.header_key(number)))

    def prefetch(self, numbers: NDArray[np.integer], share: int = 1) -> None:
        """Bring the tars of samples that will be read, in that order, in the background; nothing where they are local.

        Args:
            numbers: samples, in the order in which they will be read.
            share: processes that share the cache.
        """
        if self._dataset.files.remote and not self._by_request:
            shards = self._layout[0][numbers]
            first = np.sort(np.unique(shards, return_index=True)[1])
            self._prefetcher.ask(shards[first].tolist(), share)

    def close(self) -> None:
        """Let go of the tars and end what is being brought; who waits for that gets a `CancelledError`."""
        self._closed = True
        if "_prefetcher" in self.__dict__:
            self._prefetcher.close()
        with self._lock:
            self._open.clear()

    @cached_property
    def _prefetcher(self) -> Prefetcher:
        return Prefetcher(self._dataset, self._open.__contains__)

    @cached_property
    def _layout(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32], Draws]:
        """Shard, offset, size, header gap and key hash of every sample."""
        of = self._dataset
        return of.shard_number, of.image_offset, of.image_size, of.header_gap, of.key_hash

    def _prefix(self, shard: int) -> str:
        dataset = self._dataset
        return dataset.shard_names[shard].removesuffix(".tar") + "/" if dataset.info.key_prefix == "shard" else ""

    def _plain_hash(self, data: bytes, shard: int) -> int | None:
        """The hash of the key in a single header block; None where that is not all there is to it."""
        if data[156] not in _PLAIN or data[345]:
            return None
        parts = split_name(data[: data.index(0, 0, 101)].decode(errors="replace")) if 0 in data[:100] else None
        return hash_of(self._prefix(shard) + parts[0]) if parts else None

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        for pause in RETRY_AFTER:
            tar = self._tar(shard)  # held until it is read: another thread may let go of it meanwhile
            try:
                return os.pread(tar.descriptor, size, offset)
            except OSError:
                with self._lock:
                    self._open.pop(shard, None)
                time.sleep(pause)
        tar = self._tar(shard)
        return os.pread(tar.descriptor, size, offset)

    def _tar(self, shard: int) -> OpenTar:
        if opened := self._open.get(shard):
            return opened
        dataset = self._dataset
        opened = dataset.files.tar(dataset.info.shards[shard], dataset.tables[shard], self._release, self._check)
        with self._lock:
            opened = self._open.setdefault(shard, opened)
            if len(self._open) > self._limit:
                del self._open[next(iter(self._open))]  # closed when the last thread that reads it lets go
        if "_prefetcher" in self.__dict__:
            self._prefetcher.used(shard)
        return opened

    def _check(self) -> None:
        if self._closed:
            raise CancelledError

    def _release(self) -> bool:
        """Let go of the tar that has been open for longest."""
        with self._lock:
            return bool(self._open and self._open.pop(next(iter(self._open))))
