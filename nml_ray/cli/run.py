"""`nml-ray run`: make what a job lacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from nml_ray.cli.options import job_options, read_job_of
from nml_ray.config.errors import UserError

if TYPE_CHECKING:
    from nml_ray.study.execute import Run


@click.command()
@job_options
@click.option("--until", "target", metavar="STAGE", default="", help="Stop at a stage or a kind of stage.")
@click.option("--inline", is_flag=True, help="Run in this process, without Ray, to the same bits.")
@click.option(
    "--address",
    metavar="HOST:PORT",
    default="",
    help="Run on a Ray that is running, with this process as the driver; `auto` for the one of this machine.",
)
@click.option("--submission", default="", hidden=True, help="Id of the submission that this run is.")
@click.option(
    "--stop-seconds",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    help="Most that SIGTERM waits for a checkpoint before the run ends; Ctrl-C ends it at once.",
)
def run(
    job: str,
    assignments: tuple[str, ...],
    storage: str | None,
    target: str,
    inline: bool,
    address: str,
    submission: str,
    stop_seconds: float,
) -> int:
    """Run a job on this machine; what exists already is not made again.

    JOB is a file, or the name of a job that ships with nml-ray.

    \b
    Examples:
      nml-ray run demo
      nml-ray run jobs/demo.yaml --set noise.ratios=[0,0.1,0.2,0.3]
      nml-ray run my.yaml --until extract --storage /data/runs
      nml-ray run demo --inline --set pretrain.epochs=1
    """
    if inline and address:
        raise UserError("--inline runs without Ray", where="--address", expected="one of the two")
    from nml_ray.study.encoder_names import refuse_encoders, remarks
    from nml_ray.study.execute import execute, plan_job, set_threads
    from nml_ray.study.feed import refuse_feed
    from nml_ray.study.machine_check import refuse_device, refuse_trackers
    from nml_ray.study.progress import display
    from nml_ray.study.stopping import Stopper

    settings, document = read_job_of(job, assignments, storage)
    refuse_trackers(settings, document)
    set_threads(settings, inline)
    if settings.sweep:
        from nml_ray.study.sweep_points import wrong_points

        for name, mistake in wrong_points(settings, document, device=True).items():  # they leave the others alone
            click.echo(f"trial {name} will fail: {mistake}", err=True)
    else:
        planned = plan_job(settings, target)[1]
        refuse_device(settings, document, planned)
        refuse_encoders(settings, document, planned)
        refuse_feed(settings, document, target)
    shown = Stopper(display(), stop_seconds)
    for line in remarks(settings):
        shown.say(line)
    try:
        with shown.listening(), _logs_kept(settings.run.storage, submission, shown.say):
            done = execute(settings, shown, target=target, inline=inline, address=address)
        if done.outcome.failures:
            _save_logs(done)
    finally:
        _stop_ray()
    return tell(done)


@contextmanager
def _logs_kept(storage: str, submission: str, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the logs of Ray's nodes go to the record of the submission that this run is, if it is one."""
    if not submission:
        yield
        return
    from nml_ray.cluster.node_logs import NodeLogs

    logs = NodeLogs(storage, submission, say)
    logs.begin()
    try:
        yield
    finally:
        logs.finish()


def tell(done: "Run") -> int:
    """Say how a run ended; its exit code."""
    outcome = done.outcome
    for line in done.summary:
        click.echo(line)
    if done.headline and done.report:
        click.echo(done.headline)
    if done.report:
        click.echo(f"report: {done.report}")
    elif not outcome.failures:
        click.echo(f"{len(outcome.artifacts)} artifacts, listed in {done.directory / 'stages.json'}")
    for name, failure in outcome.failures.items():
        if not failure.mistake:
            traceback = f"\n  traceback: {failure.log}" if failure.log else ""
            click.echo(f"failed: {name}: {failure.reason.removeprefix(f'{name}: ')}{traceback}", err=True)
    mistakes = {name: failure.reason for name, failure in outcome.failures.items() if failure.mistake}
    for reason in dict.fromkeys(mistakes.values()):
        names = [name for name, why in mistakes.items() if why == reason]
        click.echo(f"failed: {', '.join(names)}: {reason.removeprefix(f'{names[0]}: ')}", err=True)
    for cause in dict.fromkeys(outcome.left_out.values()):
        names = [name for name, why in outcome.left_out.items() if why == cause]
        click.echo(f"not made, because {cause} failed: {', '.join(names)}", err=True)
    if outcome.refused:
        return 2
    return 1 if outcome.failures else 0


def _save_logs(done: "Run") -> None:
    import sys

    from nml_ray.storage.twin import publish_directory

    if "nml_ray.session" in sys.modules and (logs := sys.modules["nml_ray.session"].save_logs(done.directory / "ray")):
        click.echo(f"logs of Ray: {logs}", err=True)
        publish_directory(logs)


def _stop_ray() -> None:
    import sys

    if "nml_ray.session" in sys.modules:
        sys.modules["nml_ray.session"].stop()
