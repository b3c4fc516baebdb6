"""GPU-hours that a plan's stages take: reckoned from FLOPs and a GPU's peak, and said to be unknown where they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nml_ray.data.dataset_info import DatasetInfo, read_info
from nml_ray.features.config import ExtractSettings
from nml_ray.heads.batch_shape import Data, parameters
from nml_ray.heads.config import HeadsSettings
from nml_ray.models.config import EncoderSettings
from nml_ray.pretrain.estimate import Estimate, estimate_of_encoder
from nml_ray.storage.artifact import Store
from nml_ray.storage.link import Link
from nml_ray.study.expand import Study
from nml_ray.study.job import Job
from nml_ray.study.plan import Planned
from nml_ray.study.stage import Stage

if TYPE_CHECKING:
    from nml_ray.pretrain.config import PretrainSettings
    from nml_ray.study.feed import Feed

UTILISATION = 0.3
"""Share of a GPU's peak that training is reckoned to reach."""
HEAD_STEP = 0.002
"""Seconds that a step of heads which are trained together takes at least: some 200 kernels to start."""
_WORDS = {"pretrain": "pre-training", "extract": "extraction", "heads": "heads"}

Peak = Callable[[str], float]
"""FLOP/s of a GPU in a precision."""


@dataclass(frozen=True)
class Hours:
    """Of one kind of stage: hours of one GPU, None where they are not known, and from what, in words."""

    kind: str
    hours: float | None
    words: str

    def line(self, price: float | None, currency: str) -> str:
        """As the user is told of it."""
        what = f"GPU-hours of {_WORDS[self.kind]}"
        if self.hours is None:
            return f"{what}: not known, {self.words}"
        cost = f", {self.hours * price:,.2f} {currency}" if price is not None else ""
        return f"{what}: {self.hours:.3g}{cost} ({self.words})"


class Unknown(Exception):
    """What is lacking to reckon with, in words."""


def gpu_hours(samples: float, flops: float, peak: float) -> float:
    """Hours of one GPU for so many passes of `flops` each, at `UTILISATION` of `peak` FLOP/s."""
    return samples * flops / (peak * UTILISATION) / 3600


def passes(settings: "PretrainSettings") -> int:
    """Forward passes' worth of FLOPs that training takes for a sample: forwards, and twice that backwards; once more
    where features are computed beforehand for the whole batch."""
    return 4 if settings.objective == "clip" and settings.contrastive.cached else 3


def hours_of(
    job: Job,
    study: Study,
    planned: Mapping[str, Planned],
    store: Store | None,
    feed: "Feed | None",
    size: Estimate | None,
    peak: Peak,
) -> list[Hours]:
    """Of every kind of stage that takes a GPU and has stages to do.

    Args:
        job: the job; of a sweep it has no hours of its own.
        study: its stages.
        planned: their plan.
        store: where shards that were made lie; None where it does not answer.
        feed: how pre-training is fed, where its data is there.
        size: of what is pre-trained.
        peak: of the GPU.
    """
    on_gpu = {"pretrain": job.run.device, "extract": job.run.device, "heads": job.run.heads_on}
    found = []
    for kind, device in on_gpu.items():
        stages = [one.stage for one in planned.values() if one.stage.kind == kind and one.state == "to do"]
        stages = [stage for stage in stages if "features" not in stage.inputs]
        if not stages or device != "cuda":
            continue
        try:
            found.append(_of_kind(kind, job, _Reckoning(study, planned, store), stages, feed, size, peak))
        except Unknown as lack:
            found.append(Hours(kind, None, str(lack)))
    return found


def _of_kind(
    kind: str,
    job: Job,
    reckoning: "_Reckoning",
    stages: list[Stage],
    feed: "Feed | None",
    size: Estimate | None,
    peak: Peak,
) -> Hours:
    if kind == "extract":
        return reckoning.extraction(job, stages, peak)
    if kind == "heads":
        return reckoning.heads(job, stages, peak)
    assert job.pretrain
    if size is None:
        raise Unknown(f"for {job.pretrain.encoder.name} can only be measured, by `nml-ray doctor`")
    if feed is None:
        raise Unknown("before the training data is there")
    images = float(job.pretrain.epochs * feed.steps * feed.batch)
    times = passes(job.pretrain)
    hours = gpu_hours(images * len(stages), times * size.forward_flops, peak(job.pretrain.precision))
    pairs = "pairs" if job.pretrain.objective == "clip" else "images"
    flops = f"{size.forward_flops / 1e9:.3g} GFLOPs forwards, {times} times that in all"
    return Hours(kind, hours, f"{len(stages)} arm(s) of {images:,.0f} {pairs}, {flops}")


class _Reckoning:
    def __init__(self, study: Study, planned: Mapping[str, Planned], store: Store | None) -> None:
        self.study, self.planned, self.store = study, planned, store
        self.infos: dict[tuple[str, str], DatasetInfo] = {}
        self.sizes: dict[str, Estimate] = {}

    def extraction(self, job: Job, stages: list[Stage], peak: Peak) -> Hours:
        """Every image once through every encoder, of `train` every view."""
        settings = job.extract or ExtractSettings()
        images = hours = 0.0
        for stage in stages:
            count = 0.0
            for split in stage.settings["extract"]["splits"]:
                views = settings.views if split == "train" else 1
                count += views * self.info(stage.inputs["shards"], split).samples
            images += count
            hours += gpu_hours(count, self.size(job, stage).forward_flops, peak(settings.precision))
        return Hours("extract", hours, f"{images:,.0f} images through {len(stages)} encoder(s), forwards")

    def heads(self, job: Job, stages: list[Stage], peak: Peak) -> Hours:
        """All fits of an encoder side by side, step by step: by their FLOPs, but no faster than kernels start."""
        assert job.heads
        each = _fits(job.heads)
        hours, fits = 0.0, 0
        for stage in stages:
            source = self.planned[stage.inputs["extract"]].stage
            if "features" in source.inputs:
                raise Unknown("for features that were given")
            views = (job.extract or ExtractSettings()).views
            info = self.info(source.inputs["shards"], "train")
            data = Data(info.samples, self.size(job, source).dim, max(len(info.classes), 1), views)
            hours += _head_hours(each, data, peak("float32"))
            fits += len(each)
        return Hours("heads", hours, f"{fits:,} fits, those of an encoder trained together")

    def info(self, shards: str, split: str) -> DatasetInfo:
        """What is known of a split of a stage's."""
        if (shards, split) not in self.infos:
            self.infos[shards, split] = self._read(shards, split)
        return self.infos[shards, split]

    def _read(self, shards: str, split: str) -> DatasetInfo:
        place: Path | Link
        if shards in self.study.given:
            place = self.study.given[shards].links[split]
        elif self.store and (artifact := self.store.artifact("shards", self.planned[shards].digest)):
            place = artifact.path / split
        else:
            raise Unknown("before the downstream images are there")
        return read_info(place)

    def size(self, job: Job, extract: Stage) -> Estimate:
        """Of the encoder whose features a stage extracts."""
        source = self.planned[extract.inputs["encoder"]].stage
        encoder = _encoder(job, source)
        if source.name not in self.sizes:
            if (found := estimate_of_encoder(encoder)) is None:
                raise Unknown(f"for {encoder.name} can only be measured, by `nml-ray doctor`")
            self.sizes[source.name] = found
        return self.sizes[source.name]


def _encoder(job: Job, source: Stage) -> EncoderSettings:
    if source.kind == "pretrain":
        assert job.pretrain
        return job.pretrain.encoder
    settings: Mapping[str, Any] = source.settings["encoder"]
    return EncoderSettings.model_validate({**settings, "weights": settings.get("weights") or None})


def _fits(settings: HeadsSettings) -> list[Any]:
    """A setting for every fit; fractions count as if they were all of the samples."""
    return [one for one in settings.expand() for _ in range(len(settings.seeds) * len(settings.fractions))]


def _head_hours(fits: list[Any], data: Data, peak: float) -> float:
    flops = steps = 0.0
    for fit in fits:
        rows = fit.epochs * data.rows * (2 if getattr(fit, "views", "one") == "pair" and data.views > 1 else 1)
        flops += 6 * parameters(fit, data) * rows
        steps = max(steps, fit.epochs * data.rows / fit.batch)
    return max(flops / (peak * UTILISATION), steps * HEAD_STEP) / 3600
