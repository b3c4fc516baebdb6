"""An indexed data set on an object store, to be cut and shuffled anew: its tars are read through the shard cache."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.dataset_info import ShardInfo
from nml_ray.data.index import index_facts
from nml_ray.data.reader import ShardReader
from nml_ray.data.sources.listing import ROWS, Listing
from nml_ray.storage.link import Link
from nml_ray.storage.shard_cache import size_text


def remote_tar_listing(link: Link, given: Mapping[str, Any]) -> Listing:
    """The samples of a data set on an object store, as its indices say; no tar is read yet.

    Args:
        link: to it, and the cache. A shuffle reads from all tars at once, so the cache must hold them all.
        given: what the user says about reading tars, by flag: it must have been said when they were indexed.

    Raises:
        UserError: it is not indexed, or otherwise than `given`; it is larger than the cache; no sample.
    """
    dataset = Dataset.open(link)
    info, place = dataset.info, str(link.location)
    size, limit = sum(shard.bytes for shard in info.shards), link.shard_cache().limit
    if size > limit:
        raise UserError(
            f"holds {size_text(size)} of tars, which a cache of {size_text(limit)} does not hold at once",
            where=place,
            expected="--cache-size (and --cache on a disk with room for it), or a local copy",
        )
    if not len(dataset):
        raise UserError("its tars hold no sample with an image", where=place, expected="at least one")
    options = index_facts(dataset.tables[0])["options"]
    said = {"--classes": list(info.classes), "--key-prefix": options["prefix"], "--image": options["image"]}
    for flag, value in given.items():
        if value and value != said[flag]:
            raise UserError(
                f"was indexed without this {flag}", where=place, expected=f"`nml-ray data index {place}` with it first"
            )
    rows = pa.concat_tables([_rows(table, shard) for table, shard in zip(dataset.tables, info.shards, strict=True)])
    return Listing(rows, info.classes, options["image"], info.known_bad, info.warnings, link=link)


def _rows(index: pa.Table, shard: ShardInfo) -> pa.Table:
    count = index.num_rows
    columns = {
        "key": index["key"],
        "label": pa.nulls(count, pa.int64()),
        "caption": pa.nulls(count, pa.string()),
        "file": pa.repeat(shard.name, count),
        "stamp": pa.repeat(pa.scalar(int(shard.digest[:15], 16), pa.int64()), count),
        "members": index["members"],
        "image": index["image"],
    }
    return pa.table(columns, schema=ROWS)


def remote_members(link: Link, row: Mapping[str, Any]) -> dict[str, bytes]:
    """Members of a sample by extension.

    Raises:
        UserError: its tar is gone, has changed, or cannot be brought here.
    """
    reader, numbers = _opened(link)
    shard = numbers[row["file"]]
    return {member["extension"]: reader.read_at(shard, member["offset"], member["size"]) for member in row["members"]}


@lru_cache(maxsize=1)
def _opened(link: Link) -> tuple[ShardReader, dict[str, int]]:
    """Once a process."""
    dataset = Dataset.open(link)
    return ShardReader(dataset), {shard.name: number for number, shard in enumerate(dataset.info.shards)}
