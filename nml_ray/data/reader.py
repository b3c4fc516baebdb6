"""Bytes of single samples, read from mapped tars by offset."""

import mmap
import threading
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import hash_of
from nml_ray.data.index import split_name
from nml_ray.data.tar import member_name

RETRY_AFTER = (0.1, 0.5, 2.0)  # seconds: network file systems drop a request now and then


class ShardReader:
    """Reads images by sample number. Safe for many threads; keeps the `open_maps` last used tars mapped."""

    def __init__(self, dataset: Dataset, open_maps: int = 256) -> None:
        self._dataset = dataset
        self._limit = open_maps
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, number: int) -> bytes:
        """The bytes of a sample's image member."""
        dataset = self._dataset
        start = int(dataset.image_offset[number])
        return self._map(int(dataset.shard_number[number]))[start : start + int(dataset.image_size[number])]

    def header_key(self, number: int) -> str:
        """The sample's key as its image member's own tar header says it, for the audit.

        Raises:
            UserError: the tar has no such header there.
        """
        dataset = self._dataset
        shard = int(dataset.shard_number[number])
        header = int(dataset.image_offset[number]) - int(dataset.header_gap[number])
        where = str(dataset.shard_paths[shard])
        name = member_name(self._map(shard), header, where).decode(errors="replace")
        parts = split_name(name)
        if parts is None:
            raise UserError(
                f"member '{name}' at byte {header} has no key", where=where, expected="the tar that was indexed"
            )
        prefix = dataset.shard_names[shard].removesuffix(".tar") + "/" if dataset.info.key_prefix == "shard" else ""
        return prefix + parts[0]

    def header_hash(self, number: int) -> np.uint64:
        """The 64-bit hash of `header_key`."""
        return np.uint64(hash_of(self.header_key(number)))

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            if shard in self._maps:
                self._maps.move_to_end(shard)
                return self._maps[shard]
            opened = _open_map(self._dataset, shard)
            self._maps[shard] = opened
            if len(self._maps) > self._limit:
                self._maps.popitem(last=False)  # unmapped when the last thread that reads it lets go
            return opened


def _open_map(dataset: Dataset, shard: int) -> mmap.mmap:
    """Map a tar: one that is gone or changed is told at once, other read errors are retried, then raised."""
    path, expected = dataset.shard_paths[shard], dataset.info.shards[shard].bytes
    try:
        opened = _persistent_map(path)
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), expected="the tar that was indexed") from None
    if len(opened) != expected:
        raise UserError(
            f"has {len(opened)} bytes, not {expected}", where=str(path), expected="the tar that was indexed"
        )
    return opened


def _persistent_map(path: Path) -> mmap.mmap:
    for pause in RETRY_AFTER:
        try:
            return _mapped(path)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(pause)
    return _mapped(path)


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
