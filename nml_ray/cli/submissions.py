"""`nml-ray list`, `status`, `logs`, `stop`: submitted jobs, while they run and when their cluster is gone."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nml_ray.config.terminal import harmless, one_line, plain
from nml_ray.storage.patience import PLANNING, at_most

if TYPE_CHECKING:
    from nml_ray.cluster.ask import Standing
    from nml_ray.cluster.submission import Submission

_HEADS = ("id", "cluster", "state", "submitted", "message")


def _one(command: Callable[..., Any]) -> Callable[..., Any]:
    """ID, --storage and --cluster."""
    command = click.option(
        "--storage", metavar="DIR", help="Directory or URL where a submission that was made elsewhere has its record."
    )(command)
    command = click.option(
        "--cluster",
        metavar="CLUSTER",
        help="Cluster file of a submission that was made elsewhere: that cluster is asked too.",
    )(command)
    return click.argument("id", metavar="ID")(command)


def _found(id: str, storage: str | None, cluster: str | None) -> "Submission":
    from nml_ray.cluster.ask import find

    named = None
    if cluster is not None:
        from nml_ray.cli.submitting import open_cluster

        named = open_cluster(cluster)[0].model_dump(mode="json", exclude_unset=True)
    return find(id, storage, named)


@click.command("list")
@click.option("--storage", metavar="DIR", help="Also those that have their record on this directory or URL.")
def list_submissions(storage: str | None) -> None:
    """List the jobs that were submitted from this machine, the newest first.

    Each cluster is asked how its jobs stand; where one does not answer, what the job left on its storage counts. Jobs
    that other machines submitted are told of by their storage alone.

    \b
    Examples:
      nml-ray list
      nml-ray list --storage s3://bucket/runs
    """
    from nml_ray.cluster import registry
    from nml_ray.cluster.ask import kept_or_flaw, survey
    from nml_ray.cluster.record import submissions_on
    from nml_ray.config.errors import UserError

    found, unreadable = registry.known(), []
    notes = [str(flaw) for flaw in registry.flaws()]
    with at_most(PLANNING):
        mine = {one.id for one in found}
        for id in submissions_on(storage) if storage else ():
            one = kept_or_flaw(str(storage), id) if id not in mine else None
            if isinstance(one, UserError):
                unreadable.append((id, "?", "unreadable", "?", str(one)))
            elif one:
                found.append(one)
        found.sort(key=lambda one: (one.submitted, one.id), reverse=True)
        standings = survey(found)
    if found or unreadable:
        _show([*(_row(one, standing) for one, standing in zip(found, standings, strict=True)), *unreadable])
    else:
        notes.append("there are no submissions" if storage else "nothing was submitted from this machine")
    notes += [note for standing in standings for note in standing.notes]
    for note in dict.fromkeys(notes):
        click.echo(f"nml-ray: {plain(note)}", err=True)


def _show(rows: Sequence[tuple[str, ...]]) -> None:
    shown = [_HEADS, *(tuple(one_line(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(_HEADS) - 1)]
    for row in shown:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        )


def _row(submission: "Submission", standing: "Standing") -> tuple[str, ...]:
    status = standing.status
    return (submission.id, submission.kind, status.state, _when(submission.submitted), one_line(status.message)[:80])


def _when(submitted: str) -> str:
    return datetime.fromisoformat(submitted).astimezone().strftime("%Y-%m-%d %H:%M") if submitted else "?"


@click.command()
@_one
def status(id: str, storage: str | None, cluster: str | None) -> None:
    """Say how a submitted job stands.

    ID is an id, a unique beginning of one, or `last`. The cluster is asked first; when it is gone, or does not know the
    job, what that left on its storage counts. The cluster of a job that another machine submitted is asked only if
    --cluster names it.

    \b
    Examples:
      nml-ray status last
      nml-ray status demo-20261124-153641-k3fq --storage s3://bucket/runs
    """
    from nml_ray.cluster.ask import standing

    with at_most(PLANNING):
        submission = _found(id, storage, cluster)
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
            click.echo(one_line(f"{name + ':':<11} {fact}"))
    for note in found.notes:
        click.echo(f"nml-ray: {plain(note)}", err=True)


@click.command()
@_one
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job ends; the exit code is the job's.")
def logs(id: str, storage: str | None, cluster: str | None, following: bool) -> int:
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
    from nml_ray.cluster.ask import log, standing

    with at_most(PLANNING):
        submission = _found(id, storage, cluster)
    if following:
        return stream(submission, storage)
    with at_most(PLANNING):
        text, note = log(submission)
        state = standing(submission).status if not text else None
    click.echo("".join(harmless([text])), nl=False)
    if note:
        click.echo(f"nml-ray: {plain(note)}", err=True)
    if state:
        more = f"it is {state.state}" if state.ended else f"as it comes: nml-ray logs -f {submission.id}"
        click.echo(f"nml-ray: nothing there{'' if state.ended else ' yet'}; {more}", err=True)
    return 0


@click.command()
@_one
def stop(id: str, storage: str | None, cluster: str | None) -> None:
    """End a submitted job; it reaches a checkpoint first.

    ID is an id, a unique beginning of one, or `last`. Submitted again, the job goes on from its checkpoint.

    \b
    Examples:
      nml-ray stop last
    """
    from nml_ray.cluster.ask import backend, standing
    from nml_ray.config.errors import UserError

    with at_most(PLANNING):
        submission = _found(id, storage, cluster)
        found = standing(submission)
    if found.status.state == "sending":
        raise UserError(
            f"is being sent ({found.status.message})",
            where=submission.id,
            expected="Ctrl-C where it is sent, or the same command when it has been",
        )
    if found.status.state == "not sent":
        click.echo(f"{submission.id} was not sent: there is nothing to stop")
        return
    if found.status.ended:
        click.echo(f"{submission.id} has ended already: {found.status.state}")
        return
    known = backend(submission)
    if known is None:
        raise UserError(
            "was not submitted from this machine, and its cluster is not asked",
            where=submission.id,
            expected="--cluster with the file of its cluster, or the machine that submitted it",
        )
    known.stop(submission)
    click.echo(f"{submission.id} is told to stop; nml-ray logs -f {submission.id} shows it end")
