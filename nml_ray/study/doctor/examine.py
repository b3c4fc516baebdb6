"""The examination: which measures a machine and a job call for, and how much of the time each may take."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nml_ray.config.cores import Cores, cores, whole_cores
from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.data.order import check_sizes, epoch_sizes
from nml_ray.data.reader import ShardReader
from nml_ray.features.config import ExtractSettings
from nml_ray.models.device import ready_device
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.storage.link import Link
from nml_ray.storage.location import locate
from nml_ray.study.doctor import images, machine, training
from nml_ray.study.doctor.images import Form
from nml_ray.study.doctor.verdict import Rates, Verdict, Work, judge
from nml_ray.study.job import Job
from nml_ray.study.sources import place
from nml_ray.study.task_data import open_tasks

Say = Callable[[str], None]
MOST_THREADS = 32  # that are measured: beyond, memory decides
PIECE = 512  # icons that stand for all of them
BUSY = 0.2  # of the cores: when other programs use more, the numbers are theirs too


@dataclass(frozen=True)
class DataSet:
    """A data set as it was found: `bytes_each` of an image, mean of a sample."""

    directory: str
    samples: int
    bytes: int
    bytes_each: float
    decode: float


@dataclass
class Examination:
    """All that was measured, and the verdict where there is a job to pre-train."""

    cores: Cores
    memory: machine.Memory
    gpu: machine.Gpu | None = None
    disks: list[machine.Disk] = field(default_factory=list)
    photo_bytes: float = 0.0
    photo_decode: float = 0.0
    photo_loader: dict[int, float] = field(default_factory=dict)
    data: DataSet | None = None
    rates: Rates | None = None
    work: Work | None = None
    verdict: Verdict | None = None
    extraction: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """Everything, for programs."""
        return json.dumps(asdict(self), indent=1, default=str) + "\n"


def examine(job: Job | None, data: str | None, storage: Path, seconds: float, say: Say) -> Examination:
    """Measure the machine, and what the job asks of it.

    Args:
        job: see what it would do; the machine alone when None.
        data: a data set of indexed tars, in place of the job's training set.
        storage: where artifacts lie, or would.
        seconds: of all measures together, about.
        say: hears what is measured next.

    Raises:
        UserError: the data cannot be opened.
    """
    found = Examination(cores(), machine.memory())
    busy = machine.busy_cores()
    if busy > BUSY * whole_cores():
        found.notes.append(
            f"other programs kept {busy:.1f} cores busy at the start: on a quiet machine rates are higher"
        )
    share = seconds / (20 if job or data else 8)
    say(f"the disk of {storage}")
    found.disks.append(machine.disk_below(storage, 2 * share))
    say("decoding of photographs")
    _photographs(found, 3 * share)
    say("the GPU")
    found.gpu = machine.gpu(share)
    with _data(job, data, say) as dataset:
        if dataset is not None:
            say(f"reading and decoding of {data or _given(job) or 'the icons'}")
            given = data is not None or _given(job) is not None
            _data_set(found, dataset, _form(job), 3 * share, given)
            if job and job.pretrain:
                _pretraining(found, job, job.pretrain, dataset, 9 * share, given, say)
    if job and found.verdict:
        found.notes += _where(job, found.gpu)
    if job and job.extracts():
        _extraction(found, job, 2 * share, say)
    if job and job.heads:
        found.notes.append("the time of the heads is not in it: it depends on how their trials end")
    return found


def _photographs(found: Examination, seconds: float) -> None:
    counts = thread_counts(whole_cores())
    with images.photographs() as dataset:
        reader = ShardReader(dataset)
        photos = [reader.read(number) for number in range(len(dataset))]
        found.photo_bytes = sum(map(len, photos)) / len(photos)
        found.photo_decode = images.decode_rate(photos, 3, 1, seconds / (len(counts) + 1))
        for threads in counts:
            found.photo_loader[threads] = images.loader_rate(dataset, Form(), threads, seconds / (len(counts) + 1))


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and the most."""
    most = min(most, MOST_THREADS)
    return sorted({1, most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)})


def _form(job: Job | None) -> Form:
    if job is None or job.pretrain is None:
        return Form()
    encoder = job.pretrain.encoder
    return Form(job.pretrain.train_size or encoder.size, encoder.channels, job.pretrain.augmentation)


def _given(job: Job | None) -> Path | Link | None:
    """The job's training set, or its first other split, where it names directories; read as the job reads it."""
    if job is None or job.data is None or job.data.shards is None:
        return None
    splits = job.data.shards.splits()
    return _place(job, "pretrain" if "pretrain" in splits else next(iter(splits)))


def _place(job: Job, split: str) -> Path | Link:
    assert job.data is not None and job.data.shards is not None
    return place(split, job.data.shards.splits()[split], job.run.shard_cache, job.run.shard_cache_size)


def _chosen(job: Job | None, data: str | None) -> Path | Link | None:
    """What `--data` names, else the job's; through the job's cache where there is a job."""
    if data is None:
        return _given(job)
    location = locate(data, "--data")
    if not location.remote:
        return location.local
    return Link(str(location), job.run.shard_cache, job.run.shard_cache_size) if job else Link(str(location))


@contextmanager
def _data(job: Job | None, data: str | None, say: Say) -> Iterator[Dataset | None]:
    given = _chosen(job, data)
    if given is not None:
        yield Dataset.open(given)
    elif job and job.data and job.data.icons:
        say("some icons, sharded for this")
        with TemporaryDirectory(prefix="nml-ray-doctor-") as aside:
            yield _some_icons(Path(aside))
    else:
        yield None


def _some_icons(directory: Path) -> Dataset:
    from nml_ray.data.icons import source
    from nml_ray.data.shards import write_shards
    from nml_ray.study.stages.shards import samples

    every = list(samples("pretrain"))
    cut = every[:: max(1, len(every) // PIECE)]
    write_shards(cut, directory, samples_per_shard=PIECE, classes=source.classes("pretrain"))
    return Dataset.open(directory)


def _data_set(found: Examination, dataset: Dataset, form: Form, seconds: float, given: bool) -> None:
    if not len(dataset.good):
        raise UserError("has no good sample", where=str(dataset.directory), expected="at least one")
    if given and dataset.directory.remote:
        rate = images.fetch_rate(dataset, seconds / 2)
        found.disks.append(machine.Disk(str(dataset.directory), 0, rate, found.disks[0].warm))
    elif given:
        tars = images.local_tars(dataset, range(len(dataset.info.shards)))
        found.disks.append(machine.disk_of(tars, seconds / 2))
    reader = ShardReader(dataset, whole=False)
    some = [reader.read(number) for number in images.some_numbers(dataset, images.PHOTOS)]
    each = sum(map(len, some)) / len(some)
    rate = images.decode_rate(some, form.channels, 1, seconds / 2)
    size = sum(shard.bytes for shard in dataset.info.shards)
    name = str(dataset.directory) if given else "some of the icons"
    found.data = DataSet(name, len(dataset.good), size, each, rate)


def _pretraining(
    found: Examination, job: Job, settings: PretrainSettings, dataset: Dataset, seconds: float, given: bool, say: Say
) -> None:
    assert found.data is not None
    form, run = _form(job), job.run
    arms = _arms(job)
    together = min(arms, run.arms_together or arms)
    disk = found.disks[-1]
    read_random = images.random_read_rate(dataset, run.decode_threads, seconds / 12)
    counts = sorted({*thread_counts(whole_cores()), run.decode_threads})
    decode = {count: images.loader_rate(dataset, form, count, seconds / 4 / len(counts)) for count in counts}
    small = images.smaller(dataset, form, seconds / 6)
    say(f"training steps of {settings.encoder.name}, 1 arm and {together}")
    classes = max(2, len(dataset.classes))
    device = _device(job, found.gpu)
    step = _step_rates(settings, classes, job.threads, seconds / 6, device)
    compute_arms = step[job.threads]
    if together > 1:
        compute_arms = training.step_rate(settings, classes, together, job.threads, seconds / 6, device=device)
    samples = found.data.samples if given else _icons_in_all()
    check_sizes(samples, settings.batch, settings.repeats, settings.microbatch, settings.order.lanes)
    found.work = Work(
        images=float(epoch_sizes(samples, settings.batch, settings.repeats)[0] * settings.batch * settings.epochs),
        epochs=settings.epochs,
        seeds=len(settings.seeds),
        arms=arms,
        arms_per_worker=together,
        microbatches=settings.microbatches(),
        bytes=found.data.bytes * samples / found.data.samples,
        sweep=run.arms == "sweep",
        order=settings.order.kind,
    )
    other = found.disks[0] if len(found.disks) > 1 else None
    found.rates = Rates(
        cores=found.cores.usable,
        memory=0.8 * found.memory.available,
        workers=run.least_workers,  # those that are sure
        threads=job.threads,
        decode_threads=run.decode_threads,
        read_random=read_random,
        read_sequence=disk.cold / found.data.bytes_each,
        read_warm=disk.warm / found.data.bytes_each,
        decode=decode,
        compute=step,
        compute_arms=compute_arms,
        copy=found.gpu.copy / (form.size**2 * form.channels) if found.gpu and device.type == "cuda" else None,
        gpus=found.gpu.count if found.gpu and device.type == "cuda" else 0,
        smaller_side=small.side if small else 0,
        smaller_faster=small.faster if small else 1.0,
        smaller_lighter=small.lighter if small else 1.0,
        other_disk=other.cold / found.data.bytes_each if other and not other.from_memory else 0.0,
        other_disk_path=other.path if other else "",
        other_microbatch=_larger_microbatch(settings, classes, job.threads, step[job.threads], seconds / 10, device),
    )
    found.verdict = judge(found.rates, found.work)
    if left_out := _not_timed(settings):
        found.notes.append(f"training steps were timed without {', '.join(left_out)}")


def _device(job: Job, gpu: machine.Gpu | None) -> torch.device:
    """Where steps are timed: the job's device, or the processor where there is no such device here."""
    return ready_device(job.run.device if gpu else "cpu")


def _where(job: Job, gpu: machine.Gpu | None) -> list[str]:
    """What is to be said of the device that steps were timed on."""
    if job.run.device == "cuda":
        return [] if gpu else ["run.device is cuda, but there is no GPU here: steps were timed on the processor"]
    return ["training steps were timed on the processor, where pre-training runs (run.device)"] if gpu else []


def _not_timed(settings: PretrainSettings) -> list[str]:
    """What a real step does that the measured ones do not."""
    parts = {
        "compiling the model": settings.compile,
        "the text tower": settings.objective == "clip",
    }
    return [name for name, used in parts.items() if used]


def _step_rates(
    settings: PretrainSettings, classes: int, threads: int, seconds: float, device: torch.device
) -> dict[int, float]:
    """One arm by number of torch's threads: one, the job's, and as many as there are cores; on a GPU the job's."""
    counts = sorted({1, threads, whole_cores()}) if device.type == "cpu" else [threads]
    return {
        count: training.step_rate(settings, classes, 1, count, seconds / len(counts), device=device) for count in counts
    }


def _larger_microbatch(
    settings: PretrainSettings, classes: int, threads: int, rate: float, seconds: float, device: torch.device
) -> tuple[int, float] | None:
    size = settings.microbatch_size()
    if settings.batch % (2 * size):
        return None
    return 2 * size, training.step_rate(settings, classes, 1, threads, seconds, 2 * size, device) / rate


def _arms(job: Job) -> int:
    return 1 if job.noise is None else len(job.noise.ratios or (None,))


def _icons_in_all() -> int:
    from nml_ray.data.icons import source

    return int(source.split(source.load(), "pretrain").num_rows)


def _extraction(found: Examination, job: Job, seconds: float, say: Say) -> None:
    """Forward passes of every encoder over the downstream images; they are decoded once for all."""
    encoders: Mapping[str, tuple[Any, int]] = {
        **({"pretrained": (job.pretrain.encoder, _arms(job) * len(job.pretrain.seeds))} if job.pretrain else {}),
        **{one.name: (one, 1) for one in job.encoders},
    }
    count = _downstream(job)
    extract = job.extract or ExtractSettings()
    hours = 0.0
    for name, (settings, times) in encoders.items():
        say(f"forward passes of {settings.name}")
        rate = training.forward_rate(
            settings, extract.batch, job.threads, seconds / len(encoders), extract.precision, _device(job, found.gpu)
        )
        found.extraction[name] = rate
        hours += times * count / rate / 3600
    decode = found.data.decode * job.run.decode_threads if found.data else float("inf")
    found.extraction["hours"] = max(hours, count / decode / 3600) / job.run.most_extract_workers


def _downstream(job: Job) -> int:
    """Images that every encoder passes: of the splits of `data`, and of the sets of `tasks`, one of several once."""
    count = sum(_samples(job, split) for split in job.extracted_splits()) if job.extracts_data() else 0
    sets = {str(place): place for task in open_tasks(job.tasks, job.run) for place in task.links.values()}
    return count + sum(len(Dataset.open(place).good) for place in sets.values())


def _samples(job: Job, split: str) -> int:
    assert job.data is not None
    if job.data.shards is None:
        from nml_ray.data.icons import source

        return int(source.split(source.load(), split).num_rows)
    return len(Dataset.open(_place(job, split)).good)
