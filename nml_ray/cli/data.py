"""`nml-ray data`: what one does with images before a job."""

from pathlib import Path

import click

from nml_ray.cli.data_look import inspect, verify
from nml_ray.cli.data_shard import progress_lines, shard
from nml_ray.cli.options import class_names
from nml_ray.config.errors import UserError


@click.group()
def data() -> None:
    """Prepare images.

    \b
    Examples:
      nml-ray data index /data/flowers --classes names.txt
      nml-ray data shard /data/flowers /data/flowers-tars
      nml-ray data verify /data/flowers-tars --mark-bad
      nml-ray data inspect /data/flowers-tars --sheet flowers.png
    """


for command in (shard, verify, inspect):
    data.add_command(command)


@data.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--classes", metavar="FILE", type=click.Path(path_type=Path), help="Class names, one a line, in label order."
)
@click.option("--key-prefix", type=click.Choice(["shard"]), help="Make keys that occur in several tars unique.")
@click.option("--image", metavar="EXT", help="Extension of the image where samples have several.")
@click.option("--source", default="", help="Where the images come from; kept in dataset.json.")
@click.option("--licence", default="", help="Their licence; kept in dataset.json.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, of a local DIR.")
def index(
    directory: str,
    classes: Path | None,
    key_prefix: str | None,
    image: str | None,
    source: str,
    licence: str,
    workers: int,
) -> None:
    """Index the WebDataset tars in DIR, a directory or an s3:// or gs:// URL, without rewriting them.

    Beside each tar an index is written, and one dataset.json in DIR. Fresh indices are kept. Tars of an object store
    are brought here one at a time. What is not given is taken from an earlier dataset.json (remove it to begin anew);
    the data set stays as it was until all is well.

    \b
    Examples:
      nml-ray data index /data/flowers --classes names.txt --licence CC-BY-4.0
      nml-ray data index /data/own --key-prefix shard --workers 4
      nml-ray data index s3://bucket/flowers --classes names.txt
    """
    from nml_ray.data.indexing import index_directory
    from nml_ray.storage.location import locate

    place = locate(directory, "DIR")
    if not place.remote and not place.local.is_dir():
        raise UserError(f"'{directory}' is no directory", where="DIR", expected="a directory of WebDataset tars")
    info = index_directory(
        place,
        class_names(classes) if classes else None,
        key_prefix=key_prefix,
        image=image,
        source=source,
        licence=licence,
        workers=workers,
        progress=progress_lines("tars"),
    )
    click.echo(f"{info.samples:,} samples, {len(info.classes)} classes, {len(info.shards)} tars, digest {info.digest}")
    for warning in info.warnings:
        click.echo(f"  {warning}", err=True)
