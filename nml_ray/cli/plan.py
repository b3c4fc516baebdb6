"""`nml-ray plan`: what a run would do."""

import click

from nml_ray.cli.options import job_options, read_job_of
from nml_ray.storage.patience import PLANNING, at_most


@click.command()
@job_options
@click.option("--until", "target", metavar="STAGE", default="", help="Only up to a stage or a kind of stage.")
@click.option("--cluster", metavar="CLUSTER", help="Also whether it fits this cluster: a file, or a name that ships.")
@click.option(
    "--gpu",
    metavar="NAME",
    default="A100",
    show_default=True,
    help="With --cluster, GPU by whose peak hours are reckoned.",
)
@at_most(PLANNING)
def plan(
    job: str, assignments: tuple[str, ...], storage: str | None, target: str, cluster: str | None, gpu: str
) -> int:
    """List a job's stages, each cached or to do, and how its training data will be fed; nothing is run.

    With --cluster a job is refused that the cluster has no room for, or whose storage cannot be written or is too
    small; and told is what would be sent, and the GPU-hours that pre-training takes. Nothing is sent or started.

    Of a sweep all stages of the trials that are known before it starts, each once; and the trials that cannot be run.

    \b
    Examples:
      nml-ray plan demo
      nml-ray plan demo --set noise.ratios=[0,0.1,0.2,0.3]
      nml-ray plan my.yaml --until extract
      nml-ray plan my.yaml --cluster lab.yaml --gpu H100
    """
    from nml_ray.study.encoder_names import refuse_encoders, remarks
    from nml_ray.study.execute import plan_job, store_of
    from nml_ray.study.feed import feed_of, mixing, training_data
    from nml_ray.study.machine_check import NO_GPU, missing_device, refuse_trackers

    settings, document = read_job_of(job, assignments, None if cluster else storage)
    on_cluster = None
    if cluster:
        from nml_ray.cli.fitting import open_prepared

        on_cluster = open_prepared(job, cluster, assignments, storage, target, gpu)
        settings = on_cluster.prepared.job
    study, planned = plan_job(settings, target)
    refuse_trackers(settings, document)
    data, feed, wrong = training_data(study, planned, store_of(settings)), None, dict[str, str]()
    if settings.sweep:
        from nml_ray.study.sweep_points import wrong_points

        wrong = wrong_points(settings, document, device=False)
    else:
        refuse_encoders(settings, document, planned)
        feed = feed_of(settings, document, data) if data else None
    fitting = on_cluster.lines(document, planned, feed) if on_cluster else []
    width = max(map(len, planned))
    for name, one in planned.items():
        click.echo(f"{name:<{width}}  {one.state:<6}  {one.stage.kind}/{one.digest}")
    states = [one.state for one in planned.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    store = store_of(settings)
    click.echo(f"{len(planned)} stages: {counts} (storage: {store.mirror.remote if store.mirror else store.root})")
    if store.mirror:
        click.echo(f"storage: worked on in {store.root}; two runs at once may make a stage twice there, never spoil it")
    if not cluster and (field := missing_device(settings, planned)):
        click.echo(f"device: {NO_GPU}, and a run on this machine with run.{field}: cuda is refused")
    for line in remarks(settings):
        click.echo(line)
    if feed:
        mixed = mixing(settings, data)
        for name, text in [*feed.lines(), *(mixed.lines(str(data)) if mixed else ())]:
            click.echo(f"{name}: {text}")
    for line in fitting:
        click.echo(line)
    for name, mistake in wrong.items():
        click.echo(f"nml-ray: trial {name}: {mistake}", err=True)
    return 2 if wrong else 0
