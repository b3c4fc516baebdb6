"""What a job will take of its cluster's GPUs, in lines: hours, their price, and whether images come fast enough."""

from typing import TYPE_CHECKING, Any

from nml_ray.cli.fitting import Fitting
from nml_ray.config.errors import UserError, nearest_name
from nml_ray.pretrain.peaks import PEAKS, peak_of
from nml_ray.study.hours import UTILISATION, Hours, hours_of, passes
from nml_ray.study.job import Job

if TYPE_CHECKING:
    from nml_ray.pretrain.estimate import Estimate
    from nml_ray.study.feed import Feed


def reckoned(fitting: Fitting, feed: "Feed | None", data: Any, gpu: str) -> list[str]:
    """Lines on GPU-hours and decoding.

    Args:
        fitting: the job and its cluster.
        feed: how pre-training is fed, where its data is there.
        data: the training set, as `Dataset.open` takes it; None where it is not there.
        gpu: by whose peak is reckoned.

    Raises:
        UserError: a GPU whose peak is not known.
    """
    job = fitting.prepared.job
    if "cuda" not in (job.run.device, job.run.heads_on):
        return ["GPU-hours: none, run.device is cpu"]
    if peak_of(gpu, "float32") is None:
        raise UserError(
            f"GPU '{gpu}'", where="--gpu", expected="one of " + ", ".join(PEAKS), nearest=nearest_name(gpu, PEAKS)
        )
    if job.sweep:
        return [
            "GPU-hours: not known of a sweep, whose trials share stages; `nml-ray plan` of one trial's job tells them"
        ]
    if fitting.study is None:
        return [f"GPU-hours: not known, for what is to do is not: {fitting.unknown}"]
    size = _size(job) if fitting.arms() and job.run.device == "cuda" else None
    cluster = fitting.prepared.cluster
    found = hours_of(
        job, fitting.study, fitting.planned, fitting.store, feed, size, lambda kind: peak_of(gpu, kind) or 0.0
    )
    lines = [one.line(cluster.gpu_hour_price, cluster.currency) for one in found]
    lines += _total(found, cluster.gpu_hour_price, cluster.currency)
    if any(one.hours is not None for one in found):
        made = "" if fitting.certain else ", as if nothing were made already"
        lines.append(f"GPU-hours are those of one {gpu} at {UTILISATION:.0%} of its peak{made}")
    return [*(lines or ["GPU-hours: none, no stage that takes a GPU is to do"]), *_hunger(fitting, size, data, gpu)]


def _size(job: Job) -> "Estimate | None":
    from nml_ray.pretrain.estimate import estimate_of

    assert job.pretrain
    return estimate_of(job.pretrain)


def _total(found: list[Hours], price: float | None, currency: str) -> list[str]:
    known = [one.hours for one in found if one.hours is not None]
    if len(found) < 2 or not known:
        return []
    least = "at least " if len(known) < len(found) else ""
    cost = f", {sum(known) * price:,.2f} {currency}" if price is not None else ""
    return [f"GPU-hours in all: {least}{sum(known):.3g}{cost}"]


def _hunger(fitting: Fitting, size: "Estimate | None", data: Any, gpu: str) -> list[str]:
    """A line where a GPU would wait for images to be decoded."""
    job = fitting.prepared.job
    if size is None or not data:
        return []
    from nml_ray.data.dataset_info import read_info
    from nml_ray.study.appetite import Feeding, hunger

    assert job.pretrain
    info = read_info(data)
    arms = len(job.noise.arms()) if job.noise else 1
    peak = peak_of(gpu, job.pretrain.precision)
    assert peak
    feeding = Feeding(
        bytes_each=sum(shard.bytes for shard in info.shards) / max(info.samples, 1),
        threads=job.threads,
        decode_threads=job.run.decode_threads,
        arms=min(arms, job.run.arms_together or arms),
        microbatch=job.pretrain.microbatch_size(),
        seconds_each=passes(job.pretrain) * size.forward_flops / (peak * UTILISATION),
        cpus=_cpus_of_a_gpu(fitting),
    )
    return [line] if (line := hunger(feeding)) else []


def _cpus_of_a_gpu(fitting: Fitting) -> float | None:
    """The most CPUs that a GPU has on a node of the cluster; None where it is not known."""
    nodes = fitting.size.nodes if fitting.size else ()
    shares = [node["CPU"] / node["GPU"] for node in nodes if 0 < node.get("GPU", 0) < 1e6 and node.get("CPU", 0) < 1e6]
    unknown = any(node.get("GPU", 0) and node.get("CPU", 0) >= 1e6 for node in nodes)
    return None if unknown or not shares else max(shares)
