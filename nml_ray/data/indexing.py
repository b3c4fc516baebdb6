"""From tars to a data set: indices beside them, checks over all of them, dataset.json."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset, column
from nml_ray.data.dataset_info import FILE, DatasetInfo, ShardInfo, read_info, save_info
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.data.index import (
    IndexOptions,
    index_checksum,
    index_facts,
    index_path,
    index_tar,
    read_index,
    write_index,
)
from nml_ray.data.remote_indexing import workplace
from nml_ray.data.rows import key_order, keys_equal_after_nfc, refuse_duplicates, rows_digest
from nml_ray.storage import remote
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location

Progress = Callable[[int, int], None]


def index_directory(
    directory: "Path | str | Location",
    classes: Sequence[str] | None = None,
    *,
    key_prefix: str = "",
    image: str = "",
    source: str = "",
    licence: str = "",
    progress: Progress | None = None,
) -> DatasetInfo:
    """Index every `*.tar` below a directory and write its dataset.json; tars whose index is fresh are not read again.

    Args:
        directory: searched with its subdirectories, or a URL; indices are written beside the tars.
        classes: class names in label order; without them those of an earlier dataset.json are kept, else labels
            must be numbers, and K is the largest plus one.
        key_prefix, image: see `IndexOptions`.
        source, licence: kept in dataset.json (those of an earlier one if not given).
        progress: called with (tars done, tars in all).

    Raises:
        UserError: as `index_tar`; also duplicates across tars, two tars of one base name, no tar at all.
    """
    place = followed(directory)
    if isinstance(place, Link):
        return _index_remote(place.location, classes, (key_prefix, image), (source, licence), progress)
    directory = place
    known, classes, source, licence = _earlier(directory, classes, source, licence)
    options = IndexOptions(tuple(classes) if classes is not None else None, key_prefix, image)
    found = (path for path in directory.rglob("*.tar") if path.is_file() and not path.name.startswith("."))
    tars = sorted(found, key=lambda path: (path.name, path))
    names = [tar.relative_to(directory).as_posix() for tar in tars]
    _check_names(names, str(directory))
    for done, (tar, name) in enumerate(zip(tars, names, strict=True)):
        if not is_fresh(tar, options, known.get(name)):
            write_index(index_tar(tar, options), index_path(tar))
        if progress:
            progress(done + 1, len(tars))
    return write_info(directory, names, classes, source, licence)


def _index_remote(
    location: Location,
    classes: Sequence[str] | None,
    reading: tuple[str, str],
    origin: tuple[str, str],
    progress: Progress | None,
) -> DatasetInfo:
    """`index_directory` on an object store: dataset.json is put there last."""
    with tempfile.TemporaryDirectory(prefix="nml-ray-") as aside:
        place = workplace(location, Path(aside))
        _check_names(place.tars, str(location))
        _, classes, source, licence = _earlier(place.path, classes, *origin)
        options = IndexOptions(tuple(classes) if classes is not None else None, *reading)
        place.bring_indices()
        stale = place.stale(options)
        done = len(place.tars) - len(stale)

        def tell(_: str) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, len(place.tars))

        if progress and done:
            progress(done, len(place.tars))
        place.index(stale, options, tell)
        info = write_info(place.path, place.tars, classes, source, licence)
        remote.upload(place.path / FILE, location / FILE)
        return info


def _earlier(
    directory: Path, classes: Sequence[str] | None, source: str, licence: str
) -> tuple[dict[str, int], Sequence[str] | None, str, str]:
    """The CRCs of the indices that an earlier dataset.json knows; classes, source and licence completed from it."""
    if not (directory / FILE).exists():
        return {}, classes, source, licence
    earlier = read_info(directory)
    named = earlier.classes != _numbers(len(earlier.classes))
    classes = earlier.classes if classes is None and named else classes
    known = {shard.name: shard.index_crc32 for shard in earlier.shards}
    return known, classes, source or earlier.source, licence or earlier.licence


def _check_names(tars: Sequence[str], directory: str) -> None:
    if not tars:
        raise UserError("holds no .tar", where=directory, expected="a directory of WebDataset tars")
    seen: dict[str, str] = {}
    for tar in tars:
        name = tar.rpartition("/")[2]
        if name in seen:
            where = f"{directory}: {seen[name]}, {tar}"
            raise UserError(f"two tars are named {name}", where=where, expected="different names")
        seen[name] = tar


def write_info(
    directory: Path,
    names: Sequence[str],
    classes: Sequence[str] | None,
    source: str = "",
    licence: str = "",
    known_bad: Sequence[str] = (),
) -> DatasetInfo:
    """Write dataset.json for tars whose indices exist; known bad keys of an earlier one stay if they still exist.

    Args:
        directory: holds the indices.
        names: of the tars.
        classes, source, licence: kept in it.
        known_bad: more keys, of samples in the tars.

    Raises:
        UserError: keys that are not unique over all tars.
    """
    tables = [read_index(index_path(directory / name)) for name in names]
    rows = pa.concat_tables([table.select(["key", "content", "label", "caption"]) for table in tables])
    bounds = np.cumsum([0, *(table.num_rows for table in tables)])
    hashes = column(tables, "key_hash")
    refuse_duplicates(hashes, rows["key"], names, bounds)
    facts = [index_facts(table) for table in tables]
    shards = tuple(
        ShardInfo(
            name=name,
            samples=table.num_rows,
            bytes=fact["tar_bytes"],
            digest=rows_digest(table),
            index_crc32=index_checksum(index_path(directory / name)),
        )
        for name, table, fact in zip(names, tables, facts, strict=True)
    )
    largest = pc.max(rows["label"]).as_py()
    bad = tuple(sorted({*_still_known_bad(directory, hashes), *known_bad}))
    order = key_order(rows)
    if bad:
        order = order[~np.isin(hashes[order], key_hashes(bad))]
    info = DatasetInfo(
        classes=tuple(classes) if classes is not None else _numbers(0 if largest is None else largest + 1),
        shards=shards,
        samples=rows.num_rows,
        digest=rows_digest(rows, order),
        known_bad=bad,
        key_prefix=facts[0]["options"]["prefix"],
        source=source,
        licence=licence,
        warnings=tuple(_warnings(names, facts, rows, hashes)),
    )
    save_info(directory, info)
    return info


def set_known_bad(directory: "Path | str | Location | Link", keys: Sequence[str]) -> DatasetInfo:
    """Record which samples are excluded (all of them, not in addition); the data set's digest follows.

    Raises:
        UserError: a key that the data set does not have.
    """
    dataset = Dataset.open(directory)
    missing = ~np.isin(key_hashes(keys), dataset.key_hash)
    if missing.any():
        key = next(key for key, gone in zip(keys, missing, strict=True) if gone)
        raise UserError(f"key '{key}' is not in the data set", where=str(directory), expected="keys of its samples")
    rows = pa.concat_tables([table.select(["key", "content", "label", "caption"]) for table in dataset.tables])
    order = key_order(rows)
    order = order[~np.isin(dataset.key_hash[order], key_hashes(keys))]
    changes = {"known_bad": tuple(sorted(keys)), "digest": rows_digest(rows, order)}
    info = dataset.info.model_copy(update=changes)
    place = dataset.directory
    save_info(place if place.remote else place.local, info)
    return info


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(c) for c in range(count))


def _warnings(names: Sequence[str], facts: Sequence[dict[str, Any]], rows: pa.Table, hashes: Draws) -> Iterator[str]:
    if skipped := sum(fact["skipped_members"] for fact in facts):
        yield f"{skipped} members belong to no sample (no dot in the name, or nothing before it): skipped"
    if imageless := sum(fact["without_image"] for fact in facts):
        first = next(fact["first_without_image"] for fact in facts if fact["without_image"])
        yield f"{imageless} samples have no image (the first is '{first}'): skipped"
    empty = [name for name, fact in zip(names, facts, strict=True) if not fact["rows"]]
    if empty:
        yield f"{len(empty)} tars have no sample (the first is {empty[0]})"
    if alike := keys_equal_after_nfc(rows["key"], hashes):
        yield f"{len(alike)} keys equal another after Unicode normalisation (the first is '{alike[0]}')"
    if (unlabelled := rows["label"].null_count) and unlabelled < rows.num_rows:
        yield f"{unlabelled} of {rows.num_rows} samples have no label"


def _still_known_bad(directory: Path, hashes: Draws) -> tuple[str, ...]:
    if not (directory / FILE).exists():
        return ()
    keys = read_info(directory).known_bad
    return tuple(key for key, known in zip(keys, np.isin(key_hashes(keys), hashes), strict=True) if known)


def is_fresh(tar: Path, options: IndexOptions, checksum: int | None = None) -> bool:
    """Whether the index beside a tar was made with these options, after the tar was last changed, and is undamaged."""
    path = index_path(tar)
    if not path.exists() or path.stat().st_mtime_ns < tar.stat().st_mtime_ns:
        return False
    try:
        facts = index_facts(read_index(path, checksum))
    except UserError:
        return False
    return facts["tar_bytes"] == tar.stat().st_size and facts["options"] == options.facts()
