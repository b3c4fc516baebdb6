"""From tars to a data set: indices beside them, checks over all of them, dataset.json."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers, numbers_for
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
from nml_ray.data.processes import spread
from nml_ray.data.remote_indexing import workplace
from nml_ray.data.rows import key_order, keys_equal_after_nfc, refuse_duplicates, rows_digest, same_content
from nml_ray.storage import remote
from nml_ray.storage.atomic import sync_directory
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location

Progress = Callable[[int, int], None]


def index_directory(
    directory: "Path | str | Location",
    classes: Sequence[str] | None = None,
    *,
    key_prefix: str | None = None,
    image: str | None = None,
    source: str = "",
    licence: str = "",
    workers: int = 1,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Index every `*.tar` below a directory and write its dataset.json; tars whose index is fresh are not read again.

    What is not given is that of an earlier dataset.json. Indices that it knows are replaced together, when all of the
    new ones are made: an error leaves the data set as it was.

    Args:
        directory: searched with its subdirectories, or a URL; indices are written beside the tars.
        classes: class names in label order; where there never were any, labels must be numbers, and K is the largest
            plus one, or what it was.
        key_prefix, image: see `IndexOptions`.
        source, licence: kept in dataset.json.
        workers: processes; an object store is indexed by one.
        progress: called with (tars done, tars in all).

    Raises:
        UserError: as `index_tar`; also duplicates across tars, two tars of one base name, no tar at all.
    """
    place = followed(directory)
    wanted = (classes, key_prefix, image, source, licence)
    if isinstance(place, Link):
        return _index_remote(place.location, wanted, progress)
    directory = place
    plan = _Plan.of(directory, *wanted)
    found = (path for path in directory.rglob("*.tar") if path.is_file() and not path.name.startswith("."))
    names = [tar.relative_to(directory).as_posix() for tar in sorted(found, key=lambda path: (path.name, path))]
    _check_names(names, str(directory))
    known = {shard.name: shard.index_crc32 for shard in plan.earlier.shards} if plan.earlier else {}
    stale = [name for name in names if not is_fresh(directory / name, plan.options, known.get(name))]
    targets = {name: index_path(directory / name) for name in names}
    aside = {name: targets[name].with_name(f".{targets[name].name}.new") for name in stale if name in known}
    if progress:
        progress(len(names) - len(stale), len(names))
    try:
        pieces = [(directory / name, plan.options, aside.get(name, targets[name])) for name in stale]
        for done, _ in enumerate(spread(_index_one, pieces, max(1, min(workers, len(pieces)))), 1):
            if progress:
                progress(len(names) - len(stale) + done, len(names))
        info = _described(directory, targets | aside, plan.classes, plan.source, plan.licence)
        for name, path in aside.items():
            os.replace(path, targets[name])
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
    for parent in {targets[name].parent for name in aside}:
        sync_directory(parent)
    save_info(directory, info)
    return info


@dataclass(frozen=True)
class _Plan:
    """What a data set is to be like, completed from its earlier dataset.json, if it has one."""

    classes: tuple[str, ...] | None
    options: IndexOptions
    source: str
    licence: str
    earlier: DatasetInfo | None

    @classmethod
    def of(
        cls,
        directory: Path,
        classes: Sequence[str] | None,
        key_prefix: str | None,
        image: str | None,
        source: str,
        licence: str,
    ) -> "_Plan":
        earlier = _earlier(directory)
        if earlier:
            classes = earlier.classes if classes is None and not are_numbers(earlier.classes) else classes
            key_prefix = earlier.key_prefix if key_prefix is None else key_prefix
            image = earlier.image if image is None else image
            source, licence = source or earlier.source, licence or earlier.licence
        names = tuple(classes) if classes is not None else None
        return cls(names, IndexOptions(names, key_prefix or "", image or ""), source, licence, earlier)


def _earlier(directory: Path) -> DatasetInfo | None:
    return read_info(directory) if (directory / FILE).exists() else None


def _index_one(piece: tuple[Path, IndexOptions, Path]) -> None:
    tar, options, target = piece
    write_index(index_tar(tar, options), target)


def _index_remote(
    location: Location,
    wanted: tuple[Sequence[str] | None, str | None, str | None, str, str],
    progress: Progress | None,
) -> DatasetInfo:
    """`index_directory` on an object store: dataset.json is put there last."""
    with tempfile.TemporaryDirectory(prefix="nml-ray-") as aside:
        place = workplace(location, Path(aside))
        _check_names(place.tars, str(location))
        plan = _Plan.of(place.path, *wanted)
        place.bring_indices()
        stale = place.stale(plan.options)
        known = {shard.name for shard in plan.earlier.shards} if plan.earlier else set()
        done = len(place.tars) - len(stale)

        def tell(_: str) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, len(place.tars))

        if progress:
            progress(done, len(place.tars))
        held = [name for name in stale if name in known]
        place.index(stale, plan.options, tell, held)
        info = write_info(place.path, place.tars, plan.classes, plan.source, plan.licence)
        place.put_indices(held)
        remote.upload(place.path / FILE, location / FILE)
        return info


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
    bad_before: Mapping[str, bytes] = MappingProxyType({}),
) -> DatasetInfo:
    """Write dataset.json for tars whose indices exist; known bad keys of an earlier one stay if they still exist.

    Args:
        directory: holds the indices.
        names: of the tars.
        classes, source, licence: kept in it; without classes they are numbers.
        known_bad: more keys, of samples in the tars.
        bad_before: more keys, each known to be bad where it still has the image of this content digest.

    Raises:
        UserError: keys that are not unique over all tars.
    """
    indices = {name: index_path(directory / name) for name in names}
    info = _described(directory, indices, classes, source, licence, known_bad, bad_before)
    save_info(directory, info)
    return info


def _described(
    directory: Path,
    indices: Mapping[str, Path],
    classes: Sequence[str] | None,
    source: str,
    licence: str,
    known_bad: Sequence[str] = (),
    bad_before: Mapping[str, bytes] = MappingProxyType({}),
) -> DatasetInfo:
    """The dataset.json of tars, by name, with these indices; the earlier one is that of `directory`."""
    earlier, names = _earlier(directory), list(indices)
    tables = [read_index(path) for path in indices.values()]
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
            index_crc32=index_checksum(path),
        )
        for (name, path), table, fact in zip(indices.items(), tables, facts, strict=True)
    )
    before = earlier.known_bad if earlier else ()
    kept = {*_there(before, hashes), *known_bad, *same_content(rows, hashes, bad_before)}
    order = key_order(rows)
    if kept:
        order = order[~np.isin(hashes[order], key_hashes(sorted(kept)))]
    numbered = numbers_for(pc.max(rows["label"]).as_py(), earlier.classes if earlier else ())
    lost = sorted({*before, *bad_before} - kept)
    return DatasetInfo(
        classes=tuple(classes) if classes is not None else numbered,
        shards=shards,
        samples=rows.num_rows,
        digest=rows_digest(rows, order),
        known_bad=tuple(sorted(kept)),
        key_prefix=facts[0]["options"]["prefix"],
        image=facts[0]["options"]["image"],
        source=source,
        licence=licence,
        warnings=(*_warnings(names, facts, rows, hashes), *_lost(lost)),
    )


def _lost(keys: Sequence[str]) -> Iterator[str]:
    if keys:
        yield f"{len(keys)} samples known to be bad are gone, or have other images (the first is '{keys[0]}')"


def _there(keys: Sequence[str], hashes: Draws) -> list[str]:
    """Those keys that the data has."""
    return [key for key, known in zip(keys, np.isin(key_hashes(keys), hashes), strict=True) if known]


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
