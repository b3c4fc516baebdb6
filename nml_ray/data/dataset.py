"""A data set: a directory of indexed tars and its dataset.json."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import DatasetInfo, ShardInfo, read_info
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.data.index import IMAGE_EXTENSIONS, index_facts, index_path, read_index


@dataclass(frozen=True, eq=False)
class Dataset:
    """All samples of a data set as flat arrays; sample number = place in the concatenated indices.

    Attributes:
        directory: holds the tars.
        info: dataset.json.
        key_hash: uint64[N].
        label: int64[N], -1 where there is none.
        shard_number: int32[N], non-decreasing.
        image_offset, image_size: int64[N] and uint32[N], the image member's bytes in its tar.
        image_extension: uint8[N], place in `IMAGE_EXTENSIONS`.
        header_gap: uint32[N], bytes from the image member's first header block to its bytes.
        good: int64[G], the samples that are not known to be bad, ascending.
    """

    directory: Path
    info: DatasetInfo
    tables: tuple[pa.Table, ...]
    key_hash: Draws
    label: NDArray[np.int64]
    shard_number: NDArray[np.int32]
    image_offset: NDArray[np.int64]
    image_size: NDArray[np.uint32]
    image_extension: NDArray[np.uint8]
    header_gap: NDArray[np.uint32]
    good: NDArray[np.int64]

    @classmethod
    def open(cls, directory: "Path | str") -> "Dataset":
        """Read dataset.json and map the indices.

        Raises:
            UserError: either is missing, malformed, or does not fit the tars.
        """
        directory = Path(directory)
        info = read_info(directory)
        tables = tuple(_open_index(directory, shard) for shard in info.shards)
        return cls(directory, info, tables, **_flat(tables), good=_good(tables, info.known_bad))

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

    @cached_property
    def shard_paths(self) -> tuple[Path, ...]:
        """The tars."""
        return tuple(self.directory / shard.name for shard in self.info.shards)

    @cached_property
    def keys(self) -> pa.ChunkedArray:
        """All keys, still on disk: string[N]."""
        return pa.chunked_array([chunk for table in self.tables for chunk in table["key"].chunks], pa.string())

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(table.num_rows for table in self.tables)])

    def key(self, number: int) -> str:
        """The key of one sample."""
        shard = int(self.shard_number[number])
        key: str = self.tables[shard]["key"][int(number - self._starts[shard])].as_py()
        return key

    def shard_samples(self, shard: int) -> NDArray[np.int64]:
        """The good samples of one shard, in tar order: int64."""
        ends = np.searchsorted(self.good, self._starts[shard : shard + 2])
        return self.good[ends[0] : ends[1]]

    def captions(self) -> Iterator[str | None]:
        """Captions of the good samples in their order, read from disk in pieces."""
        for shard, table in enumerate(self.tables):
            rows = self.shard_samples(shard) - self._starts[shard]
            for start in range(0, len(rows), 1 << 16):
                yield from table["caption"].take(pa.array(rows[start : start + (1 << 16)])).to_pylist()


def _open_index(directory: Path, shard: ShardInfo) -> pa.Table:
    tar = directory / shard.name
    again = f"the tar that was indexed; after a change run `nml-ray data index {directory}`"
    try:
        size = tar.stat().st_size
    except FileNotFoundError:
        raise UserError("is missing", where=str(tar), expected=again) from None
    table = read_index(index_path(tar), shard.index_crc32)
    for what, found in (("has", size), ("was indexed with", index_facts(table)["tar_bytes"])):
        if found != shard.bytes:
            raise UserError(f"{what} {found} bytes, not {shard.bytes}", where=str(tar), expected=again)
    if table.num_rows != shard.samples:
        raise UserError(
            f"has an index of {table.num_rows} samples, not {shard.samples}", where=str(tar), expected=again
        )
    return table


def column(tables: Sequence[pa.Table], name: str, missing: int = 0) -> NDArray[Any]:
    """One column of all indices, end to end; null becomes `missing`."""
    parts = [pc.fill_null(table[name], missing).to_numpy() for table in tables]
    return np.concatenate(parts)


def _flat(tables: Sequence[pa.Table]) -> dict[str, NDArray[Any]]:
    images = [_images(table) for table in tables]
    offset = np.concatenate([image[0] for image in images])
    return {
        "key_hash": column(tables, "key_hash"),
        "label": column(tables, "label", -1),
        "shard_number": np.repeat(np.arange(len(tables), dtype=np.int32), [table.num_rows for table in tables]),
        "image_offset": offset,
        "image_size": np.concatenate([image[1] for image in images]).astype(np.uint32),
        "image_extension": np.concatenate([image[2] for image in images]),
        "header_gap": (offset - column(tables, "header")).astype(np.uint32),
    }


def _images(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Offset, size and extension code of every sample's image member."""
    members = table["members"].combine_chunks()
    if isinstance(members, pa.ChunkedArray):
        members = pa.concat_arrays(members.chunks) if members.num_chunks else pa.array([], members.type)
    first = members.offsets.to_numpy()[:-1].astype(np.int64)
    chosen = members.values.take(pa.array(first + table["image"].to_numpy()))
    last = pc.replace_substring_regex(chosen.field("extension"), r"^.*\.", "")
    code = pc.index_in(last, pa.array(IMAGE_EXTENSIONS))
    codes = pc.fill_null(code, len(IMAGE_EXTENSIONS)).to_numpy(zero_copy_only=False).astype(np.uint8)
    return chosen.field("offset").to_numpy(), chosen.field("size").to_numpy(), codes


def _good(tables: Sequence[pa.Table], bad: Sequence[str]) -> NDArray[np.int64]:
    hashes = column(tables, "key_hash")
    return np.flatnonzero(~np.isin(hashes, key_hashes(bad))) if bad else np.arange(len(hashes), dtype=np.int64)
