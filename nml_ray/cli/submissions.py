"""`nml-ray list`, `status`, `logs`, `stop`: submitted jobs, while they run and when their cluster is gone."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nml_ray.cluster.ask import Standing
    from nml_ray.cluster.submission import Submission

_HEADS = ("id", "cluster", "state", "submitted", "message")


def _one(command: Callable[..., Any]) -> Callable[..., Any]:
    """ID and --storage."""
    command = click.option(
        "--storage", metavar="DIR", help="Directory or URL where a submission that was made elsewhere has its record."
    )(command)
    return click.argument("id", metavar="ID")(command)


@click.command("list")
@click.option("--storage", metavar="DIR", help="Also those that have their record on this directory or URL.")
def list_submissions(storage: str | None) -> None:
    """List the jobs that were submitted from this machine, the newest first.

    Each cluster is asked how its jobs stand; where one does not answer, what the job left on its storage counts.

    \b
    Examples:
      nml-ray list
      nml-ray list --storage s3://bucket/runs
    """
    from nml_ray.cluster import registry
    from nml_ray.cluster.ask import kept, survey
    from nml_ray.cluster.record import submissions_on

    found = registry.known()
    if storage:
        mine = {one.id for one in found}
        found += [kept(storage, id) for id in submissions_on(storage) if id not in mine]
    found.sort(key=lambda one: (one.submitted, one.id), reverse=True)
    if not found:
        none = "there are no submissions" if storage else "nothing was submitted from this machine"
        click.echo(f"nml-ray: {none}", err=True)
        return
    standings = survey(found)
    rows = [_HEADS, *(_row(one, standing) for one, standing in zip(found, standings, strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS) - 1)]
    for row in rows:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        )
    for note in dict.fromkeys(note for standing in standings for note in standing.notes):
        click.echo(f"nml-ray: {note}", err=True)


def _row(submission: "Submission", standing: "Standing") -> tuple[str, ...]:
    status = standing.status
    return (submission.id, submission.kind, status.state, _when(submission.submitted), status.message[:80])


def _when(submitted: str) -> str:
    return datetime.fromisoformat(submitted).astimezone().strftime("%Y-%m-%d %H:%M") if submitted else "?"


@click.command()
@_one
def status(id: str, storage: str | None) -> None:
    """Say how a submitted job stands.

    ID is an id, a unique beginning of one, or `last`. The cluster is asked first; when it is gone, or does not know the
    job, what that left on its storage counts.

    \b
    Examples:
      nml-ray status last
      nml-ray status demo-20261124-153641-k3fq --storage s3://bucket/runs
    """
    from nml_ray.cluster.ask import find, standing

    submission = find(id, storage)
    found = standing(submission)
    said = found.status
    facts = {
        "id": submission.id,
        "state": said.state,
        "exit code": "" if said.exit_code is None else str(said.exit_code),
        "message": said.message,
        "cluster": submission.kind,
        "submitted": _when(submission.submitted),
        "job": submission.job,
        "code": submission.code,
        "storage": submission.storage,
        "as told by": said.source,
    }
    for name, fact in facts.items():
        if fact:
            click.echo(f"{name + ':':<11} {fact}")
    for note in found.notes:
        click.echo(f"nml-ray: {note}", err=True)


@click.command()
@_one
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends; the exit code is the job's.")
def logs(id: str, storage: str | None, following: bool) -> int:
    """Print what a submitted job has printed.

    ID is an id, a unique beginning of one, or `last`. The cluster is asked first; when it is gone, what the job left on
    its storage counts. With --follow the exit code is the job's: 0, 1, 2, or 130 if it
    was stopped; Ctrl-C ends only this command, with code 130.

    \b
    Examples:
      nml-ray logs last
      nml-ray logs -f demo-20261124
    """
    from nml_ray.cli.following import stream
    from nml_ray.cluster.ask import find, log

    submission = find(id, storage)
    if following:
        return stream(submission, storage)
    text, note = log(submission)
    click.echo(text, nl=False)
    if note:
        click.echo(f"nml-ray: {note}", err=True)
    if not text:
        click.echo(f"nml-ray: nothing there yet; as it comes: nml-ray logs -f {submission.id}", err=True)
    return 0


@click.command()
@_one
def stop(id: str, storage: str | None) -> None:
    """End a submitted job; it reaches a checkpoint first.

    ID is an id, a unique beginning of one, or `last`. Submitted again, the job goes on from its checkpoint.

    \b
    Examples:
      nml-ray stop last
    """
    from nml_ray.cluster.ask import backend, find, standing
    from nml_ray.config.errors import UserError

    submission = find(id, storage)
    found = standing(submission)
    if found.status.ended:
        click.echo(f"{submission.id} has ended already: {found.status.state}")
        return
    known = backend(submission)
    if known is None:
        raise UserError(
            "nothing is known of the cluster it runs on", where=submission.id, expected="the machine that submitted it"
        )
    known.stop(submission)
    click.echo(f"{submission.id} is told to stop; nml-ray logs -f {submission.id} shows it end")
