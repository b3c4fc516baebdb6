"""`nml-ray init`: example files to start from."""

from collections.abc import Mapping
from pathlib import Path

import click

from nml_ray.cli.options import examples
from nml_ray.config.errors import UserError


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace files that differ.")
def init(directory: Path, force: bool) -> None:
    """Copy the example job and cluster files into DIR.

    \b
    Examples:
      nml-ray init
      nml-ray init study && nml-ray run study/jobs/demo.yaml
    """
    copies = {
        source: directory / kind / source.relative_to(examples(kind))
        for kind in ("jobs", "cluster")
        for source in sorted(examples(kind).rglob("*.yaml"))
    }
    try:
        _copy(copies, force)
    except OSError as error:
        where = str(error.filename or directory)
        raise UserError(f"cannot be written ({error.strerror})", where=where, expected="another DIR") from None


def _copy(copies: Mapping[Path, Path], force: bool) -> None:
    for source, target in copies.items():
        if target.exists() and target.read_bytes() != source.read_bytes() and not force:
            raise UserError("is there already and differs", where=str(target), expected="another DIR, or --force")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        click.echo(str(target))
