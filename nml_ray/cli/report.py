"""`nml-ray report`: where a study's report lies, rendered anew if need be."""

from pathlib import Path

import click

from nml_ray.config.errors import UserError

TABLES = "tables.txt"


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--storage",
    metavar="DIR",
    default="runs",
    show_default=True,
    help="Where RUN is looked for by name: a directory or URL.",
)
@click.option("--tables", is_flag=True, help="Print the report's tables here.")
def report(run: str, storage: str, tables: bool) -> int:
    """Say where a report lies; render it if it is missing.

    RUN is the directory or URL of a study, or its name. A newer nml-ray may render the same results differently; then
    it does.

    \b
    Examples:
      nml-ray report demo
      nml-ray report demo --tables
      nml-ray report runs/studies/demo
      nml-ray report s3://bucket/runs/studies/demo
    """
    from nml_ray.cli.run import tell
    from nml_ray.study.execute import REPORT, execute, plan_job, read_run
    from nml_ray.study.progress import display

    directory = find_run(run, storage)
    job = read_run(directory)
    if job.sweep:  # its trials are not begun anew for a report
        there = directory / REPORT
        if tables and there.exists():
            click.echo((directory / TABLES).read_text(encoding="utf-8"))
        words = f"report: {there}" if there.exists() else f"nml-ray: no trial of '{job.name}' has a report"
        click.echo(words, err=not there.exists())
        return 0 if there.exists() else 1
    _, planned = plan_job(job, "report")
    missing = [name for name, one in planned.items() if one.state == "to do" and name != "report"]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        click.echo(f"nml-ray: {len(missing)} stages of '{job.name}' are not done: {first}", err=True)
        return 1
    done = execute(job, display(), target="report", inline=True)
    if tables and done.report:
        click.echo((directory / TABLES).read_text(encoding="utf-8"))
    return tell(done)


def find_run(run: str, storage: str) -> Path:
    """The directory of a study, by path, URL or name; brought here where it lies on an object store.

    Raises:
        UserError: there is none.
    """
    from nml_ray.study.execute import open_run, study_names

    studies = f"{storage.rstrip('/')}/studies"
    for place in (run, f"{studies}/{run}")[: 1 if "://" in run else 2]:
        directory = open_run(place)
        if (directory / "job.yaml").exists():
            return directory.absolute()
    known = study_names(storage)
    raise UserError(
        f"no study '{run}'", where="RUN", expected=f"a directory with job.yaml, or a name in {studies}: {known}"
    )
