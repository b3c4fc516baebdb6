"""An extraction as plain data that crosses processes, and what of it is left to do."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nml_ray.config.errors import UserError
from nml_ray.data.dataset import Dataset
from nml_ray.features.config import SPLITS, ExtractSettings
from nml_ray.features.store import feature_path
from nml_ray.storage.artifact import bring
from nml_ray.storage.link import linked_names
from nml_ray.storage.mirror import carried, present
from nml_ray.storage.twin import SHARDS, twin_of

SUMS_SUFFIX = ".sums.npz"


@dataclass(frozen=True)
class EncoderPlan:
    """One encoder: the directory that holds it (see `models.encoder.load_encoder`), the attempt directory that its
    features go to, and the attempts before it, which did not finish."""

    name: str
    directory: str
    attempt: str
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExtractionPlan:
    """Encoders that share one pass over the images below `data` (<split>/*.tar, indexed).

    `settings` is a dump of `ExtractSettings`, `transforms` names those of `features.sums`. The rest says how it runs:
    `decode_threads` beside the `threads` that compute, the device, and how many `gpus` a process reserves.
    """

    data: str
    settings: Mapping[str, Any]
    transforms: tuple[str, ...]
    encoders: tuple[EncoderPlan, ...]
    threads: int = 1
    decode_threads: int = 1
    device: str = "cpu"
    gpus: float = 0

    @property
    def cpus(self) -> int:
        """What a process keeps busy, and so reserves: the threads that compute and those that decode."""
        return self.threads + self.decode_threads

    def carried(self) -> "ExtractionPlan":
        """The plan for another process, perhaps on another machine (see `storage.mirror`)."""
        return self._with_paths(carried)

    def arrived(self) -> "ExtractionPlan":
        """The plan that was carried, with its paths on this machine, and images and encoders brought there."""
        plan = self._with_paths(lambda text: str(present(text)))
        for directory in (plan.data, *(encoder.directory for encoder in plan.encoders)):
            bring(Path(directory))
        for encoder in plan.encoders:
            Path(encoder.attempt).mkdir(parents=True, exist_ok=True)
        return plan

    def _with_paths(self, change: Callable[[str], str]) -> "ExtractionPlan":
        encoders = tuple(
            EncoderPlan(one.name, change(one.directory), change(one.attempt), tuple(map(change, one.earlier)))
            for one in self.encoders
        )
        return replace(self, data=change(self.data), encoders=encoders)


@dataclass(frozen=True)
class WorkItem:
    """One shard of `rows` good samples, and the encoders (by place in the plan) that lack its features."""

    split: str
    shard: str
    rows: int
    encoders: tuple[int, ...]


@dataclass(frozen=True)
class ShardDone:
    """A shard that has been worked on. `failures` maps the place of an encoder to why it has no features of it."""

    split: str
    shard: str
    rows: int
    failures: Mapping[int, str]


def splits_of(plan: ExtractionPlan) -> list[str]:
    """The splits to extract: those named, else all downstream ones that the data has.

    Raises:
        UserError: a named split is absent, or there is none.
    """
    data = Path(plan.data)
    there = sorted({*(path.parent.name for path in data.glob("*/dataset.json")), *linked_names(data)})
    named = ExtractSettings.model_validate(plan.settings).splits
    for split in named or ():
        if split not in there:
            raise UserError(f"the data has no split {split}", where="extract.splits", expected=", ".join(there))
    chosen = list(named or (split for split in SPLITS if split in there))
    if not chosen:
        found = f"found only {', '.join(there)}" if there else "holds no indexed shards"
        raise UserError(found, where=plan.data, expected=f"at least one of the splits {', '.join(SPLITS)}")
    return chosen


def shards_of(dataset: Dataset) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Base name (without ".tar") and good sample numbers, in tar order, of every shard."""
    for place, name in enumerate(dataset.shard_names):
        yield name.removesuffix(".tar"), dataset.shard_samples(place)


def keys_of(dataset: Dataset, numbers: NDArray[np.int64]) -> list[str]:
    """The keys of some samples."""
    keys: list[str] = dataset.keys.take(pa.array(numbers)).to_pylist()
    return keys


def all_items(plan: ExtractionPlan) -> list[WorkItem]:
    """Every shard of every split, for every encoder."""
    everyone = tuple(range(len(plan.encoders)))
    return [
        WorkItem(split, shard, len(numbers), everyone)
        for split in splits_of(plan)
        for shard, numbers in shards_of(Dataset.open(Path(plan.data) / split))
    ]


def left_to_do(plan: ExtractionPlan, items: Sequence[WorkItem]) -> list[WorkItem]:
    """The items that lack files, after finished ones of earlier attempts have been linked into the present ones."""
    left = []
    for item in items:
        lacking = tuple(place for place in item.encoders if not _adopted(plan.encoders[place], item))
        if lacking:
            left.append(replace(item, encoders=lacking))
    return left


def shard_files(directory: Path, split: str, shard: str) -> tuple[Path, Path]:
    """The features and the sums of a shard; the sums are written last."""
    return feature_path(directory, split, shard), directory / split / f"{shard}{SUMS_SUFFIX}"


def publish_shard(features: Path, sums: Path) -> None:
    """Upload the two files of a finished shard, where the storage is on an object store."""
    attempt = features.parent.parent
    if bundles := twin_of(attempt):
        files = {path.relative_to(attempt).as_posix(): path for path in (features, sums)}
        name = f"{features.parent.name}/{sums.name.removesuffix(SUMS_SUFFIX)}"
        bundles.publish(f"{SHARDS}{name}", files, held=False)


def _adopted(encoder: EncoderPlan, item: WorkItem) -> bool:
    own = shard_files(Path(encoder.attempt), item.split, item.shard)
    for directory in encoder.earlier:
        if own[1].exists():
            break
        old = shard_files(Path(directory), item.split, item.shard)
        if old[0].exists() and old[1].exists():
            own[0].parent.mkdir(parents=True, exist_ok=True)
            for target, source in zip(own, old, strict=True):
                _link(source, target)
    return own[1].exists()


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.link(source, target)
