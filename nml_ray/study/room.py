"""Whether a job's stages have room on a cluster: what each kind needs at once against what the nodes have. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Protocol

from nml_ray.config.document import Document, KeyPath
from nml_ray.config.errors import UserError
from nml_ray.study.job import Job

Node = Mapping[str, float]
"""What a node has, by Ray's names; infinite: not known."""

_LEEWAY = 1e-9
_MANY = 1e6


class Size(Protocol):
    """A cluster.

    Attributes:
        nodes: on which work is placed.
        most: of them that there are at once; all when None.
        enlarge: what gives it more room, for messages.
        now: whether this is how it is at present, and not as large as it may grow.
    """

    @property
    def nodes(self) -> Sequence[Node]: ...
    @property
    def most(self) -> int | None: ...
    @property
    def enlarge(self) -> str: ...
    @property
    def now(self) -> bool: ...


@dataclass(frozen=True)
class Wanted:
    """Processes of a kind of stage.

    Attributes:
        kind: of stage.
        what: the work, in words.
        field: of the job that says how many.
        least, most: of them, side by side.
        cpus, gpus: of each, on one node.
        fewer: fields of the job that make it need less.
    """

    kind: str
    what: str
    field: KeyPath
    least: int
    most: int
    cpus: float
    gpus: float
    fewer: str

    def room(self, size: Size) -> int:
        """How many a cluster holds at once."""
        each = sorted((self._on(node) for node in size.nodes), reverse=True)
        return sum(each if size.most is None else each[: size.most])

    def _on(self, node: Node) -> int:
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        shares = [node.get(name, 0) / amount for name, amount in needs.items() if amount]
        return floor(min(*shares, _MANY) + _LEEWAY)


@dataclass(frozen=True)
class Misfit:
    """A kind of stage that a cluster has no room for, and how the user is told of it."""

    kind: str
    error: UserError


def wanted(job: Job, kinds: Collection[str], inline: bool = False) -> list[Wanted]:
    """What the stages of these kinds need at once; `inline` one process does all, on whatever CPUs there are."""
    run, gpu = job.run, float(job.run.device == "cuda")
    with_images = float(job.threads + run.decode_threads)
    found = []
    if job.pretrain and "pretrain" in kinds:
        fewer = "run.workers, threads or run.decode_threads"
        numbers = run.least_workers, run.most_workers
        found.append(Wanted("pretrain", "pre-training", ("run", "workers"), *numbers, with_images, gpu, fewer))
    if job.extracts() and "extract" in kinds:
        gpus, fewer = gpu * run.extract_gpus, "threads, run.decode_threads or run.extract_gpus"
        place = ("run", "extract_workers")
        numbers = run.least_extract_workers, run.most_extract_workers
        found.append(
            Wanted("extract", "extraction", place, *numbers, with_images, gpus, f"run.extract_workers, {fewer}")
        )
    if job.heads and "heads" in kinds and run.heads_on == "cuda":
        place = ("run", "head_device")
        found.append(Wanted("heads", "fitting heads", place, 1, 1, 1, 1, "run.head_device: cpu"))
    if inline:
        return [replace(one, least=1, most=1, cpus=0, gpus=min(one.gpus, 1)) for one in found if one.gpus]
    return found


def misfits(
    job: Job, document: Document, size: Size, kinds: Collection[str], inline: bool = False
) -> tuple[list[Misfit], list[str]]:
    """Work that would wait for ever on a cluster; and what is said of the rest, in lines.

    Args:
        job: the job, or one trial of a sweep.
        document: where its settings stand.
        size: the cluster.
        kinds: of stages that are to do.
        inline: all in one process.
    """
    wrong, lines = [], list[str]()
    for one in wanted(job, kinds, inline):
        there = one.room(size)
        if there < one.least:
            wrong.append(Misfit(one.kind, _misfit(one, document, size, there)))
            continue
        if one.most > there:
            lines.append(f"room: {one.what} gets {there} of up to {one.most} workers")
        if one.kind == "pretrain" and not inline:
            lines += _trials(job, size)
    return wrong, lines


def _misfit(one: Wanted, document: Document, size: Size, there: int) -> UserError:
    each = _words({name: amount for name, amount in (("CPU", one.cpus), ("GPU", one.gpus)) if amount})
    limit = f", {size.most} of them at most" if size.most is not None else ""
    return UserError(
        f"{one.what} takes {one.least} process(es) that need {each} each, on one node; the cluster has room for"
        f" {there} (nodes: {_nodes(size.nodes, bool(one.gpus))}{limit})",
        where=document.where(one.field),
        expected=f"{size.enlarge}, or less {one.fewer}",
    )


def runs_of(job: Job) -> int:
    """Runs of pre-training that a job has: of the arms that share a worker one for each seed."""
    assert job.pretrain
    arms = len(job.noise.arms()) if job.noise else 1
    return ceil(arms / (job.run.arms_together or arms)) * len(job.pretrain.seeds)


def side_by_side(job: Job, size: Size) -> int:
    """As many runs like a job's as have room at once."""
    one = wanted(job, ("pretrain",))[0]
    return max(1, one.room(size) // one.most)


def _trials(job: Job, size: Size) -> list[str]:
    runs = runs_of(job)
    at_once = min(runs, side_by_side(job, size))
    return [f"room: {runs} runs of pre-training, up to {at_once} at a time"] if runs > 1 else []


def _nodes(nodes: Sequence[Node], gpus: bool) -> str:
    names = ("CPU", "GPU") if gpus else ("CPU",)
    counts = Counter(
        _words({name: node.get(name, 0) for name in names if node.get(name, 0) != inf}) or "any" for node in nodes
    )
    return ", ".join(f"{count} with {words}" for words, count in counts.items()) or "none"


def _words(resources: Node) -> str:
    return " and ".join(f"{amount:g} {name}{'s' * (amount != 1)}" for name, amount in resources.items())
