"""Existing tars, to be cut and shuffled anew; keys, members and known bad samples stay."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers, numbers_for
from nml_ray.data.dataset_info import FILE, read_info
from nml_ray.data.index import IndexOptions, index_facts, index_path, index_tar, read_index
from nml_ray.data.indexing import is_fresh
from nml_ray.data.sources.listing import ROWS, Listing

DISTINCT = "keys that are unique in all tars, or --key-prefix shard"


def tar_listing(
    directory: Path, tars: Sequence[Path], classes: Sequence[str] | None, key_prefix: str = "", image: str = ""
) -> Listing:
    """The samples of tars. Nothing is written beside them; a fresh index is used, else the tar is read through.

    Args:
        directory: holds the tars, and maybe a dataset.json with their classes and known bad samples.
        tars: which.
        classes, key_prefix, image: as `IndexOptions`; what is not given is that of dataset.json.

    Raises:
        UserError: as `index_tar`.
    """
    known_bad: tuple[str, ...] = ()
    earlier: Sequence[str] = ()
    if (directory / FILE).exists():
        info = read_info(directory)
        known_bad, earlier = info.known_bad, info.classes
        key_prefix, image = key_prefix or info.key_prefix, image or info.image
        classes = earlier if classes is None and not are_numbers(earlier) else classes
    options = IndexOptions(tuple(classes) if classes is not None else None, key_prefix, image)
    tables, notes, largest = [], [], -1
    for tar in tars:
        index = read_index(index_path(tar)) if is_fresh(tar, options) else index_tar(tar, options)
        tables.append(_rows(index, tar))
        largest = max(largest, *(label for label in index["label"].unique().to_pylist() if label is not None), -1)
        notes += _left_out(tar, index_facts(index))
    rows = pa.concat_tables(tables)
    if not rows.num_rows:
        raise UserError("its tars hold no sample with an image", where=str(directory), expected="at least one")
    named = tuple(classes) if classes is not None else numbers_for(largest, earlier)
    kept = set(rows["key"].to_pylist()) & set(known_bad) if known_bad else set()
    if lost := sorted(set(known_bad) - kept):
        notes.append(f"{len(lost)} samples known to be bad are not in the tars (the first is '{lost[0]}')")
    return Listing(rows, named, image, tuple(sorted(kept)), tuple(notes), DISTINCT)


def _rows(index: pa.Table, tar: Path) -> pa.Table:
    status = tar.stat()
    count = index.num_rows
    columns = {
        "key": index["key"],
        "label": pa.nulls(count, pa.int64()),
        "caption": pa.nulls(count, pa.string()),
        "file": pa.repeat(str(tar), count),
        "stamp": pa.repeat(pa.scalar(status.st_mtime_ns, pa.int64()), count),
        "members": index["members"],
        "image": index["image"],
    }
    return pa.table(columns, schema=ROWS)


def _left_out(tar: Path, facts: dict[str, Any]) -> list[str]:
    notes = []
    if facts["skipped_members"]:
        notes.append(f"{tar.name}: {facts['skipped_members']} members belong to no sample and are left out")
    if facts["without_image"]:
        notes.append(
            f"{tar.name}: {facts['without_image']} samples have no image and are left out "
            f"(the first is '{facts['first_without_image']}')"
        )
    return notes
