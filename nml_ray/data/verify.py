"""Is a data set still what was indexed, and can all of it be decoded? Everything is looked at; nothing stops early."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import column
from nml_ray.data.dataset_info import DatasetInfo, ShardInfo, read_info
from nml_ray.data.decode import UndecodableImage, decode_image
from nml_ray.data.draw import Draws, key_hashes
from nml_ray.data.files import files_of
from nml_ray.data.index import TEXT, IndexOptions, index_facts, index_path, index_tar, read_index
from nml_ray.data.indexing import Progress, set_known_bad
from nml_ray.data.processes import spread
from nml_ray.data.rows import key_order, rows_digest
from nml_ray.storage.link import Link, followed
from nml_ray.storage.location import Location

CHECKS = ("tars", "indices", "content", "labels", "keys", "digest", "images")
NAMED = 20  # keys named for each shard and check


@dataclass(frozen=True)
class Problem:
    """Something wrong: which of `CHECKS`, where (a tar), what, and how many samples or files it is."""

    check: str
    where: str
    what: str
    count: int = 1


@dataclass(frozen=True)
class Undecodable:
    """An image that cannot be decoded."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        info: dataset.json.
        looked_at: how many things each check looked at.
        problems: what is wrong, undecodable images apart.
        undecodable: images that cannot be decoded and are not known to be bad.
        known_bad: samples that dataset.json excludes.
        mended: those of them that can be decoded.
        marked: whether dataset.json now excludes the undecodable images.
    """

    info: DatasetInfo
    looked_at: dict[str, int]
    problems: tuple[Problem, ...]
    undecodable: tuple[Undecodable, ...]
    known_bad: int
    mended: tuple[str, ...]
    marked: bool = False

    @property
    def sound(self) -> bool:
        """Nothing is wrong, or it is excluded from now on."""
        return not self.problems and (self.marked or not self.undecodable)


@dataclass(frozen=True)
class ShardTask:
    """One shard to look at."""

    place: Link | Path
    shard: ShardInfo
    classes: tuple[str, ...]
    key_prefix: str
    known_bad: frozenset[str]
    decode: bool


@dataclass
class ShardFindings:
    """What one shard is like."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    undecodable: list[Undecodable] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    samples: int = 0
    decoded: int = 0


def verify(
    directory: "Path | str | Location",
    *,
    decode: bool = True,
    mark_bad: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Verdict:
    """Read every tar through, compare it with its index and dataset.json, and decode every image.

    Args:
        directory: of a data set, or its URL.
        decode: also decode (most of the time).
        mark_bad: exclude undecodable images: add them to dataset.json's `known_bad`, if nothing else is wrong.
        workers: processes.
        progress: called with (samples done, samples in all).

    Raises:
        UserError: no dataset.json.
    """
    place = followed(directory)
    info = read_info(place)
    bad = frozenset(info.known_bad)
    tasks = (ShardTask(place, shard, info.classes, info.key_prefix, bad, decode) for shard in info.shards)
    findings: dict[str, ShardFindings] = {}
    sizes, done = {shard.name: shard.samples for shard in info.shards}, 0
    if progress:
        progress(0, info.samples)
    for found in spread(look_at, tasks, max(1, min(workers, len(info.shards)))):
        findings[found.name] = found
        done += sizes[found.name]
        if progress:
            progress(done, info.samples)
    parts = [findings[shard.name] for shard in info.shards]
    problems = [problem for part in parts for problem in part.problems]
    with files_of(place).indices() as indices:
        problems += _over_all(indices, info)
    undecodable = tuple(one for part in parts for one in part.undecodable)
    samples = sum(part.samples for part in parts)
    looked_at = {
        **dict.fromkeys(("tars", "indices"), len(parts)),
        **dict.fromkeys(("content", "labels", "keys"), samples),
        "digest": 1,
        "images": sum(part.decoded for part in parts),
    }
    mended = tuple(key for part in parts for key in part.mended)
    marked = bool(mark_bad and undecodable and not problems)
    if marked:
        set_known_bad(place, sorted({*bad, *(one.key for one in undecodable)}))
    return Verdict(info, looked_at, tuple(problems), undecodable, len(bad), mended, marked)


def look_at(task: ShardTask) -> ShardFindings:
    """Everything that can be seen in one shard alone."""
    with files_of(task.place).checkout(task.shard) as directory:
        found = _look_at(task, directory / task.shard.name)
    here, there = str(directory), str(task.place)  # the user knows of no temporary directory
    found.problems = [replace(problem, what=problem.what.replace(here, there)) for problem in found.problems]
    return found


def _look_at(task: ShardTask, tar: Path) -> ShardFindings:
    found = ShardFindings(task.shard.name)
    problem = _reporter(found)
    if not tar.is_file():
        problem("tars", "is missing")
        return found
    size = tar.stat().st_size
    if size != task.shard.bytes:
        problem("tars", f"has {size:,} bytes, not the {task.shard.bytes:,} of dataset.json")
    index = _index(task, tar, found)
    options = IndexOptions(task.classes or None, task.key_prefix)
    if index is not None:
        facts = index_facts(index)["options"]
        options = IndexOptions(tuple(facts["classes"]) if facts["classes"] else None, facts["prefix"], facts["image"])
    try:
        again = index_tar(tar, options)
    except (UserError, OSError) as error:
        problem("content", str(error).removeprefix(f"{tar}: "))
        return found
    found.samples = again.num_rows
    before = len(found.problems)
    if index is not None:
        _compare(index, again, found)
    if len(found.problems) == before and rows_digest(again) != task.shard.digest:
        problem("content", "its digest is not that of dataset.json")
    _check_labels(again, task, found)
    older = index is not None and index_path(tar).stat().st_mtime_ns < tar.stat().st_mtime_ns
    if older and len(found.problems) > before:
        problem("indices", "is older than the tar, and no longer fits it")
    if task.decode:
        _decode(tar, again, task, found)
    return found


def _reporter(found: ShardFindings) -> Callable[[str, str], None]:
    def problem(check: str, what: str) -> None:
        found.problems.append(Problem(check, found.name, what))

    return problem


def _index(task: ShardTask, tar: Path, found: ShardFindings) -> pa.Table | None:
    path = index_path(tar)
    try:
        index = read_index(path, task.shard.index_crc32)
    except UserError as error:
        found.problems.append(Problem("indices", found.name, str(error).removeprefix(f"{path}: ")))
        return None
    if index.num_rows != task.shard.samples:
        what = f"has {index.num_rows:,} samples, not the {task.shard.samples:,} of dataset.json"
        found.problems.append(Problem("indices", found.name, what))
    return index


def _compare(index: pa.Table, again: pa.Table, found: ShardFindings) -> None:
    """Name the samples in which the tar differs from its index."""
    if not index["key"].equals(again["key"]):
        before, now = set(index["key"].to_pylist()), set(again["key"].to_pylist())
        what = f"holds other samples than its index: {len(now - before)} new, {len(before - now)} gone"
        found.problems.append(Problem("content", found.name, what, max(1, len(now ^ before))))
        return
    for name, noun in (("content", "images"), ("label", "labels"), ("caption", "captions"), ("members", "members")):
        if index[name].equals(again[name]):
            continue
        both = zip(index[name].to_pylist(), again[name].to_pylist(), strict=True)
        places = np.array([i for i, (old, new) in enumerate(both) if old != new])
        what = f"{noun} differ from the index: {_few(again['key'].take(pa.array(places)).to_pylist())}"
        found.problems.append(Problem("content", found.name, what, len(places)))


def _check_labels(rows: pa.Table, task: ShardTask, found: ShardFindings) -> None:
    labels = rows["label"]
    wrong = pc.fill_null(pc.or_(pc.less(labels, 0), pc.greater_equal(labels, len(task.classes))), False)
    if keys := rows.filter(wrong)["key"].to_pylist():
        what = f"labels beyond 0 to {len(task.classes) - 1}: {_few(keys)}"
        found.problems.append(Problem("labels", found.name, what, len(keys)))


def _decode(tar: Path, rows: pa.Table, task: ShardTask, found: ShardFindings) -> None:
    with open(tar, "rb") as file:
        for key, members, image in zip(*(rows[name].to_pylist() for name in ("key", "members", "image")), strict=True):
            member = members[image]
            file.seek(member["offset"])
            found.decoded += 1
            try:
                if member["extension"] != TEXT:  # a text was read for the index
                    decode_image(file.read(member["size"]), 3)
            except UndecodableImage as error:
                if key not in task.known_bad:
                    found.undecodable.append(Undecodable(found.name, key, str(error)))
            else:
                if key in task.known_bad:
                    found.mended.append(key)


def _over_all(directory: Path, info: DatasetInfo) -> Iterator[Problem]:
    """Duplicates and digest over all indices that can be read."""
    tables, names = [], []
    for shard in info.shards:
        try:
            tables.append(read_index(index_path(directory / shard.name)))
        except UserError:
            continue
        names.append(shard.name)
    if not info.shards:
        yield Problem("digest", "dataset.json", "names no tar")
    if not tables:
        return
    counted = sum(table.num_rows for table in tables)
    whole = len(tables) == len(info.shards)
    if whole and counted != info.samples:
        yield Problem("digest", "dataset.json", f"counts {info.samples:,} samples, the indices {counted:,}")
    rows = pa.concat_tables([table.select(["key", "content", "label", "caption"]) for table in tables])
    hashes = column(tables, "key_hash")
    yield from _duplicates(hashes, rows["key"], names, [table.num_rows for table in tables])
    strays = np.isin(key_hashes(info.known_bad), hashes, invert=True)
    if whole and strays.any():
        gone = [key for key, stray in zip(info.known_bad, strays, strict=True) if stray]
        yield Problem("keys", "dataset.json", f"known bad samples that do not exist: {_few(gone)}", len(gone))
    order = key_order(rows)
    order = order[~np.isin(hashes[order], key_hashes(info.known_bad))]
    if whole and rows_digest(rows, order) != info.digest:
        yield Problem("digest", "dataset.json", "its digest is not that of the indices")


def _duplicates(hashes: Draws, keys: pa.ChunkedArray, names: Sequence[str], sizes: Sequence[int]) -> Iterator[Problem]:
    order = np.argsort(hashes, kind="stable")
    second = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if not len(second):
        return
    starts = np.cumsum([0, *sizes])
    for at in second[:NAMED]:
        one, other = sorted((int(order[at]), int(order[at + 1])))
        places = [names[int(np.searchsorted(starts, row, side="right")) - 1] for row in (one, other)]
        yield Problem("keys", places[1], f"key '{keys[other].as_py()}' is also in {places[0]}")
    if (more := len(second) - NAMED) > 0:
        yield Problem("keys", "dataset.json", f"{more:,} more duplicate keys", more)


def _few(keys: Sequence[str]) -> str:
    shown = ", ".join(map(str, keys[:NAMED]))
    return shown + (f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else "")
