"""What a job asks of a cluster and its storage, against what they have: refused with the fix before anything starts."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from uuid import uuid4

from nml_ray.config.document import Document, KeyPath
from nml_ray.config.errors import UserError
from nml_ray.storage import remote
from nml_ray.storage.location import Location
from nml_ray.storage.patience import Patience
from nml_ray.storage.shard_cache import size_text
from nml_ray.study.job import Job

Node = Mapping[str, float]
"""What a node has, by Ray's names."""

UTILISATION = 0.3
"""Share of a GPU's peak that training is reckoned to reach."""

_LEEWAY = 1e-9
_BRIEFLY = Patience(total=5)


@dataclass(frozen=True)
class Wanted:
    """Processes of a kind of stage.

    Attributes:
        what: the work, in words.
        field: of the job that says how many.
        least, most: of them, side by side.
        cpus, gpus: of each, on one node.
        fewer: fields of the job that make it need less.
    """

    what: str
    field: KeyPath
    least: int
    most: int
    cpus: float
    gpus: float
    fewer: str

    def room(self, nodes: Sequence[Node]) -> int:
        """How many the nodes hold at once."""
        return sum(self._on(node) for node in nodes)

    def _on(self, node: Node) -> int:
        shares = [node.get("CPU", 0) / self.cpus, *([node.get("GPU", 0) / self.gpus] if self.gpus else [])]
        return floor(min(min(shares), 1e6) + _LEEWAY)


def wanted(job: Job, kinds: Collection[str]) -> list[Wanted]:
    """What the stages of these kinds need at once."""
    run, gpu = job.run, float(job.run.device == "cuda")
    with_images = float(job.threads + run.decode_threads)
    found = []
    if job.pretrain and "pretrain" in kinds:
        fewer = "run.workers, threads or run.decode_threads"
        numbers = run.least_workers, run.most_workers
        found.append(Wanted("pre-training", ("run", "workers"), *numbers, with_images, gpu, fewer))
    if job.extracts() and "extract" in kinds:
        gpus, fewer = gpu * run.extract_gpus, "threads, run.decode_threads or run.extract_gpus"
        found.append(Wanted("extraction", ("run", "extract_workers"), 1, 1, with_images, gpus, fewer))
    if job.heads and "heads" in kinds and run.heads_on == "cuda":
        found.append(Wanted("fitting heads", ("run", "head_device"), 1, 1, 1, 1, "run.head_device: cpu"))
    return found


def refuse_room(job: Job, document: Document, nodes: Sequence[Node], enlarge: str, kinds: Collection[str]) -> list[str]:
    """Refuse work that would wait for ever on a cluster; what is said of the rest, in lines.

    Args:
        job: the job.
        document: where its settings stand.
        nodes: of the cluster when it is as large as it may grow.
        enlarge: fields of the cluster file that make it larger.
        kinds: of stages that are to do.

    Raises:
        UserError: at the place in the job file.
    """
    lines = []
    for one in wanted(job, kinds):
        if (there := one.room(nodes)) < one.least:
            each = _words({"CPU": one.cpus, **({"GPU": one.gpus} if one.gpus else {})})
            raise UserError(
                f"{one.what} takes {one.least} process(es) that need {each} each, on one node; the cluster has room for"
                f" {there} (nodes: {_nodes(nodes, bool(one.gpus))})",
                where=document.where(one.field),
                expected=f"more {enlarge} in the cluster file, or less {one.fewer}",
            )
        if one.most > there:
            lines.append(f"room: {one.what} gets {there} of up to {one.most} workers")
        if one.what == "pre-training":
            lines += _trials(job, there, one)
    return lines


def _trials(job: Job, there: int, one: Wanted) -> list[str]:
    assert job.pretrain
    arms = len(job.noise.arms()) if job.noise else 1
    runs = ceil(arms / (job.run.arms_together or arms)) * len(job.pretrain.seeds)
    at_once = min(runs, max(1, there // one.most))
    return [f"room: {runs} runs of pre-training, up to {at_once} at a time"] if runs > 1 else []


def _nodes(nodes: Sequence[Node], gpus: bool) -> str:
    names = ("CPU", "GPU") if gpus else ("CPU",)
    counts = Counter(
        _words({name: node.get(name, 0) for name in names if node.get(name, 0) < 1e6}) or "any" for node in nodes
    )
    return ", ".join(f"{count} with {words}" for words, count in counts.items()) or "none"


def _words(resources: Node) -> str:
    return " and ".join(f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in resources.items())


def refuse_storage(place: Location, where: str) -> None:
    """Refuse storage in which nothing can be written: a small object is, and is removed. Of a directory that does not
    exist that in which it would be made is looked at.

    Raises:
        UserError: at `where`.
    """
    if place.remote:
        probe = place / f"writable-{uuid4().hex}"
        try:
            remote.write(b"{}", probe, _BRIEFLY)
            remote.remove(probe)
        except UserError as error:
            raise UserError(f"storage cannot be written: {error}", where=where) from None
        return
    directory = _existing(place.local)
    try:
        with tempfile.NamedTemporaryFile(prefix=".writable-", dir=directory):
            pass
    except OSError as error:
        raise UserError(
            f"storage {place} cannot be written ({directory}: {error.strerror})",
            where=where,
            expected="a directory that you may write to, or a URL: --storage",
        ) from None


def refuse_disk(place: Path, needed: int, where: str) -> str:
    """Refuse a disk that has no room for the checkpoints; what they take, in a line.

    Args:
        place: the storage.
        needed: bytes.
        where: the setting that names the storage.

    Raises:
        UserError: at `where`.
    """
    free = shutil.disk_usage(_existing(place)).free
    if needed > free:
        raise UserError(
            f"checkpoints and encoders take up to {size_text(needed)}, and {place} has {size_text(free)} free",
            where=where,
            expected="another disk (--storage), fewer run.keep_checkpoints or fewer arms at once; `nml-ray gc` lists"
            " what no study needs",
        )
    return f"disk: checkpoints and encoders take up to {size_text(needed)} of {size_text(free)} free"


def checkpoint_bytes(job: Job, parameters: int, arms: int) -> int:
    """Bytes of disk that pre-training takes at most: the checkpoints of all arms of one seed, kept and being written,
    the best ones, and in the end every arm's encoder.

    Args:
        job: the job.
        parameters: of the model.
        arms: to do, over all seeds.
    """
    assert job.pretrain
    weights = 4 * parameters * (2 if job.pretrain.average else 1)
    state = 4 * parameters * (1 if job.pretrain.optimiser.name == "sgd" else 2)
    together = ceil(arms / len(job.pretrain.seeds)) if job.run.arms == "shared" else arms
    best = 2 * weights if "pretrain_validation" in job.given_splits() else 0
    return together * ((job.run.keep_checkpoints + 1) * (weights + state) + best) + arms * 4 * parameters


def gpu_hours(images: float, forward_flops: float, arms: int, peak: float) -> float:
    """Hours of one GPU that training takes: three passes' FLOPs (forwards, and twice that backwards) of every image.

    Args:
        images: that one arm is fed.
        forward_flops: of one image.
        arms: to do, over all seeds.
        peak: FLOP/s of the GPU, of which `UTILISATION` is reached.
    """
    return images * forward_flops * 3 * arms / (peak * UTILISATION) / 3600


def _existing(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    return next(one for one in (path, *path.parents) if one.exists())
