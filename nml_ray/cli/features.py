"""`nml-ray features`: extracted features for other programs, and theirs for our heads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nml_ray.config.errors import UserError, nearest_name

if TYPE_CHECKING:
    from nml_ray.features.exporting import Kind

STUDY_STAGE = "extract/"


@click.group()
def features() -> None:
    """Exchange features with other programs.

    \b
    Examples:
      nml-ray features export demo out --encoder symmetric-0.3/seed-0
      nml-ray features import out --train a.npy --validation b.npy --test c.npy
    """


@features.command("export")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice(["parquet", "npy"]), default="parquet", show_default=True)
@click.option("--encoder", default="", metavar="NAME", help="Of a study: whose features.")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split. May be repeated.")
@click.option(
    "--storage", metavar="DIR", default="runs", show_default=True, help="Where a study is looked for by name."
)
def export(source: str, target: Path, kind: "Kind", encoder: str, splits: tuple[str, ...], storage: str) -> None:
    """Write the features of SOURCE to the new directory OUT.

    SOURCE is a study or its name, the directory of an extract artifact, or one that `features import` made. OUT gets,
    for each split, SPLIT.parquet (key, label, features), or SPLIT.npy, SPLIT.labels.npy and SPLIT.keys.npy.

    \b
    Examples:
      nml-ray features export demo out --encoder symmetric-0.3/seed-0
      nml-ray features export runs/extract/0474fb3ba4ec41db out --to npy --split test
    """
    from nml_ray.features.exporting import export_features

    counts = export_features(find_features(source, encoder, storage), target, kind, splits)
    click.echo(f"{_said(counts)}  {target}")


@features.command("import")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--train", metavar="FILE", required=True, help="Features to fit heads on.")
@click.option("--validation", metavar="FILE", help="Features on which settings are chosen.")
@click.option("--test", metavar="FILE", help="Features of the test samples.")
@click.option("--ood", metavar="FILE", help="Features of test samples of another domain.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
def import_(target: Path, dtype: Any, **files: str | None) -> None:
    """Bring features from elsewhere into the new directory OUT, laid out as an extraction leaves them.

    A FILE is Arrow or Parquet (columns label, features and best key), CSV (label, and a column a dimension), .npz
    (arrays features and labels), or NAME.npy beside NAME.labels.npy. A job takes such files, and those of OUT, in
    its section `features`.

    \b
    Examples:
      nml-ray features import out --train a.parquet --validation b.parquet --test c.parquet
      nml-ray features import out --train a.csv --dtype float16
    """
    from nml_ray.features.exporting import new_directory
    from nml_ray.features.importing import import_features
    from nml_ray.storage.atomic import write_json

    given = {split: file for split, file in files.items() if file is not None}
    with new_directory(target) as aside:
        facts = import_features(given, aside, dtype)
        write_json(aside / "features.json", facts)
    click.echo(f"{_said(facts['samples'])}, {facts['dim']} dimensions  {target}")


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def find_features(source: str, encoder: str, storage: str) -> Path:
    """The directory that SOURCE names: an artifact's, an attempt's, a plain one, or that of an encoder in a study.

    Raises:
        UserError: there is no such directory; a study without features, or with several encoders and none named.
    """
    from nml_ray.storage.record import read_record
    from nml_ray.study.listing import STAGES, paths_of

    path = Path(source)
    if record := read_record(path) if path.is_dir() else None:
        return path / str(record["attempt"])
    named = Path(storage) / "studies" / source
    study = path if (path / STAGES).is_file() else named
    if not (study / STAGES).is_file():
        if path.is_dir():
            return path
        raise UserError(
            f"no directory '{source}' and no study of that name",
            where="SOURCE",
            expected="a study, an extract artifact, or a directory of features",
        )
    there = paths_of(study)
    made = {name.removeprefix(STUDY_STAGE): place for name, place in there.items() if name.startswith(STUDY_STAGE)}
    if not made:
        raise UserError("no features were extracted", where=str(study), expected="a study with extracted features")
    if encoder not in made and (encoder or len(made) > 1):
        raise UserError(
            f"no features of '{encoder}'" if encoder else f"features of {len(made)} encoders",
            where=str(study),
            expected="--encoder with one of " + ", ".join(made),
            nearest=nearest_name(encoder, made) if encoder else "",
        )
    return (made[encoder] if encoder else next(iter(made.values()))).resolve()
