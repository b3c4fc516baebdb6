"""`nml-ray plan`: what a run would do."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from nml_ray.cli.options import job_options, read_job_of
from nml_ray.config.terminal import plain
from nml_ray.storage.patience import PLANNING, at_most

if TYPE_CHECKING:
    from nml_ray.study.feed import Feed
    from nml_ray.study.job import Job
    from nml_ray.study.plan import Planned


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

    With --cluster the cluster is asked whether it answers and takes your token, and a job is refused that it has no
    room for, or whose storage cannot be written or is too small; `nml-ray submit` refuses the same. Told is also what
    would be sent, the GPU-hours, and whether images are decoded as fast as a GPU takes them. Nothing is started.

    Of a sweep all stages of the trials that are known before it starts, each once; and the trials that cannot be run.

    \b
    Examples:
      nml-ray plan demo
      nml-ray plan demo --set noise.ratios=[0,0.1,0.2,0.3]
      nml-ray plan my.yaml --until extract
      nml-ray plan my.yaml --cluster lab.yaml --gpu H100
    """
    if cluster:
        return _on_cluster(job, cluster, assignments, storage, target, gpu)
    from nml_ray.study.encoder_names import refuse_encoders
    from nml_ray.study.execute import plan_job, store_of
    from nml_ray.study.feed import feed_of, training_data
    from nml_ray.study.machine_check import NO_GPU, missing_device, refuse_trackers

    settings, document = read_job_of(job, assignments, storage)
    study, planned = plan_job(settings, target)
    refuse_trackers(settings, document)
    data, feed, wrong = training_data(study, planned, store_of(settings)), None, dict[str, str]()
    if settings.sweep:
        from nml_ray.study.sweep_points import wrong_points

        wrong = wrong_points(settings, document, device=False)
    else:
        refuse_encoders(settings, document, planned)
        feed = feed_of(settings, document, data) if data else None
    lines = list(_stages(settings, planned))
    if field := missing_device(settings, planned):
        lines.append(f"device: {NO_GPU}, and a run on this machine with run.{field}: cuda is refused")
    return _tell([*lines, *_feeding(settings, feed, data)], wrong)


def _on_cluster(
    job: str, cluster: str, assignments: tuple[str, ...], storage: str | None, target: str, gpu: str
) -> int:
    from nml_ray.cli.fitting import Fitting
    from nml_ray.cli.reckoning import reckoned
    from nml_ray.cli.submitting import prepare

    prepared = prepare(job, cluster, assignments, storage, target)
    fitting, settings = Fitting(prepared), prepared.job
    told, lines = [fitting.package(), fitting.refuse_storage()], list[str]()
    fitting.refuse_encoders()
    data, feed, wrong = fitting.feeding()
    if fitting.study is None:
        lines.append(f"stages: not told, for they depend on data: {fitting.unknown}")
    else:
        lines += _stages(settings, fitting.planned, "to do" if fitting.certain else "unknown")
        lines += _feeding(settings, feed, data)
    for line in lines:  # what is known stays on the screen though the cluster does not answer
        click.echo(plain(line))
    found, misfits = fitting.room()
    disk = fitting.refuse_disk()
    told = [*(f"cluster: {line}" for line in prepared.backend.check()), *found, *told, *disk]
    told += [*reckoned(fitting, feed, data, gpu), *(f"warning: {line}" for line in fitting.warnings)]
    return _tell(list(filter(None, told)), wrong | misfits)


def _stages(job: "Job", planned: "Mapping[str, Planned]", to_do: str = "to do") -> Iterator[str]:
    """The stages, and where they lie. `to_do`: what those are called that are not there."""
    from nml_ray.study.encoder_names import remarks
    from nml_ray.study.execute import store_of

    width = max(map(len, planned), default=0)
    called = {name: to_do if one.state == "to do" else one.state for name, one in planned.items()}
    for name, one in planned.items():
        yield f"{name:<{width}}  {called[name]:<6}  {one.stage.kind}/{one.digest}"
    states = list(called.values())
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "the job asks for none"
    store = store_of(job)
    yield f"{len(planned)} stages: {counts} (storage: {store.mirror.remote if store.mirror else store.root})"
    if store.mirror:
        yield f"storage: worked on in {store.root}; two runs at once may make a stage twice there, never spoil it"
    yield from remarks(job)


def _feeding(job: "Job", feed: "Feed | None", data: Any) -> Iterator[str]:
    from nml_ray.study.feed import mixing

    if feed:
        mixed = mixing(job, data)
        for name, text in [*feed.lines(), *(mixed.lines(str(data)) if mixed else ())]:
            yield f"{name}: {text}"


def _tell(lines: list[str], wrong: Mapping[str, str]) -> int:
    for line in lines:
        click.echo(plain(line))
    for name, mistake in wrong.items():
        click.echo(f"nml-ray: trial {name}: {mistake}", err=True)
    return 2 if wrong else 0
