"""`nml-ray data shard`: images of many kinds become shuffled WebDataset tars."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nml_ray.cli.options import class_names
from nml_ray.config.errors import UserError
from nml_ray.storage.shard_cache import DEFAULT_SIZE

if TYPE_CHECKING:
    from nml_ray.data.sharding import WriteShards

_LINE = 5.0  # seconds between two lines of progress


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("directory", metavar="OUT")
@click.option("--samples-per-shard", type=click.IntRange(1), default=4096, show_default=True, help="Samples of a tar.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Write the tars as tasks of a Ray cluster: HOST:PORT; 'auto' for RAY_ADDRESS or one started on this machine; "
    "'local' for one of this command's own. All nodes must see SOURCE and OUT by the same paths or URLs.",
)
@click.option(
    "--short-side", type=click.IntRange(1), metavar="PIXELS", help="Shrink larger images to this (they become JPEG)."
)
@click.option("--quality", type=click.IntRange(1, 95), default=95, show_default=True, help="JPEG quality of those.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Of the shuffle.")
@click.option(
    "--classes", metavar="FILE", type=click.Path(path_type=Path), help="Class names, one a line, in label order."
)
@click.option("--image-column", default="", metavar="NAME", help="Of a table: paths or bytes of the images.")
@click.option(
    "--text-column",
    "text_columns",
    default=(),
    multiple=True,
    metavar="NAME",
    help="Of a table of texts instead of images: the text; twice for two that belong together.",
)
@click.option("--label-column", default="", metavar="NAME", help="Of a table: class names or numbers.")
@click.option("--caption-column", default="", metavar="NAME", help="Of a table: captions.")
@click.option("--key-column", default="", metavar="NAME", help="Of a table: keys, if not the paths.")
@click.option(
    "--root", metavar="DIR", type=click.Path(path_type=Path), help="Where a table's paths begin; torchvision's root."
)
@click.option("--split", default="", metavar="NAME", help="Split of a torchvision set.")
@click.option("--key-prefix", type=click.Choice(["shard"]), help="Make keys that occur in several tars unique.")
@click.option("--image", default="", metavar="EXT", help="Of tars: extension of the image where samples have several.")
@click.option("--licence", default="", help="The images' licence; kept in dataset.json.")
@click.option("--cache", default="", metavar="DIR", help="Where tars of a SOURCE on an object store are kept.")
@click.option("--cache-size", default=DEFAULT_SIZE, show_default=True, metavar="SIZE", help="Of it; all tars fit in.")
@click.option("--overwrite", is_flag=True, help="Replace another finished data set in OUT.")
def shard(
    source: str,
    directory: str,
    samples_per_shard: int,
    workers: int,
    ray: str | None,
    short_side: int | None,
    quality: int,
    seed: int,
    classes: Path | None,
    image_column: str,
    text_columns: tuple[str, ...],
    label_column: str,
    caption_column: str,
    key_column: str,
    root: Path | None,
    split: str,
    key_prefix: str | None,
    image: str,
    licence: str,
    cache: str,
    cache_size: str,
    overwrite: bool,
) -> None:
    """Write the images of SOURCE as shuffled, indexed tars to OUT, a directory or an s3:// or gs:// URL.

    \b
    SOURCE is one of
      a folder of images          each sub-directory a class
      a .csv, .tsv or .parquet    paths or bytes of images, or texts; labels, captions (or a directory of .parquet)
      a .txt                      lines of a path, a blank and a label
      a directory of tars         to be cut and shuffled anew, or made smaller
      torchvision:NAME            with --root and --split; nothing is downloaded
      an s3:// or gs:// URL       an indexed data set: its tars, read through a cache on this machine

    The key of a sample is its path below SOURCE without extension; further dots of the file's name become
    underscores. Keys of tars stay. Noise, order and augmentation are drawn by key: the same keys draw the same.

    Splits of one job (train, validation, test, ood) need one --classes file: without it the classes of each are those
    that it holds, and one label may mean two things.

    For an object store each tar is written to the directory for temporary files (TMPDIR), uploaded with its index, and
    removed here: one at a time in each process.

    Run again after an interruption, it keeps the tars that are finished. Images keep their bytes unless --short-side
    is given. Shrinking changes what is trained on, and so every result: fed at 224 pixels, photographs of 500x375 that
    were shrunk to a short side of 256 at quality 90 lie at 32 dB PSNR (centre crop; median; 5 % below 29.5) and 31 dB
    (random crops of 8 % of the area or more; 5 % below 24.5) from the same crops of the originals: as bright (within
    0.02 grey levels), but softer, as small crops are enlarged from fewer pixels. They are 2.4 times smaller.

    \b
    Examples:
      nml-ray data shard /data/flowers /data/flowers-tars --workers 4
      nml-ray data shard photos.csv /data/tars --root /data/photos --label-column kind --caption-column text
      nml-ray data shard torchvision:CIFAR10 /data/cifar/train --root /data/torchvision --split train
      nml-ray data shard /data/imagenet-tars /data/imagenet-256 --short-side 256 --quality 90 --workers 16
      nml-ray data shard /shared/photos /shared/tars --ray 10.0.0.1:6379
      nml-ray data shard /data/flowers s3://bucket/flowers --workers 4
    """
    from nml_ray.data.resize import Resize
    from nml_ray.data.sharding import write_listing
    from nml_ray.data.sources.choose import SourceOptions, opened_source
    from nml_ray.data.sources.table import Columns
    from nml_ray.storage.location import locate

    if len(text_columns) > 2 or (text_columns and (image_column or caption_column)):
        found = ", ".join((*text_columns, *filter(None, (image_column, caption_column))))
        raise UserError(found, where="--text-column", expected="one or two texts, and no column of images or captions")
    if ray and workers > 1:
        raise UserError(f"{workers}, and --ray too", where="--workers", expected="one of them: Ray counts CPUs itself")
    place = locate(directory, "OUT")
    out = place if place.remote else place.local.absolute() if ray else place.local
    options = SourceOptions(
        classes=class_names(classes) if classes else None,
        columns=Columns(image_column, label_column, caption_column, key_column, text_columns),
        root=root.absolute() if root and ray else root,
        split=split,
        key_prefix=key_prefix or "",
        image=image,
        cache=os.path.abspath(os.path.expanduser(cache)) if cache else "",
        cache_size=cache_size,
        shared=bool(ray),
    )
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UserError(f"'{directory}' is no directory", where="OUT", expected="a directory, made if need be")
    with _ray(ray) as elsewhere, opened_source(_seen_by_all(source, ray), out, options) as listing:
        for note in listing.notes:
            click.echo(f"  {note}", err=True)
        written = write_listing(
            listing,
            out,
            samples_per_shard=samples_per_shard,
            seed=seed,
            resize=Resize(short_side, quality) if short_side else None,
            workers=workers,
            elsewhere=elsewhere,
            overwrite=overwrite,
            source=source,
            licence=licence,
            progress=progress_lines("samples"),
        )
    info = written.info
    click.echo(
        f"{info.samples:,} samples, {len(info.classes)} classes, {len(info.shards)} tars"
        f"{f' ({written.kept} kept)' if written.kept else ''}, digest {info.digest}"
    )
    for warning in info.warnings:
        click.echo(f"  {warning}", err=True)
    if failed := written.not_resized:
        click.echo(
            f"  images that cannot be decoded and are in the tars as they came: {len(failed)} (the first is "
            f"'{failed[0]}'): nml-ray data verify {directory} --mark-bad",
            err=True,
        )


@contextmanager
def _ray(address: str | None) -> "Iterator[WriteShards | None]":
    """What writes shards as tasks of Ray at an address; None without one."""
    if not address:
        yield None
        return
    from nml_ray import session

    try:
        session.start() if address == "local" else session.join(address)
        from nml_ray.data.sharding import write_shard
        from nml_ray.data.sharding_on_ray import spread_on_ray

        yield lambda plans: spread_on_ray(write_shard, plans)
    finally:
        session.stop()


def _seen_by_all(source: str, ray: str | None) -> str:
    """A path as other processes must be told it."""
    return os.path.abspath(source) if ray and os.path.exists(source) else source


def progress_lines(unit: str) -> Callable[[int, int], None]:
    """Progress as lines on standard error, one every few seconds and one at the end."""
    start = last = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal start, last, first
        now = time.monotonic()
        if first is None:
            first, start = done, now
        if now - last >= _LINE or (done == total and now - start >= _LINE):
            last, rate = now, (done - first) / (now - start)
            speed = f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.2g}/s" if rate else ""
            left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
            click.echo(f"{done:,}/{total:,} {unit}{speed}{left}", err=True)

    return show
