"""Indexing tars where they lie, on an object store: each is brought here once, its index put beside it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nml_ray.config.errors import UserError
from nml_ray.data.dataset_info import FILE, refuse_name
from nml_ray.data.index import IndexOptions, index_facts, index_path, index_tar, read_index, with_facts, write_index
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from nml_ray.storage.patience import QUICK

ETAG = "etag"  # the fact of an index that says of which version of its tar it is
THREADS = 16  # small requests side by side


@dataclass(frozen=True)
class Workplace:
    """A temporary local directory with the indices of a remote one, under their own names."""

    location: Location
    path: Path
    tars: tuple[str, ...]
    _there: dict[str, remote.Object]

    def bring_indices(self) -> None:
        """Bring the indices that are there."""
        names = [index_path(Path(tar)).as_posix() for tar in self.tars]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="index") as pool:
            list(pool.map(self._bring, [name for name in names if name in self._there]))

    def _bring(self, name: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        remote.download(self.location / name, self.path / name)

    def index(
        self, tars: Sequence[str], options: IndexOptions, done: Callable[[str], None], held: Sequence[str] = ()
    ) -> None:
        """Index some tars, one on the disk at a time; the indices of those `held` are not put into the store yet.

        Raises:
            UserError: as `index_tar`; a store that cannot be reached or written.
        """
        for name in tars:
            tar, source = self.path / name, self.location / name
            tar.parent.mkdir(parents=True, exist_ok=True)
            try:
                etag = remote.etag(source)
                remote.download(source, tar, self._there[name].size)
                write_index(with_facts(index_tar(tar, options), **{ETAG: etag}), index_path(tar))
            except UserError as error:
                told = str(error).replace(str(tar), str(source)).replace(str(self.path), str(self.location))
                raise UserError(told) from None
            finally:
                tar.unlink(missing_ok=True)
            if name not in held:
                self.put_indices([name])
            done(name)

    def put_indices(self, tars: Sequence[str]) -> None:
        """Put the indices of some tars into the store.

        Raises:
            UserError: it cannot be reached or written.
        """
        for name in tars:
            remote.upload(index_path(self.path / name), self.location / index_path(Path(name)).as_posix())

    def stale(self, options: IndexOptions) -> list[str]:
        """The tars whose index is missing, damaged, made with other options, or of another version of the tar."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="index") as pool:
            fresh = pool.map(lambda tar: self._is_fresh(tar, options), self.tars)
            return [tar for tar, good in zip(self.tars, fresh, strict=True) if not good]

    def _is_fresh(self, tar: str, options: IndexOptions) -> bool:
        name = index_path(Path(tar)).as_posix()
        if name not in self._there:
            return False
        try:
            facts = index_facts(read_index(self.path / name))
        except UserError:
            return False
        if facts["tar_bytes"] != self._there[tar].size or facts["options"] != options.facts():
            return False
        if etag := facts.get(ETAG):
            return bool(etag == remote.etag(self.location / tar))
        return self._there[name].modified >= self._there[tar].modified


def workplace(location: Location, directory: Path) -> Workplace:
    """The tars below a remote directory, and its dataset.json, if there is one, in a local one.

    Raises:
        UserError: there is nothing; a tar's key that could lead out of a local directory; no such bucket, no access.
    """
    there = {one.name: one for one in remote.objects(location, QUICK)}
    tars = [name for name in there if name.endswith(".tar") and not PurePosixPath(name).name.startswith(".")]
    for name in tars:
        refuse_name(name, str(location))
    if FILE in there:
        remote.download(location / FILE, directory / FILE)
    return Workplace(location, directory, tuple(sorted(tars, key=lambda name: (PurePosixPath(name).name, name))), there)


@contextmanager
def indices_aside(location: Location) -> Iterator[Path]:
    """A temporary directory with the indices and the dataset.json of a remote one.

    Raises:
        UserError: as `workplace`.
    """
    with tempfile.TemporaryDirectory(prefix="nml-ray-") as directory:
        place = workplace(location, Path(directory))
        place.bring_indices()
        yield place.path
