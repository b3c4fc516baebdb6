"""A listing becomes a data set of shuffled tars: in parallel, in bounded memory, going on where it was stopped."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.class_names import are_numbers
from nml_ray.data.dataset_info import DatasetInfo
from nml_ray.data.decode import UndecodableImage
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.data.index import IndexOptions, index_path, index_tar, with_facts, write_index
from nml_ray.data.indexing import Progress
from nml_ray.data.processes import spread
from nml_ray.data.resize import Resize, resized
from nml_ray.data.sharding_place import PLAN, Place, put_shard, writing_to
from nml_ray.data.shards import SHARD_NAME, annotations, shuffled, write_tar
from nml_ray.data.sources.listing import Listing
from nml_ray.data.sources.remote_tars import remote_members
from nml_ray.storage.digest import digest_of
from nml_ray.storage.link import Link
from nml_ray.storage.location import Location
from nml_ray.storage.scratch import scratch

VERSION = 1


@dataclass(frozen=True)
class Written:
    """A data set that was written.

    Attributes:
        info: dataset.json.
        kept: shards of an earlier run that were right already.
        not_resized: keys of images that could not be decoded, and are in the tars as they came.
    """

    info: DatasetInfo
    kept: int
    not_resized: tuple[str, ...]


@dataclass(frozen=True)
class ShardPlan:
    """One tar to be made of the rows of a listing (in their order).

    Attributes:
        path: of the tar; it may lie on an object store.
        source: `Listing.link`.
    """

    path: Path | Location
    rows: pa.Table
    options: IndexOptions
    resize: Resize | None
    source: Link | None = None

    def digest(self) -> str:
        """Over all that fixes the tar's bytes: keys, annotations, where the members lie and their stamps."""
        rows = hashlib.sha256()
        for row in self.rows.drop_columns(["file"]).to_pylist():
            rows.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        resize = vars(self.resize) if self.resize else None
        return digest_of([VERSION, rows.hexdigest(), resize, self.options.facts()])


WriteShards = Callable[[Iterable[ShardPlan]], Iterator[tuple[int, list[str]]]]
"""Carries out `write_shard` for each plan, anywhere; what it returned, as it is done."""


def write_listing(
    listing: Listing,
    directory: Path | Location,
    *,
    samples_per_shard: int,
    seed: int = 0,
    resize: Resize | None = None,
    workers: int = 1,
    elsewhere: WriteShards | None = None,
    overwrite: bool = False,
    source: str = "",
    licence: str = "",
    progress: Progress | None = None,
) -> Written:
    """Write a listing as shuffled tars with their indices and dataset.json.

    The shuffle is drawn from the keys (see `shuffled`), then each tar is written in one pass over its samples, one
    image in memory at a time; it appears whole. Tars of an earlier run with the same content are kept. For an object
    store each is written to a temporary directory, one at a time in each process, and uploaded with its index.

    Args:
        listing: what to write.
        directory: made if need be; or on an object store.
        samples_per_shard: the last shard may hold fewer.
        seed: of the shuffle.
        resize: make images smaller; None keeps their bytes.
        workers: local processes.
        elsewhere: writes the tars instead of them, on machines that see the same files by the same absolute paths.
        overwrite: replace a finished data set that differs; samples known to be bad stay so with the same image.
        source, licence: kept in dataset.json.
        progress: called with (samples done, samples in all).

    Raises:
        UserError: keys that are not unique; an image that cannot be read; a directory with other tars or another
            finished data set; tars written elsewhere that are not seen from here; an object store that cannot be
            reached, or written.
    """
    hashes = key_hashes(_keys(listing.rows))
    _refuse_duplicates(listing.rows, hashes, listing.distinct)
    order = shuffled(hashes, seed)
    names = [SHARD_NAME.format(number) for number in range(-(-len(order) // samples_per_shard))]
    options = _options(listing, resize)
    not_resized: list[str] = []
    with writing_to(directory) as place:
        _refuse_others(place, names, overwrite, directory)
        todo = _todo(place.plans(names, options), _plans(listing, directory, order, samples_per_shard, resize))
        bad = place.bad() if todo else {}
        _refuse_finished(place, len(todo), overwrite, directory)
        done = len(order) - sum(todo.values())
        if progress:
            progress(done, len(order))
        waiting = _plans(listing, directory, order, samples_per_shard, resize, set(todo))
        for samples, failures in (elsewhere or _here(min(workers, max(1, len(todo)))))(waiting):
            not_resized += failures
            done += samples
            if progress:
                progress(done, len(order))
        for name in place.tars():  # of a longer data set that was overwritten
            if name not in names and _numbered(name):
                place.remove(name)
        new = [names[number] for number in todo]
        info = place.finish(names, new, listing.classes, (source, licence), listing.known_bad, bad)
    return Written(info, len(names) - len(todo), tuple(sorted(not_resized)))


def _todo(made: Mapping[str, str], plans: Iterable[ShardPlan]) -> dict[int, int]:
    """The numbers of those plans that have not been carried out, each with its samples. `made`: see `Place.plans`."""
    return {
        number: plan.rows.num_rows
        for number, plan in enumerate(plans)
        if plan.path.name not in made or made[plan.path.name] != plan.digest()
    }


def _here(processes: int) -> WriteShards:
    return lambda plans: spread(write_shard, plans, processes)


def write_shard(plan: ShardPlan) -> tuple[int, list[str]]:
    """Write one tar and its index; the number of samples, and the keys of those that could not be decoded.

    Raises:
        UserError: an image that cannot be read, or another one than was listed; a full disk; an object store that
            cannot be reached, or written.
    """
    if isinstance(plan.path, Path):
        return plan.rows.num_rows, _write(plan, plan.path)
    with scratch(str(plan.path)) as directory:
        tar = directory / plan.path.name
        try:
            failures = _write(plan, tar)
        except UserError as error:
            raise UserError(str(error).replace(str(tar), f"{plan.path} (written to {directory} first)")) from None
        put_shard(tar, plan.path)
    return plan.rows.num_rows, failures


def _write(plan: ShardPlan, tar: Path) -> list[str]:
    failures: list[str] = []
    try:
        write_tar(tar, _samples(plan, failures))
        index = with_facts(index_tar(tar, plan.options), **{PLAN: plan.digest()})
        write_index(index, index_path(tar))
    except OSError as error:
        reason = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
        raise UserError(reason, where=str(tar), expected="readable images and room on the disk") from None
    return failures


def _samples(plan: ShardPlan, failures: list[str]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for row in plan.rows.to_pylist():
        members = remote_members(plan.source, row) if plan.source else _read(row)
        if plan.resize:
            extension = row["members"][row["image"]]["extension"]
            try:
                smaller = resized(members[extension], plan.resize)
            except UndecodableImage:
                failures.append(row["key"])
                smaller = None
            if smaller is not None:
                del members[extension]
                members[_jpeg(extension)] = smaller
        yield row["key"], {**members, **annotations(row["label"], row["caption"])}


def _read(row: Mapping[str, object]) -> dict[str, bytes]:
    """Members of a sample by extension."""
    found = {}
    with open(str(row["file"]), "rb") as file:
        for member in row["members"]:  # type: ignore[attr-defined]
            file.seek(member["offset"])
            found[member["extension"]] = file.read(member["size"])
            if len(found[member["extension"]]) != member["size"]:
                raise UserError(
                    f"ends before the {member['size']} bytes of '{row['key']}'",
                    where=str(row["file"]),
                    expected="the file that was listed",
                )
    return found


def _jpeg(extension: str) -> str:
    """The extension of an image that became a JPEG: `left.png` becomes `left.jpg`."""
    before, dot, last = extension.rpartition(".")
    return extension if last in ("jpg", "jpeg") else f"{before}{dot}jpg"


def _plans(
    listing: Listing,
    directory: Path | Location,
    order: NDArray[np.int64],
    samples_per_shard: int,
    resize: Resize | None,
    only: set[int] | None = None,
) -> Iterator[ShardPlan]:
    options = _options(listing, resize)
    for number, start in enumerate(range(0, len(order), samples_per_shard)):
        if only is None or number in only:
            rows = listing.take(order[start : start + samples_per_shard])
            yield ShardPlan(directory / SHARD_NAME.format(number), rows, options, resize, listing.link)


def _options(listing: Listing, resize: Resize | None) -> IndexOptions:
    image = listing.image if resize is None or not listing.image else _jpeg(listing.image)
    return IndexOptions(None if are_numbers(listing.classes) else listing.classes, image=image)


def _keys(rows: pa.Table) -> Iterator[str]:
    for chunk in rows["key"].chunks:
        yield from chunk.to_pylist()


def _refuse_duplicates(rows: pa.Table, hashes: Draws, distinct: str) -> None:
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if not len(twice):
        return
    first, second = (rows.slice(int(row), 1).to_pylist()[0] for row in sorted(order[twice[0] : twice[0] + 2]))
    same = f"key '{first['key']}' comes twice"
    if first["key"] != second["key"]:
        same = f"keys '{first['key']}' and '{second['key']}' have the same 64-bit hash"
    raise UserError(
        f"{same}, from {first['file']} and from {second['file']}; {len(twice)} such pairs in all",
        expected=distinct,
    )


def _refuse_others(place: Place, names: list[str], overwrite: bool, directory: Path | Location) -> None:
    """Tars that a later `data index` would take for part of the data set."""
    foreign = [name for name in place.tars() if name not in names and not (overwrite and _numbered(name))]
    if foreign:
        raise UserError(
            f"holds {len(foreign)} other tars, such as {foreign[0]}",
            where=str(directory),
            expected="an empty directory, or what an earlier run of this command left, or --overwrite",
        )


def _refuse_finished(place: Place, changes: int, overwrite: bool, directory: Path | Location) -> None:
    """A finished data set is replaced only when asked; its dataset.json goes first."""
    if not changes or not place.finished():
        return
    if not overwrite:
        raise UserError(
            f"holds a finished data set, {changes} of whose shards would change",
            where=str(directory),
            expected="another directory, or --overwrite",
        )
    place.unfinish()


def _numbered(name: str) -> bool:
    return re.fullmatch(r"shard-\d{6,}\.tar", name) is not None
