"""A submitted job's output on this terminal, until it ends or the user lets go of it."""

import sys
import time

import click

from nml_ray.cluster.submission import Submission
from nml_ray.config.terminal import harmless, plain

LET_GO = 130
_LOOKS = 15


def come_back(id: str, storage: str | None = None) -> str:
    """How to get at a submission later."""
    place = f" --storage {storage}" if storage else ""
    return f"later: nml-ray status {id}{place} | nml-ray logs -f {id}{place} | nml-ray stop {id}{place}"


def stream(submission: Submission, storage: str | None = None) -> int:
    """Show a job's output to its end; the exit code is the job's, 130 if it was stopped or Ctrl-C let go of it."""
    from nml_ray.cluster.ask import follow, standing

    try:
        for text in harmless(follow(submission)):
            sys.stdout.write(text)
            sys.stdout.flush()
        found = standing(submission)
        for _ in range(_LOOKS):  # the log may end a moment before its cluster says so
            if found.status.ended or found.status.state == "unreadable":
                break
            time.sleep(1)
            found = standing(submission)
    except KeyboardInterrupt:
        click.echo(f"\nnml-ray: the job goes on; {come_back(submission.id, storage)}", err=True)
        return LET_GO
    for note in found.notes:
        click.echo(f"nml-ray: {plain(note)}", err=True)
    status = found.status
    if status.state != "succeeded":
        words = f": {status.message}" if status.message and status.state not in ("failed", "stopped") else ""
        click.echo(plain(f"nml-ray: {submission.id} {status.state}{words}"), err=True)
    if status.state == "stopped":
        return LET_GO
    if status.state == "succeeded":
        return 0
    return 2 if status.exit_code == 2 else 1
