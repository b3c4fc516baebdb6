"""From measured numbers to a verdict: the bottleneck, the hours, and what to change. Pure functions of plain data.

A worker reads, decodes, copies and computes side by side, so it runs at the rate of the slowest; where decoding and
computing share the cores, at the rate at which the cores' time is used up. Every advice is a change whose effect is
worked out from the same numbers, and is given only where it saves a twentieth of the time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

WORTH = 0.95  # of the time: a change that saves less is no advice
SAME = 0.98  # of the best rate: as good as the best


@dataclass(frozen=True)
class Work:
    """What a job pre-trains.

    Attributes:
        images: fed to one arm of one seed, all epochs together.
        epochs: of those images.
        seeds, arms: every arm is trained once for each seed.
        arms_per_worker: arms that share one stream of decoded images.
        microbatches: of a batch: the most workers that a run can use.
        bytes: of the data set.
        sweep: arms of all seeds are trials, as many at once as the cores allow; otherwise seeds follow each other.
        order: `full` or `lanes`.
    """

    images: float
    epochs: int
    seeds: int
    arms: int
    arms_per_worker: int
    microbatches: int
    bytes: float
    sweep: bool = False
    order: str = "full"


@dataclass(frozen=True)
class Rates:
    """Measured on this machine; rates are images a second.

    Attributes:
        cores: usable.
        memory: bytes that the page cache may take.
        workers: of a run.
        threads, decode_threads: of a worker.
        read_random, read_sequence: cold, by a worker's decode threads from places all over, and in sequence.
        read_warm: from memory.
        decode: the loader by number of threads.
        compute: steps of one arm by number of torch's threads.
        compute_arms: steps in which all arms that share a worker take part, with the job's threads.
        copy: to the device; None where there is none.
        gpus: that steps run on, one a worker; 0 where they run on the processor.
        smaller_side, smaller_faster, smaller_lighter: what shards with this short side change; 0 for nothing.
        other_disk: in sequence and cold, of the storage's disk where it is not the data's; 0 for none.
        other_microbatch: size and rate relative to the job's of a larger microbatch that was measured.
    """

    cores: float
    memory: float
    workers: int
    threads: int
    decode_threads: int
    read_random: float
    read_sequence: float
    read_warm: float
    decode: Mapping[int, float]
    compute: Mapping[int, float]
    compute_arms: float
    copy: float | None = None
    gpus: int = 0
    smaller_side: int = 0
    smaller_faster: float = 1.0
    smaller_lighter: float = 1.0
    other_disk: float = 0.0
    other_disk_path: str = ""
    other_microbatch: tuple[int, float] | None = None


@dataclass(frozen=True)
class Advice:
    """A change, and the hours and images a second of all workers that it leads to."""

    change: str
    hours: float
    images: float


@dataclass(frozen=True)
class Verdict:
    """What a job will do here.

    Attributes:
        bottleneck: read, decode, copy, compute, or cores (decoding and computing share too few).
        reason: in words, with the numbers.
        limits: images a second that each part of one worker allows.
        images: images a second of one run, its workers together.
        hours: of all pre-training.
        advice: the most useful first.
    """

    bottleneck: str
    reason: str
    limits: Mapping[str, float]
    images: float
    hours: float
    advice: tuple[Advice, ...] = field(default=())


def judge(rates: Rates, work: Work) -> Verdict:
    """The verdict on a job, with advice."""
    limits = limits_of(rates, work)
    name = min(limits, key=lambda part: limits[part])
    now = hours_of(rates, work)
    found = [Advice(change, hours_of(*after), images_of(*after)) for change, after in _changes(rates, work)]
    useful = sorted((one for one in found if one.hours < WORTH * now), key=lambda one: one.hours)
    return Verdict(name, _reason(name, limits, rates, work), limits, images_of(rates, work), now, tuple(useful))


def limits_of(rates: Rates, work: Work, first_epoch: bool = False) -> dict[str, float]:
    """Images a second that each part of one worker allows."""
    cold = first_epoch or not _fits(rates, work) or work.epochs == 1
    stored = rates.read_sequence if work.order == "lanes" else rates.read_random
    limits = {
        "read": (stored if cold else rates.read_warm) / (at_once(rates, work) if cold else 1),
        "decode": at(rates.decode, rates.decode_threads),
        "compute": rates.compute_arms,
    }
    if rates.copy is not None:
        limits["copy"] = rates.copy
    computing = 0 if rates.gpus else rates.threads / rates.compute_arms
    spent = 1 / at(rates.decode, 1) + computing  # core-seconds an image
    shared = rates.cores / at_once(rates, work) / spent
    if shared < WORTH * min(limits["decode"], limits["compute"]):
        limits["cores"] = shared
    return limits


def at_once(rates: Rates, work: Work) -> int:
    """Workers that run on this machine at the same time."""
    return rates.workers * trials_at_once(rates, work)


def trials_at_once(rates: Rates, work: Work) -> int:
    """Runs side by side: groups of a seed's arms, in a sweep of all seeds', as many as the reserved cores allow."""
    runs = -(-work.arms // work.arms_per_worker) * (work.seeds if work.sweep else 1)
    reserved = rates.workers * (rates.threads + rates.decode_threads)
    fitting = min(rates.cores // reserved, rates.gpus // rates.workers if rates.gpus else runs)
    return max(1, min(runs, int(fitting)))


def images_of(rates: Rates, work: Work) -> float:
    """Images a second of one run."""
    return rates.workers * min(limits_of(rates, work).values())


def hours_of(rates: Rates, work: Work) -> float:
    """Hours of all pre-training: the first epoch of the first run may read from a cold disk."""
    groups = -(-work.arms // work.arms_per_worker)
    beside, after = (groups * work.seeds, 1) if work.sweep else (groups, work.seeds)
    passes = after * -(-beside // trials_at_once(rates, work))
    seconds = passes * work.images / images_of(rates, work)
    cold = rates.workers * min(limits_of(rates, work, first_epoch=True).values())
    epoch = work.images / work.epochs
    return (seconds + epoch / cold - epoch / images_of(rates, work)) / 3600


def at(measured: Mapping[int, float], threads: int) -> float:
    """The rate with some threads, between those that were measured along a line; beyond the last as with it."""
    below = max((one for one in measured if one <= threads), default=min(measured))
    above = min((one for one in measured if one >= threads), default=max(measured))
    if below >= above:
        return measured[above]
    share = (threads - below) / (above - below)
    return (1 - share) * measured[below] + share * measured[above]


def _fits(rates: Rates, work: Work) -> bool:
    return work.bytes < rates.memory


def _changes(rates: Rates, work: Work) -> Iterator[tuple[str, tuple[Rates, Work]]]:
    """Every change that could help, as words and what it makes of the numbers."""
    yield from _thread_changes(rates, work)
    yield from _worker_changes(rates, work)
    if rates.smaller_side:
        light, fast = rates.smaller_lighter, rates.smaller_faster
        after = replace(
            rates,
            read_random=rates.read_random * light,
            read_sequence=rates.read_sequence * light,
            read_warm=rates.read_warm * light,
            decode={threads: rate * fast for threads, rate in rates.decode.items()},
        )
        words = (
            f"smaller shards: `nml-ray data shard DIR OUT --short-side {rates.smaller_side} --quality 90` (one thread "
            f"is {fast:.1f} x as fast on them, they hold {light:.1f} x fewer bytes; changes the pixels)"
        )
        yield words, (after, replace(work, bytes=work.bytes / light))
    if work.order == "full" and rates.read_sequence > rates.read_random:
        words = (
            f"pretrain.order=lanes: reads in sequence, {rates.read_sequence:,.0f} images/s instead of "
            f"{rates.read_random:,.0f} (another order; changes the result)"
        )
        yield words, (rates, replace(work, order="lanes"))
    if rates.other_disk > rates.read_sequence:
        factor = rates.other_disk / rates.read_sequence
        faster = replace(rates, read_random=rates.read_random * factor, read_sequence=rates.other_disk)
        words = f"the data on the disk of {rates.other_disk_path}, which reads {factor:.1f} x as fast"
        yield words, (faster, work)
    if rates.other_microbatch:
        size, factor = rates.other_microbatch
        words = f"pretrain.microbatch={size}: steps are {factor:.2f} x as fast (changes the result)"
        yield words, (replace(rates, compute_arms=rates.compute_arms * factor), work)


def _thread_changes(rates: Rates, work: Work) -> Iterator[tuple[str, tuple[Rates, Work]]]:
    if len(options := range(1, max(rates.decode) + 1)) > 1:
        made = {count: replace(rates, decode_threads=count) for count in options}
        best = max(images_of(one, work) for one in made.values())
        count = next(count for count in options if images_of(made[count], work) >= SAME * best)
        words = f"run.decode_threads={count} (now {rates.decode_threads})"
        yield words, (made[count], work)
    own = at(rates.compute, rates.threads)
    for threads, rate in rates.compute.items():
        if threads != rates.threads:
            words = f"threads={threads} (now {rates.threads}; part of what fixes the bits)"
            yield words, (replace(rates, threads=threads, compute_arms=rates.compute_arms * rate / own), work)


def _worker_changes(rates: Rates, work: Work) -> Iterator[tuple[str, tuple[Rates, Work]]]:
    each = rates.threads + rates.decode_threads
    workers = min(work.microbatches, int(rates.cores // each), rates.gpus or work.microbatches)
    if workers > rates.workers and not work.sweep:
        yield f"run.workers={workers} (now {rates.workers})", (replace(rates, workers=workers), work)
    shared = work.arms_per_worker
    one = at(rates.compute, rates.threads)
    if (
        not work.sweep
        and work.arms * work.seeds > 1
        and trials_at_once(rates, replace(work, sweep=True, arms_per_worker=1)) > 1
    ):
        alone = replace(rates, compute_arms=one)
        yield "run.arms=sweep: arms as trials side by side", (alone, replace(work, sweep=True, arms_per_worker=1))
    if shared < work.arms:
        together = replace(rates, compute_arms=rates.compute_arms * shared / work.arms)
        words = f"all {work.arms} arms on one stream of images (run.arms=shared, run.arms_per_worker={work.arms})"
        yield words, (together, replace(work, sweep=False, arms_per_worker=work.arms))


def _reason(name: str, limits: Mapping[str, float], rates: Rates, work: Work) -> str:
    rate = limits[name]
    others = sorted((value, part) for part, value in limits.items() if part != name)
    after = f"; next is {others[0][1]} at {others[0][0]:,.0f}" if others else ""
    arms = work.arms_per_worker
    if name == "cores":
        decode, compute = 1 / at(rates.decode, 1), 0 if rates.gpus else rates.threads / rates.compute_arms
        return (
            f"an image takes {1000 * decode:.2f} ms of a core to decode and {1000 * compute:.2f} ms to train on "
            f"({arms} arm(s)); {at_once(rates, work)} worker(s) share {rates.cores:g} cores{after}"
        )
    where = "a GPU" if rates.gpus else f"{rates.threads} thread(s)"
    words = {
        "read": f"the disk gives {rate:,.0f} images/s to each worker",
        "decode": f"{rates.decode_threads} thread(s) decode {rate:,.0f} images/s",
        "compute": f"steps of {arms} arm(s) on {where} take {rate:,.0f} images/s",
        "copy": f"the copy to the GPU takes {rate:,.0f} images/s",
    }
    return words[name] + after
