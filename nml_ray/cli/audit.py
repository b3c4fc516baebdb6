"""`nml-ray audit`: was every sample fed once, in order, with the label that the ledger says?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from nml_ray.cli.report import find_run

if TYPE_CHECKING:
    from nml_ray.pretrain.findings import AuditReport, EpochAudit
    from nml_ray.study.audits import StudyRuns

COLUMNS = ("run", "epochs", "samples", "fed", "dropped", "excluded", "twice", "holes", "")


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--storage",
    metavar="DIR",
    default="runs",
    show_default=True,
    help="Where RUN is looked for by name: a directory or URL.",
)
def audit(run: str, storage: str) -> int:
    """Check what pre-training really fed to the model.

    RUN is the directory (or URL) of a study, its name, or the directory of one pretrain artifact. From the log of every
    worker, across restarts: each epoch feeds every sample once or drops it, in the planned order, with the ledger's
    label, and undecodable images have their reason. Exit code 0 if all of that holds, 1 if not.

    \b
    Examples:
      nml-ray audit demo
      nml-ray audit runs/studies/demo
      nml-ray audit runs/pretrain/0474fb3ba4ec41db
    """
    from nml_ray.pretrain.audit import audit_run

    found = find_runs(run, storage)
    width = max(len(one.name) for one in found.runs) if found.runs else 0
    broken = 0
    for number, one in enumerate(found.runs):
        report = audit_run(one)
        broken += not report.holds
        for line in report_lines(report, width, heading=number == 0):
            click.echo(line)
    for name in found.unfinished:
        click.echo(f"{name}: not finished, nothing to audit yet")
    if broken or found.unfinished:
        unfinished = f"; {len(found.unfinished)} not finished" if found.unfinished else ""
        click.echo(f"does not hold: {broken} of {len(found.runs)} runs have findings{unfinished}", err=True)
        return 1
    runs = "1 run" if len(found.runs) == 1 else f"{len(found.runs)} runs"
    click.echo(f"holds: {runs}, each sample once or dropped, in order, with the ledger's label")
    return 0


def find_runs(run: str, storage: str) -> "StudyRuns":
    """The runs that RUN names: those of a study, or that of an artifact's directory or of an attempt in it.

    Raises:
        UserError: there is no such study or artifact.
    """
    from nml_ray.storage.record import RECORD
    from nml_ray.study.audits import StudyRuns, run_of_artifact, runs_of_study
    from nml_ray.study.execute import open_run

    path = open_run(run)
    directory = path.absolute().parent if path.name.startswith("attempt-") else path
    if (directory / RECORD).exists():
        return StudyRuns([run_of_artifact(directory)])
    return runs_of_study(find_run(run, storage))


def report_lines(report: "AuditReport", width: int, heading: bool = False) -> Iterator[str]:
    """A table of the epochs, those that are alike in one line, and below it the findings."""
    if heading:
        yield _line(COLUMNS, width)
    for epochs in _alike(report.epochs):
        first, last = epochs[0], epochs[-1]
        span = f"{first.epoch}" if len(epochs) == 1 else f"{first.epoch}-{last.epoch}"
        numbers = (first.samples, first.fed, first.dropped, first.excluded, first.twice)
        found = "; ".join(f"{count:,} {kind}" for kind, count in first.findings.items())
        verdict = "holds" if first.holds else found or "does not add up"
        holes = sum(epoch.holes for epoch in epochs)
        yield _line((report.name, span, *(f"{number:,}" for number in (*numbers, holes)), verdict), width)
    if not report.epochs:
        yield f"{report.name}: its epochs cannot be told apart"
    if len(report.attempts) > 1:
        resumed = ", ".join(f"{attempt} from step {step}" for attempt, step in report.attempts)
        yield f"  {resumed}; {report.replayed:,} records replayed"
    if report.ledger is None:
        yield "  no ledger is there to compare; labels were checked against the noise settings"
    for finding in report.findings:
        yield f"  {finding}"
    for kind, count in report.counts.items():
        named = sum(finding.kind == kind for finding in report.findings)
        if count > named > 0:
            yield f"  {kind}: {count:,} in all"


def _alike(epochs: Sequence["EpochAudit"]) -> list[list["EpochAudit"]]:
    """Neighbours that hold with the same numbers, together."""
    groups: list[list[EpochAudit]] = []
    for epoch in epochs:
        before = groups[-1][0] if groups else None
        if before and before.holds and epoch.holds and (before.fed, before.dropped) == (epoch.fed, epoch.dropped):
            groups[-1].append(epoch)
        else:
            groups.append([epoch])
    return groups


def _line(cells: Sequence[str], width: int) -> str:
    name, *numbers, verdict = cells
    return f"{name:<{width}}  " + "  ".join(f"{cell:>9}" for cell in numbers) + f"  {verdict}".rstrip()
