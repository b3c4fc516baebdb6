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
from nml_ray.storage.location import locate

TABLES = (".csv", ".tsv", ".parquet")
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
    """

    classes: Sequence[str] | None = None
    columns: Columns = field(default_factory=Columns)
    root: Path | None = None
    split: str = ""
    key_prefix: str = ""
    image: str = ""


@contextmanager
def opened_source(source: str, directory: Path, options: SourceOptions = SourceOptions()) -> Iterator[Listing]:
    """The listing of a source, which can be read until the block ends.

    Args:
        source: `torchvision:NAME`; a .csv, .tsv or .parquet file, or a directory of Parquet files; a directory with
            tars; a folder of images.
        directory: where shards will be written; a file for images that come as bytes lies there meanwhile.
        options: how to read it.

    Raises:
        UserError: none of these; a directory inside the source; or as the source's own reader.
    """
    _check(source, options)
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


def _check(source: str, options: SourceOptions) -> None:
    """Refuses what is no source before anything is written."""
    path = Path(source)
    if not source.startswith(TORCHVISION) and locate(source, "SOURCE").remote:
        raise UserError(
            f"'{source}' lies on an object store",
            where="SOURCE",
            expected="local files (jobs read tars from there as they are: `nml-ray data index`)",
        )
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
        expected=f"an image folder, a directory of tars, a file {', '.join(TABLES)}, or {TORCHVISION}NAME",
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
