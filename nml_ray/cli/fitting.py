"""Whether a job fits the cluster that it is for: the cluster's numbers, as plain data, against the job's needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nml_ray.cli.options import find_job
from nml_ray.cli.submitting import SHARED, Prepared, open_cluster, prepare, storage_place
from nml_ray.cluster.size import size_of_cluster
from nml_ray.config.document import Document
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.storage.location import locate
from nml_ray.storage.shard_cache import size_text
from nml_ray.study import refusals
from nml_ray.study.job import Job, read_job
from nml_ray.study.plan import Planned

if TYPE_CHECKING:
    from nml_ray.cluster.config import AnyCluster
    from nml_ray.study.feed import Feed

ALL = ("pretrain", "extract", "heads")


@dataclass(frozen=True)
class OnCluster:
    """A job as it would be submitted, and where to. `where`: the setting that names the storage."""

    prepared: Prepared
    cluster: "AnyCluster"
    where: str
    gpu: str

    def lines(self, document: Document, planned: Mapping[str, Planned], feed: "Feed | None") -> list[str]:
        """What the cluster has for the stages that are to do, and what they take of it.

        Raises:
            UserError: see `refuse_misfit` and `fit`.
        """
        to_do = [one.stage.kind for one in planned.values() if one.state == "to do"]
        found = refuse_misfit(self.prepared.job, document, self.cluster, set(to_do))
        arms = 0 if self.prepared.job.sweep else to_do.count("pretrain")
        return [*found, *fit(self.prepared, self.cluster, self.where, arms, feed, self.gpu)]


def open_prepared(
    job: str, cluster: str, assignments: tuple[str, ...], storage: str | None, target: str, gpu: str
) -> OnCluster:
    """A job and its cluster, read and packed as `submit` does; its storage is written to, where that can be done here.

    Raises:
        UserError: see `submitting.prepare`; storage cannot be written.
    """
    prepared = prepare(job, cluster, assignments, storage, target)
    settings, cluster_document = open_cluster(cluster)
    document = read_job(find_job(job), assignments)[1]
    where = storage_place(storage, settings, cluster_document, document)
    place = locate(prepared.submission.storage)
    if place.remote or settings.kind in SHARED:
        refusals.refuse_storage(place, where)  # at once: to plan, it is asked what is there
    return OnCluster(prepared, settings, where, gpu)


def refuse_misfit(
    job: Job, document: Document, cluster: "AnyCluster", kinds: Collection[str] = ALL, inline: bool = False
) -> list[str]:
    """Refuse work that a cluster has no room for; what else is to say of it, in lines. It asks nobody.

    Raises:
        UserError: at the place in the job file.
    """
    size = size_of_cluster(cluster)
    if size is None or inline or job.sweep:
        return []
    return refusals.refuse_room(job, document, size.nodes, size.enlarge, kinds)


def fit(prepared: Prepared, cluster: "AnyCluster", where: str, arms: int, feed: "Feed | None", gpu: str) -> list[str]:
    """What a job will take of its cluster, in lines.

    Args:
        prepared: the job as it would be submitted.
        cluster: where to.
        where: the setting that names the storage.
        arms: of pre-training that are to do, over all seeds.
        feed: how one is fed, where its data is there.
        gpu: by whose peak hours are reckoned.

    Raises:
        UserError: storage has no room; a GPU whose peak is not known.
    """
    package, place = prepared.package, locate(prepared.submission.storage)
    lines = [f"code: {len(package.files):,} files, {size_text(package.size)}, of at most {cluster.code.limit}"]
    if place.remote or cluster.kind in SHARED:
        lines.append(f"storage: {place} can be written")
    else:
        lines.append(f"storage: {place} lies on the cluster's machines, and is not looked at from here")
    if not arms:
        return lines
    from nml_ray.pretrain.estimate import estimate_of

    job = prepared.job
    assert job.pretrain
    estimate = estimate_of(job.pretrain)
    if estimate is None:
        return [*lines, f"size: of {job.pretrain.encoder.name} nothing is known without building it"]
    if not place.remote and cluster.kind in SHARED:
        needed = refusals.checkpoint_bytes(job, estimate.parameters, arms)
        lines.append(refusals.refuse_disk(place.local, needed, where))
    if job.run.device == "cuda":
        lines += _hours(job, cluster, estimate.forward_flops, arms, feed, gpu)
    return lines


def _hours(job: Job, cluster: "AnyCluster", flops: float, arms: int, feed: "Feed | None", gpu: str) -> list[str]:
    from nml_ray.pretrain.hardware import PEAKS, peak_of

    assert job.pretrain
    if feed is None:
        return ["GPU-hours: not known before the training data is here"]
    if job.pretrain.objective == "clip":
        return ["GPU-hours: not reckoned for clip, whose text counts too"]
    peak = peak_of(gpu, job.pretrain.precision)
    if peak is None:
        raise UserError(
            f"GPU '{gpu}'", where="--gpu", expected="one of " + ", ".join(PEAKS), nearest=nearest_name(gpu, PEAKS)
        )
    images = float(job.pretrain.epochs * feed.steps * feed.batch)
    hours = refusals.gpu_hours(images, flops, arms, peak)
    price = cluster.gpu_hour_price
    cost = f", {hours * price:,.2f} {cluster.currency}" if price is not None else ""
    reckoned = f"{arms} arm(s) of {images:,.0f} images, {flops / 1e9:.3g} GFLOPs forwards and twice that backwards"
    return [f"GPU-hours: {hours:.3g}{cost} ({reckoned}, on {gpu} at {refusals.UTILISATION:.0%} of its peak)"]
