"""Arguments that several commands share, and what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nml_ray.config.errors import UserError, nearest_name

if TYPE_CHECKING:
    from nml_ray.config.document import Document
    from nml_ray.study.job import Job

SUFFIXES = (".yaml", ".yml")


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, --set and --storage."""
    command = click.option(
        "--storage", metavar="DIR", help="Directory or URL of artifacts and studies; short for --set run.storage=DIR."
    )(command)
    command = click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a setting, such as pretrain.epochs=2 or noise.ratios=[0,0.5]. May be repeated.",
    )(command)
    return click.argument("job", metavar="JOB")(command)


def open_job(job: str, assignments: tuple[str, ...], storage: str | None) -> "Job":
    """The job of a file, or of a job that ships with the package by its bare name.

    Raises:
        UserError: there is neither, or its content is wrong.
    """
    return read_job_of(job, assignments, storage)[0]


def read_job_of(job: str, assignments: tuple[str, ...], storage: str | None) -> "tuple[Job, Document]":
    """As `open_job`, with the document that knows where in the file each setting stands."""
    from nml_ray.study.job import read_job

    if storage is not None:
        import json

        assignments = (*assignments, f"run.storage={json.dumps(storage)}")
    return read_job(find_job(job), assignments)


def find_job(job: str) -> Path:
    """The file of a job: a path, or the bare name of a job that ships with the package."""
    return _found(job, "job", examples("jobs"))


def find_cluster(cluster: str) -> Path:
    """The file of a cluster: a path, or the bare name of one that ships with the package."""
    return _found(cluster, "cluster", examples("cluster"))


def _found(given: str, what: str, directory: Path) -> Path:
    path = Path(given)
    if path.exists() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return path
    shipped = {file.stem: file for file in sorted(directory.rglob("*.yaml"))}
    if given in shipped:
        return shipped[given]
    raise UserError(
        f"no file '{given}' and no shipped {what} of that name",
        where=what.upper(),
        expected="a path or one of " + ", ".join(shipped),
        nearest=nearest_name(given, shipped),
    )


def examples(kind: str) -> Path:
    """The directory of shipped `jobs` or `cluster` files: in the wheel, or in the source tree."""
    package = Path(__file__).parent.parent
    wheel = package / "examples" / kind
    return wheel if wheel.is_dir() else package.parent / kind


def class_names(file: Path) -> list[str]:
    """Class names of a file, one a line, in label order; blanks around them and at the file's end do not count.

    Raises:
        UserError: it cannot be read; no name, an empty line before the last name, a name twice.
    """
    expected = "class names, one a line"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(file), expected=expected) from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UserError("is empty", where=f"{file}, line {number}", expected=f"{expected}: the line is the label")
        if name in first:
            raise UserError(
                f"class '{name}' again, as in line {first[name]}", where=f"{file}, line {number}", expected=expected
            )
        first[name] = number
    return names
