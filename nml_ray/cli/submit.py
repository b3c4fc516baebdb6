"""`nml-ray submit`: a job to a cluster, and away."""

import click

from nml_ray.config.terminal import plain


@click.command()
@click.argument("job", metavar="JOB")
@click.option("--cluster", metavar="CLUSTER", required=True, help="Cluster file, or the name of one that ships.")
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a setting of the job, such as pretrain.epochs=2. May be repeated.",
)
@click.option(
    "--storage",
    metavar="DIR",
    help="Directory or URL of artifacts and logs, as the cluster's machines see it; otherwise the cluster file's, "
    "otherwise the job's.",
)
@click.option("--until", "target", metavar="STAGE", default="", help="Stop at a stage or a kind of stage.")
@click.option("--inline", is_flag=True, help="Run in one process there, without Ray, to the same bits.")
@click.option("--follow", is_flag=True, help="Show the job's output until it ends; the exit code is the job's.")
def submit(
    job: str,
    cluster: str,
    assignments: tuple[str, ...],
    storage: str | None,
    target: str,
    inline: bool,
    follow: bool,
) -> int:
    """Send a job and its code to a cluster, where it runs on without this machine.

    The job is checked here, before anything is sent, as `nml-ray plan JOB --cluster CLUSTER` checks it: what cannot run
    there is refused. Sent is code only, within the limits of the cluster file. What .gitignore and .nmlignore name
    stays behind; a file that looks like a secret is refused. The first line that is printed is the submission's id.

    With --follow the exit code is the job's: 0, 1, 2, or 130 if it was stopped. Ctrl-C lets go of the job, which runs
    on, with code 130.

    \b
    Examples:
      nml-ray submit demo --cluster local --follow
      nml-ray submit my.yaml --cluster cluster/lab.yaml --storage s3://bucket/runs
      nml-ray submit my.yaml --cluster lab.yaml --set pretrain.epochs=20 --until extract
      nml-ray logs -f last                    back to its output, later
    """
    from nml_ray.cli.fitting import refuse_misfit
    from nml_ray.cli.following import come_back, stream
    from nml_ray.cli.submitting import keep_record, prepare, send
    from nml_ray.storage.patience import PLANNING, at_most
    from nml_ray.storage.shard_cache import size_text

    prepared = prepare(job, cluster, assignments, storage, target, inline)
    with at_most(PLANNING):
        prepared.backend.check()
        warnings, wrong = refuse_misfit(prepared)
    for line in [*warnings, *(f"trial {name} will fail: {mistake}" for name, mistake in wrong.items())]:
        click.echo(f"nml-ray: {plain(line)}", err=True)
    id = prepared.submission.id
    try:
        submission, forgotten = send(prepared)
    except KeyboardInterrupt:
        click.echo(f"nml-ray: {id} may have been sent already: nml-ray status {id}", err=True)
        return 130
    click.echo(id)
    for trouble in filter(None, [forgotten, keep_record(submission, prepared.job)]):
        click.echo(f"nml-ray: {trouble}", err=True)
    package = prepared.package
    click.echo(f"sent: {len(package.files):,} files, {size_text(package.size)}, digest {submission.code}", err=True)
    click.echo(f"storage: {submission.storage}", err=True)
    click.echo(come_back(id), err=True)
    return stream(submission) if follow else 0
