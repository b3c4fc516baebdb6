"""`nml-ray gc`: what no job refers to, and its removal."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nml_ray.config.errors import UserError
from nml_ray.config.terminal import plain

if TYPE_CHECKING:
    from nml_ray.cluster.record import Record
    from nml_ray.study.garbage import Garbage
    from nml_ray.study.garbage_scan import Directory


@click.command()
@click.option(
    "--storage", metavar="DIR", default="runs", show_default=True, help="Directory or URL of artifacts and studies."
)
@click.option("--remove", "really", is_flag=True, help="Remove what is listed; without it nothing is.")
@click.option(
    "--older-than",
    "days",
    metavar="DAYS",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Only what has not changed for so many days.",
)
@click.option("--earlier-runs", "earlier", is_flag=True, help="Also what only earlier runs of a study refer to.")
@click.option("--submissions", is_flag=True, help="Also the records and logs of submitted jobs that have ended.")
def gc(storage: str, really: bool, days: float, earlier: bool, submissions: bool) -> int:
    """List the artifacts that no study of a storage refers to, and remove them with --remove.

    A study refers to what its last run planned, finished or not, and to all that this was made from. What earlier runs
    had planned, of this or another job of that name, is told of, and goes only with --earlier-runs. Remove a study's
    directory below STORAGE/studies, and what only that study referred to is listed here. Also listed: attempts that
    lost and checkpoints that were left within artifacts that stay, and Ray's own files of runs that have ended.

    What somebody is at work on stays, as does an unfinished attempt that changed within the last day.

    \b
    Examples:
      nml-ray gc
      nml-ray gc --storage s3://bucket/runs --older-than 30
      nml-ray gc --remove
    """
    from nml_ray.storage.artifact import Store
    from nml_ray.storage.mirror import working_root
    from nml_ray.storage.patience import PLANNING, at_most
    from nml_ray.storage.shard_cache import size_text
    from nml_ray.study.garbage_removal import look, remove, remove_directories
    from nml_ray.study.garbage_scan import ray_directories

    store, now = Store(working_root(storage)), time.time()
    if not store.root.is_dir():
        raise UserError(f"no directory '{storage}'", where="--storage", expected="the storage of runs, or its URL")
    with at_most(PLANNING):
        going, of_ray = look(store, days, earlier), ray_directories(store, now, days)
        records = _ended(storage, now, days) if submissions else []
    for line in _lines(going, of_ray, records, now):
        click.echo(line)
    size = sum(one.size for one in going.artifacts) + sum(one.size for one in of_ray)
    size += sum(one.files[name].size for one in going.leftovers for name in one.leftovers)
    count = len(going.artifacts) + len(going.leftovers) + len(of_ray) + len(records)
    if not really or not count:
        end = "; nothing was removed, --remove does it" if count else ""
        click.echo(f"{count} to remove, {size_text(size)}{end}")
        return 0
    done = remove(store, going, days, earlier=earlier)
    remove_directories(of_ray, done)
    for record in records:
        record.remove()
    for name, reason in done.stayed.items():
        click.echo(f"{name}: stays, {reason}")
    click.echo(f"{done.count + len(records)} removed, {size_text(done.size)} freed")
    return 0


def _lines(going: "Garbage", of_ray: Sequence["Directory"], records: Sequence["Record"], now: float) -> list[str]:
    rows = [
        (f"{one.kind}/{one.digest}", one.size, one.changed, "" if one.finished else "not finished")
        for one in going.artifacts
    ]
    for one in going.leftovers:
        size = sum(one.files[name].size for name in one.leftovers)
        changed = max(one.files[name].changed for name in one.leftovers)
        rows.append((f"{one.kind}/{one.digest}", size, changed, f"{len(one.leftovers)} files left within"))
    rows += [(f"ray/{one.path.name}", one.size, one.changed, "Ray's own") for one in of_ray]
    from nml_ray.storage.shard_cache import size_text

    lines = [_row(*row, now) for row in rows]
    lines += [f"submissions/{record.location.name}  ended" for record in records]
    if going.earlier:
        count, freed = len(going.earlier), size_text(sum(one.size for one in going.earlier))
        lines.append(f"{count} more, {freed}, that only earlier runs of a study refer to: --earlier-runs")
    if going.untold:
        first, more = going.untold[0][1], len(going.untold) - 1
        others = f" and {more} more" if more else ""
        lines.append(f"trials of heads stay: heads/{first}{others} is planned by a study and has not begun")
    return lines


def _row(name: str, size: int, changed: float, words: str, now: float) -> str:
    from nml_ray.storage.shard_cache import size_text

    age = f"{(now - changed) / 86400:.1f} days" if changed else ""
    return f"{name:<34}  {size_text(size):>8}  {age:>12}  {words}".rstrip()


def _ended(storage: str, now: float, days: float) -> list["Record"]:
    from nml_ray.cluster.fields import Unreadable
    from nml_ray.cluster.record import record_of, submissions_on
    from nml_ray.cluster.watch import beat_of

    found = []
    for id in submissions_on(storage):
        record = record_of(storage, id)
        try:
            beat = beat_of(record)
        except Unreadable as error:
            click.echo(f"submissions/{id}: stays, {plain(str(error))}")
            continue
        if beat and not beat.alive(now) and now - (beat.ended or beat.heartbeat) >= max(days, 1) * 86400:
            found.append(record)
    return found
