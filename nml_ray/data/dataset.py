"""A data set: a directory of indexed tars and its dataset.json."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import FILE, DatasetInfo
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.data.files import Files, files_of
from nml_ray.data.index import IMAGE_EXTENSIONS
from nml_ray.storage.link import Link
from nml_ray.storage.location import Location

THREADS = 8  # index files opened side by side: the checksum takes a core each, a network file system waits


@dataclass(frozen=True, eq=False)
class Dataset:
    """All samples of a data set as flat arrays; sample number = place in the concatenated indices.

    Attributes:
        files: its tars, indices and dataset.json.
        info: dataset.json.
        tables: the indices, mapped: what is not below stays on disk.
        key_hash: uint64[N].
        label: int32[N], -1 where there is none.
        good: int32[G] (int64 beyond 2^31), the samples that are not known to be bad, ascending.
    """

    files: Files
    info: DatasetInfo
    tables: tuple[pa.Table, ...]
    key_hash: Draws
    label: NDArray[np.int32]
    good: NDArray[np.signedinteger]

    @classmethod
    def open(cls, place: "Path | str | Location | Link") -> "Dataset":
        """Read dataset.json and map the indices.

        Args:
            place: a directory, an `s3://` or `gs://` URL, or a link to one.

        Raises:
            UserError: either is missing, malformed, or does not fit the tars; dataset.json names none; an object
                store that cannot be reached.
        """
        files = files_of(place)
        info = files.info()
        _check(info, files.location)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="index") as pool:
            tables = tuple(pool.map(files.index, info.shards))
        hashes = column(tables, "key_hash")
        labels = column(tables, "label", -1, np.int32)
        return cls(files, info, tables, hashes, labels, _good(hashes, info.known_bad))

    def __len__(self) -> int:
        """Samples, known bad ones included."""
        return len(self.key_hash)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.info.classes

    @property
    def digest(self) -> str:
        """Over (key, content digest, label, caption) of the good samples, sorted by key: no sharding in it."""
        return self.info.digest

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """Base names of the tars, with `.tar`."""
        return tuple(Path(shard.name).name for shard in self.info.shards)

    @property
    def directory(self) -> Location:
        """Where it lies."""
        return self.files.location

    def shard_location(self, shard: int) -> Location:
        """A tar."""
        return self.directory / self.info.shards[shard].name

    @cached_property
    def keys(self) -> pa.ChunkedArray:
        """All keys, still on disk: string[N]."""
        return pa.chunked_array([chunk for table in self.tables for chunk in table["key"].chunks], pa.string())

    @property
    def good_keys(self) -> pa.ChunkedArray:
        """The keys of the good samples: string[G], on disk where all are good."""
        return self.keys if len(self.good) == len(self) else self.keys.take(pa.array(self.good))

    @cached_property
    def shard_number(self) -> NDArray[np.int32]:
        """The shard of each sample: int32[N], non-decreasing."""
        return np.repeat(np.arange(len(self.tables), dtype=np.int32), np.diff(self._starts))

    @property
    def image_offset(self) -> NDArray[np.int64]:
        """Where each image's bytes begin in its tar: int64[N]."""
        return self._images.offset

    @property
    def image_size(self) -> NDArray[np.uint32]:
        """Bytes of each image: uint32[N]."""
        return self._images.size

    @property
    def image_extension(self) -> NDArray[np.uint8]:
        """The place of each image's extension in `IMAGE_EXTENSIONS`, or its length: uint8[N]."""
        return self._images.extension

    @property
    def header_gap(self) -> NDArray[np.uint32]:
        """Bytes from the image member's first header block to its bytes: uint32[N]."""
        return self._images.header_gap

    @cached_property
    def _images(self) -> "_Images":
        return _Images.of(self.tables)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(table.num_rows for table in self.tables)])

    def key(self, number: int) -> str:
        """The key of one sample."""
        shard = int(self.shard_number[number])
        key: str = self.tables[shard]["key"][int(number - self._starts[shard])].as_py()
        return key

    def caption(self, number: int) -> str | None:
        """The caption of one sample, read where it lies."""
        shard = int(self.shard_number[number])
        caption: str | None = self.tables[shard]["caption"][int(number - self._starts[shard])].as_py()
        return caption

    def shard_samples(self, shard: int) -> NDArray[np.int64]:
        """The good samples of one shard, in tar order: int64."""
        ends = np.searchsorted(self.good, self._starts[shard : shard + 2])
        return self.good[ends[0] : ends[1]].astype(np.int64)

    def captions(self) -> Iterator[str | None]:
        """Captions of the good samples in their order, read from disk in pieces."""
        for shard, table in enumerate(self.tables):
            rows = self.shard_samples(shard) - self._starts[shard]
            for start in range(0, len(rows), 1 << 16):
                yield from table["caption"].take(pa.array(rows[start : start + (1 << 16)])).to_pylist()


def column(tables: Sequence[pa.Table], name: str, missing: int = 0, kind: Any = None) -> NDArray[Any]:
    """One column of numbers of all indices, end to end, as their own type or `kind`; null becomes `missing`."""
    own = np.dtype(tables[0].schema.field(name).type.to_pandas_dtype())
    flat = np.empty(sum(table.num_rows for table in tables), kind or own)
    start = 0
    for table in tables:
        for chunk in table[name].chunks:
            part = flat[start : start + len(chunk)]
            part[:] = np.frombuffer(chunk.buffers()[1] or b"", own)[chunk.offset : chunk.offset + len(chunk)]
            if chunk.null_count:
                part[chunk.is_null().to_numpy(zero_copy_only=False)] = missing
            start += len(chunk)
    return flat


@dataclass(frozen=True)
class _Images:
    """Where the image of each sample lies."""

    offset: NDArray[np.int64]
    size: NDArray[np.uint32]
    extension: NDArray[np.uint8]
    header_gap: NDArray[np.uint32]

    @classmethod
    def of(cls, tables: Sequence[pa.Table]) -> "_Images":
        rows = sum(table.num_rows for table in tables)
        kinds = (np.int64, np.uint32, np.uint8, np.uint32)
        flat = cls(*(np.empty(rows, kind) for kind in kinds))
        start = 0
        for table in tables:
            for batch in table.select(["members", "image", "header"]).to_batches():
                flat._fill(slice(start, start + batch.num_rows), batch)
                start += batch.num_rows
        return flat

    def _fill(self, rows: slice, batch: pa.RecordBatch) -> None:
        members = batch["members"]
        chosen = members.offsets.to_numpy()[:-1].astype(np.int64) + batch["image"].to_numpy()
        self.offset[rows] = members.values.field("offset").to_numpy()[chosen]
        self.size[rows] = members.values.field("size").to_numpy()[chosen]
        self.header_gap[rows] = self.offset[rows] - batch["header"].to_numpy()
        named = members.values.field("extension").take(pa.array(chosen)).dictionary_encode()
        known = {name: code for code, name in enumerate(IMAGE_EXTENSIONS)}
        codes = [known.get(name.rpartition(".")[2], len(known)) for name in named.dictionary.to_pylist()]
        self.extension[rows] = np.array(codes, np.uint8)[named.indices.to_numpy()]


def _check(info: DatasetInfo, location: Location) -> None:
    again = f"one written by `nml-ray data index {location}`"
    if not info.shards:
        raise UserError("names no tar", where=str(location / FILE), expected=again)
    if (counted := sum(shard.samples for shard in info.shards)) != info.samples:
        raise UserError(
            f"says {info.samples} samples, but its tars hold {counted}", where=str(location / FILE), expected=again
        )


def _good(hashes: Draws, bad: Sequence[str]) -> NDArray[np.signedinteger]:
    everyone: NDArray[np.signedinteger] = np.arange(len(hashes), dtype=np.int32 if len(hashes) < 2**31 else np.int64)
    return everyone[~np.isin(hashes, key_hashes(bad))] if bad else everyone
