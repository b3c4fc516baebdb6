"""`nml-ray cluster`: what a cluster file means, and the cluster's life where that is ours."""

from typing import TYPE_CHECKING

import click

from nml_ray.config.terminal import plain

if TYPE_CHECKING:
    from nml_ray.cluster.backend import Backend


@click.group()
def cluster() -> None:
    """Look at a cluster, bring it up, take it down, see what would be sent to it.

    CLUSTER is a file, or the name of one that ships with nml-ray.

    \b
    Examples:
      nml-ray cluster status cluster/lab.yaml
      nml-ray cluster render slurm my.yaml --storage /shared/runs
      nml-ray cluster up cluster/aws.yaml
    """


@cluster.command()
@click.argument("cluster", metavar="CLUSTER")
@click.argument("job", metavar="JOB")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Override a setting of the job.")
@click.option("--storage", metavar="DIR", help="As for `nml-ray submit`.")
@click.option("--until", "target", metavar="STAGE", default="", help="As for `nml-ray submit`.")
@click.option("--inline", is_flag=True, help="As for `nml-ray submit`.")
def render(
    cluster: str, job: str, assignments: tuple[str, ...], storage: str | None, target: str, inline: bool
) -> None:
    """Print exactly what `submit` would send; nothing is sent.

    \b
    Examples:
      nml-ray cluster render slurm my.yaml --storage /shared/runs
      nml-ray cluster render cluster/lab.yaml my.yaml > job.sh
    """
    from nml_ray.cli.submitting import prepare

    prepared = prepare(job, cluster, assignments, storage, target, inline)
    text = prepared.backend.render(prepared.submission, prepared.package)
    click.echo(text, nl=not text.endswith("\n"))


@cluster.command()
@click.argument("cluster", metavar="CLUSTER")
def status(cluster: str) -> None:
    """Say what can be known of a cluster; refuse what cannot work.

    \b
    Examples:
      nml-ray cluster status cluster/lab.yaml
    """
    for line in _backend(cluster).check():
        click.echo(plain(line))


@cluster.command()
@click.argument("cluster", metavar="CLUSTER")
def up(cluster: str) -> None:
    """Bring a cluster up, where that is something to do.

    \b
    Examples:
      nml-ray cluster up cluster/aws.yaml
    """
    _backend(cluster).up()


@cluster.command()
@click.argument("cluster", metavar="CLUSTER")
def down(cluster: str) -> None:
    """Take a cluster down, and say what still runs of it.

    \b
    Examples:
      nml-ray cluster down cluster/aws.yaml
    """
    _backend(cluster).down()


def _backend(cluster: str) -> "Backend":
    from nml_ray.cli.submitting import open_cluster
    from nml_ray.cluster.backend import backend_of

    return backend_of(open_cluster(cluster)[0])
