"""A job from plan to report: the run's directory, the stages, what is said at the end."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.artifact import Store
from nml_ray.storage.location import Location, locate
from nml_ray.storage.mirror import mirror_at, mirror_of, working_root
from nml_ray.storage.twin import bring_directory, publish_directory, tell
from nml_ray.study.display import Display
from nml_ray.study.expand import Study, expand
from nml_ray.study.graph import ordered, until
from nml_ray.study.job import Job, read_job
from nml_ray.study.listing import listed
from nml_ray.study.partial import without_tasks
from nml_ray.study.plan import Planned, plan
from nml_ray.study.runner import Outcome, run
from nml_ray.study.stage import digests
from nml_ray.study.task import Context
from nml_ray.study.version import Version, running

STUDIES = "studies"
REPORT = "report.html"
HEADLINE = "headline.txt"
JOB = "job.yaml"


@dataclass(frozen=True)
class Run:
    """A job that has been run: its directory, what was made and what failed, and of a sweep a few lines about it."""

    directory: Path
    outcome: Outcome
    summary: tuple[str, ...] = ()

    @property
    def report(self) -> Path | None:
        """The report, if there is one."""
        path = self.directory / REPORT
        return path if "report" in self.outcome.artifacts and path.exists() else None

    @property
    def headline(self) -> str:
        """What the report says in a few lines, or ""."""
        report = self.outcome.artifacts.get("report")
        path = report.path / HEADLINE if report else None
        return path.read_text(encoding="utf-8").strip() if path and path.exists() else ""


def store_of(job: Job) -> Store:
    """Where the job's artifacts lie: its storage, or this machine's working root of one on an object store."""
    return Store(working_root(job.run.storage, job.run.scratch))


def study_names(storage: str) -> list[str]:
    """The studies of a storage, by path or URL.

    Raises:
        UserError: it cannot be reached.
    """
    studies = Store(working_root(storage)).root / STUDIES
    mirror = mirror_of(studies)
    names = set(remote.names(mirror.at(studies))) if mirror else set()
    return sorted(names | {path.parent.name for path in studies.glob(f"*/{JOB}")})


def run_directory(job: Job) -> Path:
    """Where the job's own files lie: job.yaml, stages.json, the report."""
    return store_of(job).root / STUDIES / job.name


def read_run(directory: Path) -> Job:
    """The job that a study's directory keeps, with the storage in which that directory lies now.

    Raises:
        UserError: it cannot be read.
    """
    root = directory.parent.parent
    mirror = mirror_at(root)
    places = {"storage": str(mirror.remote), "scratch": mirror.scratch} if mirror else {"storage": str(root)}
    assignments = tuple(f"run.{name}={json.dumps(place)}" for name, place in places.items())
    return read_job(directory / JOB, assignments)[0]


def open_run(text: str) -> Path:
    """The directory that a user means, of a study or an artifact; a study's files are brought where it is a URL.

    Raises:
        UserError: it cannot be reached.
    """
    location = locate(text, "RUN")
    if not location.remote:
        return location.local
    attempt = location.name.startswith("attempt-")
    *above, kind, name = location.path.split("/")[: -1 if attempt else None]
    if not above:
        raise UserError(f"'{text}'", where="RUN", expected="the URL of a study or an artifact, below a storage")
    directory = working_root(str(Location(location.scheme, "/".join(above), location.options))) / kind / name
    if kind == STUDIES:
        bring_directory(directory)
    else:
        Store(directory.parent.parent).artifact(kind, name)
    return directory


def plan_job(job: Job, target: str = "") -> tuple[Study, dict[str, Planned]]:
    """The stages of a job and their plan, up to `target` (a stage or a kind) if that is given; of a sweep those of the
    trials that are known before anything has run.

    Raises:
        UserError: there is no such stage; data that the job names cannot be read.
    """
    study = stages_of(job)
    return study, plan_study(study, store_of(job), target)


def plan_study(study: Study, store: Store, target: str = "") -> dict[str, Planned]:
    """The plan of stages, up to `target`.

    Raises:
        UserError: there is no such stage.
    """
    stages = ordered(study.stages)
    if target:
        stages = until(stages, target)
    known = digests(stages)
    there = store.artifacts((stage.kind, known[name]) for name, stage in stages.items() if name not in study.given)
    return plan(stages.values(), lambda kind, digest: (kind, digest) in there, study.given)


def stages_of(job: Job) -> Study:
    """The stages of a job, of a sweep those of the trials that are known before anything has run.

    Raises:
        UserError: data that the job names cannot be read.
    """
    if job.sweep is None:
        return expand(job)
    from nml_ray.study.sweep import first_round

    return first_round(job)


def execute(job: Job, display: Display, *, target: str = "", inline: bool = False, address: str = "") -> Run:
    """Make what the job lacks and leave its directory behind.

    Args:
        job: what to make.
        display: where the run shows itself.
        target: a stage or a kind to stop at.
        inline: in this process, without Ray.
        address: of a Ray that is running, to run on that; see `session.join`.

    Raises:
        UserError: the job's data or settings turn out to be wrong.
    """
    directory = run_directory(job)
    if job.sweep and target:
        raise UserError("a sweep has no single stage", where="--until", expected="a job without 'sweep'")
    known = None if job.sweep else plan_job(job, target)
    version = Version(directory, job.model_dump(mode="json"), job_text(job))
    set_threads(job, inline)
    ray = (lambda: _start_ray(job, address, display), _stop_ray, lambda: _nodes(job, address, display))
    context = Context(store_of(job), inline, job.threads, job.run, *ray)
    with running(context.store, version) as others:
        for other in others:
            display.say(f"another job called '{job.name}' is running ({other}): this one takes over {directory}")
        if known is None:
            done = _run_sweep(job, context, display, version)
        else:
            outcome = _run_plan(*known, context, display, version, bool(job.tasks))
            done = Run(_place(version), outcome)
        publish_directory(directory)
    return done


def _run_plan(
    study: Study,
    planned: Mapping[str, Planned],
    context: Context,
    display: Display,
    version: Version,
    tasks: bool,
) -> Outcome:
    """Make the stages; with `tasks`, a mistake in the data of one leaves the others to their end and their report."""
    one_by_one = ("extract", "spectrum", "heads") if tasks else ()
    with listed(version.directory, version) as listing:
        listing.begin(planned)
        tell(version.directory / JOB)
        outcome = run(planned, context, display, study.given, version.links, one_by_one, listing.heard)
        if "report" in outcome.left_out and (rest := without_tasks(study, {*outcome.failures, *outcome.left_out})):
            del outcome.left_out["report"]
            listing.begin(plan := plan_study(rest, context.store))
            outcome.add(run(plan, context, display, rest.given, version.links, heard=listing.heard))
    _copy_report(_place(version), outcome)
    return outcome


def _place(version: Version) -> Path:
    """Where what a job leaves beside its list goes: to the study's own files unless another job has taken those."""
    return version.directory if version.latest else version.place


def _run_sweep(job: Job, context: Context, display: Display, version: Version) -> Run:
    """All trials, their table, and the best one as a study of its own."""
    from nml_ray.study.sweep import best_study, failures, sweep
    from nml_ray.study.sweep_table import TABLE, summary, write_table

    with listed(version.directory, version) as listing:
        swept = sweep(job, context, display, version.links, listing)
    table = _place(version) / TABLE
    write_table(table, swept)
    tell(table)  # before stages.json is of the best alone
    outcome = Outcome()
    if best := best_study(job, swept):
        outcome = _run_plan(best, plan_study(best, context.store), context, display, version, bool(job.tasks))
    outcome.failures.update(failures(swept))
    return Run(table.parent, outcome, tuple(summary(swept, table)))


def set_threads(job: Job, inline: bool) -> None:
    """Say how torch is to compute; libgomp reads it when torch is imported, here and in Ray's workers."""
    # Threads that spin at barriers starve each other as soon as anything else runs: with both of two cores shared,
    # pre-training did 85 images/s spinning and 679 sleeping.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if inline:
        os.environ["OMP_NUM_THREADS"] = str(job.threads)


def job_text(job: Job) -> bytes:
    """The job as it was understood, all defaults filled in."""
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()


def _start_ray(job: Job, address: str, display: Display) -> None:
    from nml_ray import session

    if address:
        session.join(address, display.say)
        return
    session.start(max(job.run.cpus or session.available_cpus(), job.least_cpus()))


def _stop_ray() -> None:
    from nml_ray import session

    session.stop()


def _nodes(job: Job, address: str, display: Display) -> Sequence[Mapping[str, float]]:
    from nml_ray import session

    _start_ray(job, address, display)
    return session.nodes()


def _copy_report(directory: Path, outcome: Outcome) -> None:
    if "report" not in outcome.artifacts:
        return
    for source in sorted(outcome.artifacts["report"].path.iterdir()):
        if source.suffix in (".html", ".csv", ".tex", ".md", ".txt"):
            aside = directory / f".{source.name}.aside"
            shutil.copyfile(source, aside)
            os.replace(aside, directory / source.name)
