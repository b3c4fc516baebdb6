"""From what the user names to a listing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.data.index import IMAGE_EXTENSIONS
from nml_ray.data.sources.folder import image_folder
from nml_ray.data.sources.listing import Listing, extension_of
from nml_ray.data.sources.spool import Spool
from nml_ray.data.sources.table import Columns, table_listing
from nml_ray.data.sources.tars import tar_listing
from nml_ray.storage.link import Link
from nml_ray.storage.location import Location, locate
from nml_ray.storage.scratch import scratch
from nml_ray.storage.shard_cache import DEFAULT_SIZE

TABLES = (".csv", ".tsv", ".parquet", ".txt")
TORCHVISION = "torchvision:"
SPOOL = ".images.part"


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read; what does not concern its kind is passed over.

    Attributes:
        classes: class names in label order; None where the source says them.
        columns: of a table.
        root: of a table's paths, or of a torchvision set.
        split: of a torchvision set.
        key_prefix, image: of tars, as `IndexOptions`.
        cache, cache_size: through which tars on an object store are read, as of `Link`.
        shared: other machines read it too.
    """

    classes: Sequence[str] | None = None
    columns: Columns = field(default_factory=Columns)
    root: Path | None = None
    split: str = ""
    key_prefix: str = ""
    image: str = ""
    cache: str = ""
    cache_size: str = DEFAULT_SIZE
    shared: bool = False


@contextmanager
def opened_source(
    source: str, directory: Path | Location, options: SourceOptions = SourceOptions()
) -> Iterator[Listing]:
    """The listing of a source, which can be read until the block ends.

    Args:
        source: `torchvision:NAME`; a .csv, .tsv, .parquet or .txt file, or a directory of Parquet files; a directory
            with tars; a folder of images; an `s3://` or `gs://` URL of an indexed data set.
        directory: where shards will be written; a file for images that come as bytes lies there meanwhile, or, if it
            is on an object store, in the directory for temporary files.
        options: how to read it.

    Raises:
        UserError: none of these; a directory inside the source; images that come as bytes, where the machines that
            read them share no directory; or as the source's own reader.
    """
    _check(source, directory, options)
    if isinstance(directory, Location):
        with scratch(f"images of {directory}") as aside, Spool(aside / SPOOL) as spool:
            listing = _listing(source, spool, options)
            if options.shared and spool.path.stat().st_size:
                raise UserError(
                    "its images come as bytes, which other machines cannot read from here",
                    where=source,
                    expected="a directory as OUT that all nodes share, or --workers instead of --ray",
                )
            yield listing
        return
    if Path(source).is_dir() and directory.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(f"lies in the source {source}", where=str(directory), expected="a directory outside it")
    new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Spool(directory / SPOOL) as spool:
            yield _listing(source, spool, options)
    except BaseException:
        if new and not any(directory.iterdir()):
            directory.rmdir()
        raise


def _listing(source: str, spool: Spool, options: SourceOptions) -> Listing:
    path = Path(source)
    if _remote(source):
        from nml_ray.data.sources.remote_tars import remote_tar_listing

        given = {"--classes": options.classes, "--key-prefix": options.key_prefix, "--image": options.image}
        return remote_tar_listing(Link(source, options.cache, options.cache_size), given)
    if source.startswith(TORCHVISION):
        from nml_ray.data.sources.torchvision_set import torchvision_listing

        assert options.root is not None
        name = source.removeprefix(TORCHVISION)
        return torchvision_listing(name, options.root, options.split, spool, options.classes)
    if path.is_file() and path.suffix == ".tar":
        return tar_listing(path.parent, [path], options.classes, options.key_prefix, options.image)
    if path.is_file():
        return table_listing([path], spool, options.columns, options.root, options.classes)
    return _directory(path, spool, options)


def _remote(source: str) -> bool:
    return not source.startswith(TORCHVISION) and locate(source, "SOURCE").remote


def _check(source: str, directory: Path | Location, options: SourceOptions) -> None:
    """Refuses what is no source before anything is written."""
    path = Path(source)
    if _remote(source):
        place = locate(source)
        if isinstance(directory, Location) and f"{directory.path}/".startswith(f"{place.path}/"):
            raise UserError(f"lies in the source {source}", where=str(directory), expected="a prefix outside it")
        return
    if source.startswith(TORCHVISION):
        if options.root is None:
            raise UserError("where are its files?", where=source, expected="--root DIR (nothing is downloaded)")
        return
    if path.is_dir() or (path.is_file() and path.suffix in (*TABLES, ".tar")):
        return
    what = f"has extension '{path.suffix}'" if path.exists() else "does not exist"
    raise UserError(
        f"'{source}' {what}",
        where="SOURCE",
        expected=f"an image folder, a directory of tars, a file {', '.join(TABLES)}, {TORCHVISION}NAME, or a URL",
    )


def _directory(path: Path, spool: Spool, options: SourceOptions) -> Listing:
    kinds = _kinds(path)
    if len(kinds) > 1:
        examples = " and ".join(f"'{file}'" for _, file in sorted(kinds.items()))
        raise UserError(f"holds {examples}", where=str(path), expected="either tars, or Parquet files, or images")
    if "tar" in kinds:
        tars = sorted(tar for tar in path.rglob("*.tar") if not tar.name.startswith("."))
        return tar_listing(path, tars, options.classes, options.key_prefix, options.image)
    if "parquet" in kinds:
        files = sorted(path.rglob("*.parquet"))
        return table_listing(files, spool, options.columns, options.root or path, options.classes)
    return image_folder(path, options.classes)


def _kinds(root: Path) -> dict[str, str]:
    """Which of tars, Parquet files and images a directory holds, each with a first example."""
    found: dict[str, str] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            extension = extension_of(name)
            kind = "image" if extension in IMAGE_EXTENSIONS else extension
            if kind in ("image", "tar", "parquet") and not name.startswith("."):
                found.setdefault(kind, os.path.relpath(os.path.join(directory, name), root))
    return found
