"""How a job's pre-training data will be fed: what `plan` says of it, and what is refused before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nml_ray.config.document import Document
from nml_ray.config.errors import UserError
from nml_ray.data.order import epoch_sizes
from nml_ray.storage.artifact import Store
from nml_ray.study.execute import plan_job, store_of
from nml_ray.study.expand import Study
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned

if TYPE_CHECKING:  # a run that finds everything made imports no Arrow
    from nml_ray.data.mixing import Mixing


@dataclass(frozen=True)
class Feed:
    """One epoch in numbers.

    Attributes:
        samples, excluded: good samples, and those known to be bad.
        batch, repeats: of a step.
        steps, dropped: steps of an epoch, and good samples that it leaves out.
        microbatches: of a step.
        workers: the fewest and the most.
    """

    samples: int
    excluded: int
    batch: int
    repeats: int
    steps: int
    dropped: int
    microbatches: int
    workers: tuple[int, int]

    def idle(self, workers: int) -> float:
        """The share of the workers' time in which some wait for others, because W does not divide M."""
        return 1 - self.microbatches / (-(-self.microbatches // workers) * workers)

    def lines(self) -> list[tuple[str, str]]:
        """What a user is told: (name, text)."""
        excluded = f" ({self.excluded:,} known to be bad are excluded)" if self.excluded else ""
        copies = f", each {self.repeats} times" if self.repeats > 1 else ""
        steps = f"{self.steps:,} steps an epoch of {self.batch // self.repeats:,} samples{copies}"
        rest = "wait for a later epoch" if self.repeats > 1 else "are dropped each epoch"
        lines = [("samples", f"{self.samples:,}{excluded}: {steps}; {self.dropped:,} {rest}")]
        fit = [str(w) for w in range(1, self.microbatches + 1) if self.microbatches % w == 0]
        for workers in range(self.workers[0], self.workers[1] + 1):
            if idle := self.idle(workers):
                text = f"{workers} workers share {self.microbatches} microbatches unevenly: {idle:.0%} of their "
                lines.append(("idle", f"{text}time is spent waiting; even are run.workers {', '.join(fit)}"))
        return lines


def training_data(study: Study, planned: Mapping[str, Planned], store: Store | None) -> Any:
    """Where the data that a plan pre-trains on lies, as `Dataset.open` takes it; None where it does not or not yet, or
    is made and there is no store to look in."""
    name = next((name for name in ("shards/pretrain", "shards") if name in planned), "")
    if not name or all(one.stage.kind != "pretrain" for one in planned.values()):
        return None
    if name in study.given:
        return study.given[name].links.get("pretrain")
    artifact = store.artifact("shards", planned[name].digest) if store else None
    return artifact.path / "pretrain" if artifact else None


def feed_of(job: Job, document: Document, data: Any) -> Feed:
    """One epoch of a job that pre-trains, over the data set at `data`.

    Raises:
        UserError: fewer good samples than a batch, at the batch's place in the job file.
    """
    from nml_ray.data.files import files_of

    assert job.pretrain is not None
    settings, info = job.pretrain, files_of(data).info()
    samples = info.samples - len(info.known_bad)
    if samples < settings.batch:
        raise UserError(
            f"{samples} good samples are fewer than one batch of {settings.batch}",
            where=document.where(("pretrain", "batch")),
            expected=f"a batch of at most {samples}",
        )
    steps, dropped = epoch_sizes(samples, settings.batch, settings.repeats)
    sizes = (settings.batch, settings.repeats, steps, dropped)
    workers = job.run.least_workers, job.run.most_workers
    return Feed(samples, len(info.known_bad), *sizes, settings.microbatches(), workers)


def refuse_feed(job: Job, document: Document, target: str = "") -> None:
    """Refuse what `feed_of` refuses, where there is pre-training to do on data that is given or made already.

    `target` is the stage that the run goes up to.

    Raises:
        UserError: fewer good samples than a batch; data that the job names cannot be read.
    """
    refuse_feed_of(job, document, *plan_job(job, target))


def refuse_feed_of(job: Job, document: Document, study: Study, planned: Mapping[str, Planned]) -> None:
    """As `refuse_feed`, of a job that has been planned."""
    if all(one.state != "to do" for one in planned.values() if one.stage.kind == "pretrain"):
        return
    if data := training_data(study, planned, store_of(job)):
        feed_of(job, document, data)


def mixing(job: Job, data: Any) -> "Mixing | None":
    """How well the lanes of a job mix the classes; None where it reads no lanes, or there is nothing to mix."""
    from nml_ray.data.dataset import Dataset
    from nml_ray.data.mixing import mixing_of

    if job.pretrain is None or job.pretrain.order.kind != "lanes":
        return None
    order, dataset = job.pretrain.order, Dataset.open(data)
    if len(dataset.classes) < 2:
        return None
    return mixing_of(dataset, job.pretrain.batch, order.lanes, order.shuffle_block, job.pretrain.repeats)
