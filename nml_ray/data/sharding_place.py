"""Where shards are written: a local directory, or an object store, to which each is uploaded when it is finished.

On an object store an old index is removed first and the new one put last: one that is there says what its tar is.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import FILE, DatasetInfo, read_info
from nml_ray.data.index import IndexOptions, index_facts, index_path, read_index
from nml_ray.data.indexing import is_fresh, write_info
from nml_ray.data.remote_indexing import THREADS, Workplace, workplace
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from nml_ray.storage.scratch import scratch

PLAN = "plan"  # the fact of an index that says from what, and how, its tar was made
SEEN_AFTER = 90.0  # seconds; NFS asks about a directory again after a minute at most


class Place(Protocol):
    """A directory, as the writer of its shards sees it."""

    def tars(self) -> list[str]:
        """All tars below it, sorted."""
        ...

    def finished(self) -> bool:
        """Whether it has a dataset.json."""
        ...

    def unfinish(self) -> None:
        """Remove its dataset.json."""
        ...

    def bad(self) -> dict[str, bytes]:
        """The known bad samples of the finished data set, if there is one, and the content digests of their images."""
        ...

    def plans(self, names: Sequence[str], options: IndexOptions) -> dict[str, str]:
        """The facts `PLAN` of those tars that are there, and indexed since with these options."""
        ...

    def remove(self, tar: str) -> None:
        """Remove a tar and its index."""
        ...

    def finish(
        self,
        names: Sequence[str],
        new: Sequence[str],
        classes: Sequence[str],
        origin: tuple[str, str],
        known_bad: Sequence[str],
        bad_before: Mapping[str, bytes],
    ) -> DatasetInfo:
        """Write dataset.json. `new`: the tars that were written since `plans`; `origin`: source and licence.
        `bad_before`: see `write_info`."""
        ...


@contextmanager
def writing_to(directory: "Path | Location") -> Iterator[Place]:
    """A local directory, made if need be, or one of an object store.

    Raises:
        UserError: no such bucket, no access, no answer.
    """
    if isinstance(directory, Path):
        directory.mkdir(parents=True, exist_ok=True)
        for part in directory.glob(".shard-*.part"):  # of a run that was killed
            part.unlink()
        yield LocalPlace(directory)
        return
    with scratch(f"indices of {directory}") as aside:
        yield RemotePlace(directory, aside)


class LocalPlace:
    """A local directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def tars(self) -> list[str]:
        """All tars below it, sorted."""
        return sorted(path.relative_to(self._directory).as_posix() for path in self._directory.rglob("*.tar"))

    def finished(self) -> bool:
        """Whether it has a dataset.json."""
        return (self._directory / FILE).exists()

    def unfinish(self) -> None:
        """Remove its dataset.json."""
        (self._directory / FILE).unlink()

    def bad(self) -> dict[str, bytes]:
        """The known bad samples of the finished data set, if there is one, and the content digests of their images."""
        return _bad(self._directory)

    def plans(self, names: Sequence[str], options: IndexOptions) -> dict[str, str]:
        """The facts `PLAN` of those tars that are there, and indexed since with these options."""
        tars = (self._directory / name for name in names)
        return {tar.name: plan_of(tar) for tar in tars if tar.exists() and is_fresh(tar, options)}

    def remove(self, tar: str) -> None:
        """Remove a tar and its index."""
        index_path(self._directory / tar).unlink(missing_ok=True)
        (self._directory / tar).unlink()

    def finish(
        self,
        names: Sequence[str],
        new: Sequence[str],
        classes: Sequence[str],
        origin: tuple[str, str],
        known_bad: Sequence[str],
        bad_before: Mapping[str, bytes],
    ) -> DatasetInfo:
        """Write dataset.json.

        Raises:
            UserError: tars that others wrote are not seen from here.
        """
        self._await(new)
        return write_info(self._directory, names, classes, *origin, known_bad, bad_before)

    def _await(self, names: Sequence[str]) -> None:
        """Until every tar and index is seen from here: shared storage may show another machine's files late."""
        deadline = time.monotonic() + SEEN_AFTER
        while True:
            # this asks the server, where a look at a single name may be answered from memory
            seen = set(os.listdir(self._directory))
            missing = [name for name in names if not {name, index_path(Path(name)).name} <= seen]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise UserError(
                    f"{len(missing)} tars that other machines wrote are not seen from here, such as {missing[0]}",
                    where=str(self._directory),
                    expected="a directory on storage that all nodes share",
                )
            time.sleep(0.5)


class RemotePlace:
    """A directory of an object store; `aside` takes its indices, not its tars."""

    def __init__(self, location: Location, aside: Path) -> None:
        self._location, self._aside = location, aside
        try:
            self._found = workplace(location, aside)
        except remote.NotThere:
            self._found = Workplace(location, aside, (), {})

    def tars(self) -> list[str]:
        """All tars below it, sorted."""
        return sorted(self._found.tars)

    def finished(self) -> bool:
        """Whether it has a dataset.json."""
        return (self._aside / FILE).exists()

    def unfinish(self) -> None:
        """Remove its dataset.json."""
        remote.remove(self._location / FILE)
        (self._aside / FILE).unlink()

    def bad(self) -> dict[str, bytes]:
        """The known bad samples of the finished data set, if there is one, and the content digests of their images."""
        if self.finished():
            self._found.bring_indices()
        return _bad(self._aside)

    def plans(self, names: Sequence[str], options: IndexOptions) -> dict[str, str]:
        """The facts `PLAN` of those tars that are there, and indexed since with these options."""
        there = replace(self._found, tars=tuple(name for name in names if name in set(self._found.tars)))
        there.bring_indices()
        stale = set(there.stale(options))
        return {name: plan_of(self._aside / name) for name in there.tars if name not in stale}

    def remove(self, tar: str) -> None:
        """Remove a tar and its index."""
        remote.remove(self._location / index_path(Path(tar)).name)
        remote.remove(self._location / tar)

    def finish(
        self,
        names: Sequence[str],
        new: Sequence[str],
        classes: Sequence[str],
        origin: tuple[str, str],
        known_bad: Sequence[str],
        bad_before: Mapping[str, bytes],
    ) -> DatasetInfo:
        """Write dataset.json; the indices of new tars are brought here for it.

        Raises:
            UserError: a tar that was written is gone; no answer.
        """
        now = {one.name for one in remote.objects(self._location)}
        wanted = {name: index_path(Path(name)).name for name in new}
        if missing := [name for name, index in wanted.items() if not {name, index} <= now]:
            expected = "shards that nobody else removes; run it again"
            raise UserError("is gone, or its index", where=str(self._location / missing[0]), expected=expected)
        bring = lambda index: remote.download(self._location / index, self._aside / index)  # noqa: E731
        with ThreadPoolExecutor(THREADS, thread_name_prefix="index") as pool:
            list(pool.map(bring, wanted.values()))
        info = write_info(self._aside, names, classes, *origin, known_bad, bad_before)
        remote.upload(self._aside / FILE, self._location / FILE)
        return info


def _bad(directory: Path) -> dict[str, bytes]:
    """As `Place.bad`; a shard whose index is gone, or damaged, has none."""
    if not (directory / FILE).exists():
        return {}
    info, found = read_info(directory), dict[str, bytes]()
    for shard in info.shards if info.known_bad else ():
        try:
            index = read_index(index_path(directory / shard.name))
        except UserError:
            continue
        rows = index.select(["key", "content"]).filter(pc.is_in(index["key"], pa.array(info.known_bad)))
        found |= zip(*(rows[name].to_pylist() for name in ("key", "content")), strict=True)
    return found


def put_shard(tar: Path, location: Location) -> None:
    """Upload a tar, then the index that lies beside it.

    Raises:
        UserError: no access, or no answer.
    """
    index, place = index_path(tar), replace(location, path=index_path(Path(location.path)).as_posix())
    remote.remove(place)
    remote.upload(tar, location)
    remote.upload(index, place)


def plan_of(tar: Path) -> str:
    """The fact `PLAN` of the index beside a tar."""
    return str(index_facts(read_index(index_path(tar))).get(PLAN, ""))
