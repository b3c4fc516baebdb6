"""The parts that gpu_training.py measures: training and extraction as they are, and each of their halves alone."""

import gc
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.photos import CLASSES
from nml_ray.data.config import NoiseSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.reader import ShardReader
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import Sample, write_shards
from nml_ray.features.extract import extract_all
from nml_ray.features.plan import EncoderPlan, ExtractionPlan, all_items
from nml_ray.models.decoding import Decoder, form
from nml_ray.models.device import autocast
from nml_ray.models.encoder import build_encoder, write_encoder
from nml_ray.pretrain import telemetry
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.device import steps_ahead
from nml_ray.pretrain.hardware import utilisation_of
from nml_ray.pretrain.inputs import Fed
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.objectives import objective_of
from nml_ray.pretrain.plan import ArmPlan, GroupPlan
from nml_ray.pretrain.world import World

WARM = 8  # steps or batches before the clock starts: compiling, the search for convolutions, batches made ahead
CHECKPOINTS = (1 / 3, 2 / 3)  # when, as shares of the time
AROUND = 3  # steps that a checkpoint may lengthen
NEVER = 1 << 40
SPLIT = "test"
NEVER_ENDING = 1000  # times all shards


class Enough(Exception):
    """The time is up."""


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    device: torch.device
    settings: PretrainSettings
    threads: int
    seconds: float
    photos: Path
    work: Path


@dataclass(frozen=True)
class Figures:
    """Of one part, where it has them: images a second, shares, bytes, seconds."""

    rate: float
    data_wait: float | None = None
    mfu: float | None = None
    peak_bytes: int | None = None
    checkpoint_seconds: float | None = None


class Clock:
    """Times of steps after the warm-up; raises `Enough` once they are as long as wanted."""

    def __init__(self, seconds: float, warm: int = WARM) -> None:
        self.seconds, self._warm = seconds, warm
        self.times: list[float] = []
        self.counts: list[int] = []

    def tick(self, images: int) -> None:
        """A step of so many images is over."""
        if self._warm:
            self._warm -= 1
            return
        self.times.append(time.perf_counter())
        self.counts.append(images)
        if len(self.times) > AROUND and self.elapsed > self.seconds:
            raise Enough

    @property
    def elapsed(self) -> float:
        """Seconds since the warm-up ended."""
        return time.perf_counter() - self.times[0] if self.times else 0.0

    def rate(self, without: Sequence[range] = ()) -> float:
        """Images a second; the steps in `without` do not count."""
        left_out = {step for steps in without for step in steps}
        steps = [step for step in range(1, len(self.times)) if step not in left_out]
        images = sum(self.counts[step] for step in steps)
        return images / sum(self.times[step] - self.times[step - 1] for step in steps)


def run(work: Callable[[], object]) -> None:
    """Do the work until a clock says enough, or to its end."""
    with suppress(Enough):
        work()


def fresh(device: torch.device) -> None:
    """Give up the memory of the part before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Most memory of the GPU so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def group_plan(bench: Bench, compiled: bool, name: str) -> GroupPlan:
    """One clean arm with a new attempt of its own."""
    attempt = bench.work / name
    attempt.mkdir()
    settings = bench.settings.model_copy(update={"compile": compiled})
    (clean,) = NoiseSettings(kind="symmetric", ratios=("0",)).arms()
    arms = (ArmPlan(name, clean.hashed(), str(attempt)),)
    plan = GroupPlan(str(bench.photos), settings.model_dump(mode="json"), seed=0, threads=1, arms=arms)
    return replace(plan, decode_threads=bench.threads, device=str(bench.device), checkpoint_steps=NEVER)


def from_shards(bench: Bench, compiled: bool) -> Figures:
    """The training loop."""
    fresh(bench.device)
    clock, at = Clock(bench.seconds), list[int]()
    plan = group_plan(bench, compiled, f"shards-{compiled}")

    def wanted() -> bool:
        due = len(at) < len(CHECKPOINTS) and clock.elapsed > CHECKPOINTS[len(at)] * bench.seconds
        if due:
            at.append(len(clock.times))
        return due

    telemetry.EVERY_SECONDS = bench.seconds / 20
    run(lambda: train_group(plan, World(), lambda *_: clock.tick(bench.settings.batch), wanted))
    around = [range(max(1, first), min(first + AROUND + 1, len(clock.times))) for first in at]
    rate = clock.rate(around)
    each = bench.settings.batch / rate
    stalls = [sum(clock.times[n] - clock.times[n - 1] - each for n in steps) for steps in around if len(steps) > AROUND]
    return Figures(
        rate,
        data_wait=waiting(Path(plan.arms[0].attempt)),
        peak_bytes=peak_bytes(bench.device),
        checkpoint_seconds=max(0.0, float(np.median(stalls))) if stalls else None,
    )


def waiting(attempt: Path) -> float:
    """Share of the time after the warm-up in which the loop waited for a batch, as its telemetry tells."""
    lines = [json.loads(line) for line in (attempt / "telemetry.jsonl").read_text().splitlines()]
    steady = [line for line in lines if line["step"] > WARM and "images_per_second" in line]
    steps = np.diff([line["step"] for line in steady])
    times = steps / [line["images_per_second"] for line in steady[1:]]
    return float(np.average([line["data_wait_share"] for line in steady[1:]], weights=times))


def synthetic(bench: Bench, compiled: bool) -> Figures:
    """The same arm on one batch that stays on the device."""
    fresh(bench.device)
    dataset, plan = Dataset.open(bench.photos), group_plan(bench, compiled, f"synthetic-{compiled}")
    settings = PretrainSettings.model_validate(plan.settings)
    labels = np.asarray(dataset.label, np.int32)
    arm = objective_of(plan, settings, dataset).build("synthetic", labels, labels)
    size, side = settings.microbatch_size(), settings.encoder.size
    images = torch.randn(size, 3, side, side, device=bench.device).to(memory_format=torch.channels_last)
    numbers, weights = torch.arange(size) % len(dataset), torch.ones(size, device=bench.device)
    fed = [Fed(n, images, numbers, weights, None) for n in range(settings.microbatches())]
    clock, ahead = Clock(bench.seconds), steps_ahead(bench.device, settings.precision)

    def steps() -> None:
        given: deque[Any] = deque()
        while True:
            arm.begin_step()
            arm.add(fed, range(len(fed)), World())
            given.append(arm.begin_update(World(), 0.0))
            if len(given) > ahead:
                arm.end_update(given.popleft())
                clock.tick(settings.batch)

    run(steps)
    known = utilisation_of(arm, images[:1], settings.precision, 1)
    mfu = known.share(clock.rate(), 1) if known else None
    return Figures(clock.rate(), mfu=mfu, peak_bytes=peak_bytes(bench.device))


def decoding(bench: Bench) -> Figures:
    """The loader alone."""
    dataset, settings = Dataset.open(bench.photos), bench.settings
    schedule = Schedule(
        dataset, settings.order, 0, settings.batch, settings.microbatch, settings.repeats, settings.epochs
    )
    plan = LoaderPlan(0, schedule.microbatch, 3, settings.encoder.size, settings.augmentation, schedule.batch)
    loader = Loader(dataset, plan, threads=bench.threads, pinned=bench.device.type == "cuda")
    clock = Clock(bench.seconds / 2)

    def steps() -> None:
        for _ in loader.steps(0, schedule.steps_per_epoch * settings.epochs):
            clock.tick(settings.batch)

    run(steps)
    loader.close()
    return Figures(clock.rate())


def extraction_set(bench: Bench, rows: int) -> Path:
    """A directory with one split of two shards of `rows` images."""
    directory = bench.work / "images" / SPLIT
    dataset = Dataset.open(bench.photos)
    reader = ShardReader(dataset)
    images = [reader.read(n) for n in range(min(rows, len(dataset)))]
    samples = (Sample(f"image{n:06d}", images[n % len(images)], "jpg", label=0) for n in range(2 * rows))
    write_shards(samples, directory, samples_per_shard=rows, classes=CLASSES)
    return directory.parent


def extraction_plan(bench: Bench, images: Path) -> ExtractionPlan:
    """One encoder with random weights, in the precision of training."""
    encoder, attempt = bench.work / "encoder", bench.work / "features"
    encoder.mkdir()
    attempt.mkdir()
    write_encoder(encoder, build_encoder(bench.settings.encoder, seed=0), bench.settings.encoder)
    settings = {"batch": bench.settings.batch, "precision": bench.settings.precision, "dtype": "float16"}
    plans = (EncoderPlan("encoder", str(encoder), str(attempt)),)
    return ExtractionPlan(str(images), settings, ("raw",), plans, 1, bench.threads, str(bench.device))


def extracting(bench: Bench, plan: ExtractionPlan) -> Figures:
    """Extraction as it is, shard after shard."""
    fresh(bench.device)
    clock = Clock(bench.seconds / 2, warm=2)
    run(lambda: extract_all(plan, all_items(plan) * NEVER_ENDING, clock.tick))
    return Figures(clock.rate(), peak_bytes=peak_bytes(bench.device))


def passing(bench: Bench) -> Figures:
    """Its encoder's bare forward pass over one batch that stays on the device."""
    fresh(bench.device)
    settings = bench.settings
    encoder = build_encoder(settings.encoder, seed=0).to(bench.device)
    side, count = settings.encoder.size, 8
    images = torch.randn(settings.batch, 3, side, side, device=bench.device).to(memory_format=torch.channels_last)
    clock = Clock(bench.seconds / 2, warm=2)

    def passes() -> None:
        while True:
            with torch.inference_mode(), autocast(settings.precision, bench.device):
                for _ in range(count):
                    encoder(images)
            if bench.device.type == "cuda":
                torch.cuda.synchronize(bench.device)
            clock.tick(count * settings.batch)

    run(passes)
    return Figures(clock.rate())


def decoding_whole(bench: Bench, images: Path) -> Figures:
    """The decoder of extraction alone."""
    from concurrent.futures import ThreadPoolExecutor

    dataset = Dataset.open(images / SPLIT)
    spec = build_encoder(bench.settings.encoder, seed=0).input
    clock = Clock(bench.seconds / 2, warm=2)
    with ThreadPoolExecutor(bench.threads) as pool:
        decoder = Decoder(dataset, ShardReader(dataset), [form(spec)], pool)
        numbers = np.tile(dataset.good, 100)
        batches = decoder.batches(numbers, bench.settings.batch)

        def steps() -> None:
            for _ in batches:
                clock.tick(bench.settings.batch)

        run(steps)
    return Figures(clock.rate())


def parts(bench: Bench, modes: Sequence[bool], rows: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Every part by name, in the order in which they run."""
    for compiled in modes:
        suffix = ", compiled" if compiled else ""
        yield f"synthetic{suffix}", lambda compiled=compiled: synthetic(bench, compiled)  # type: ignore[misc]
        yield f"shards{suffix}", lambda compiled=compiled: from_shards(bench, compiled)  # type: ignore[misc]
    yield "decoding", lambda: decoding(bench)
    images = extraction_set(bench, rows)
    plan = extraction_plan(bench, images)
    yield "forward pass", lambda: passing(bench)
    yield "extraction", lambda: extracting(bench, plan)
    yield "decoding for extraction", lambda: decoding_whole(bench, images)
