"""What the fuzzed cases of local and of remote data sets share: how many there are, and an epoch of a data set."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nml_ray.config.errors import UserError
from nml_ray.data.augment import ResizedCropAugmentation
from nml_ray.data.config import OrderSettings
from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
from nml_ray.data.shards import Sample, write_shards
from nml_ray.storage.link import Link
from tests.small_images import picture

CASES = {  # of each kind of damage: before a data set is indexed, after it, while it is fed; by an object store
    "before": 130,
    "after": 240,
    "during": 70,
    "remote": 60,
}
SAMPLES, SHARDS, CLASSES, BATCH = 24, 3, 4, 8
SIZE = 16


def parts(kind: str, count: int) -> list[range]:
    """The cases of a kind, shared out over `count` tests."""
    return [range(part, CASES[kind], count) for part in range(count)]


def write_sound(directory: Path) -> Path:
    """A sound data set of three tars with images of three formats, labels and captions."""
    kinds = ("jpg", "png", "webp")
    samples = [
        Sample(f"s{n:03d}", picture(n, kinds[n % 3], (40, 28)), kinds[n % 3], n % CLASSES, f"picture {n}")
        for n in range(SAMPLES)
    ]
    names = [f"class {c}" for c in range(CLASSES)]
    write_shards(samples, directory, samples_per_shard=SAMPLES // SHARDS, classes=names)
    return directory


@dataclass
class Fed:
    """What was fed: samples, places of weight 0, keys, the error that ended it, and a digest of each step's batch."""

    samples: int = 0
    holes: int = 0
    hashes: frozenset[int] = frozenset()
    error: str = ""
    steps: list[str] = field(default_factory=list)


def feed(place: Path | Link, damage: Callable[[], object] | None = None, epochs: int = 1) -> Fed:
    """Open and feed; `damage` strikes after the first step."""
    fed = Fed()
    try:
        dataset = Dataset.open(place)
        schedule = Schedule(dataset, OrderSettings(), 0, BATCH, None)
        plan = LoaderPlan(0, schedule.microbatch, 3, SIZE, ResizedCropAugmentation(), schedule.batch)
        for step, microbatches in enumerate(Loader(dataset, plan).steps(0, epochs * schedule.steps_per_epoch)):
            if step == 0 and damage:
                damage()
            digest = hashlib.sha256()
            for microbatch in microbatches:
                assert len(microbatch.holes) == int((microbatch.weights == 0).sum())
                assert all(hole.reason for hole in microbatch.holes)
                fed.samples += len(microbatch.places)
                fed.holes += len(microbatch.holes)
                fed.hashes |= {int(one) for one in microbatch.hashes}
                for array in (microbatch.images, microbatch.numbers, microbatch.hashes):
                    digest.update(array.tobytes())
            fed.steps.append(digest.hexdigest())
    except UserError as error:
        fed.error = str(error)
    return fed
