"""A whole NMTune tuning from cached views, against running the frozen encoder at every step.

    .venv/bin/python benchmarks/tuning.py    seven minutes on a quiet core; writes results/tuning.json and .md

ResNet-50 at 224 px, 200 photographs of 500x375, the preset `official`, batches of 64 pairs, one thread. Ours extracts
two views of every image once and fits the head for 30 epochs. The reference, as the published implementation does,
reads each image twice for every step, crops and flips it, runs the encoder on both views, and takes a step with the
losses as they are usually written (`head_step.py`); two epochs of it are measured. The figures are CPU-seconds of this
process for an image and epoch; the 30 epochs of ours bear their share of the extraction. Evaluation is left out on both
sides. What fewer or more views do to accuracy: `tuning_views.py`.
"""

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.extracting import SPLIT, encoder_at, one_shard, plan_of
from benchmarks.head_step import BATCH, Plain, reference_loss
from benchmarks.measure import Cost, Goal, median, number, parsed, parser, save, table, timed
from nml_ray.data.dataset import Dataset
from nml_ray.data.draw import key_hashes
from nml_ray.data.reader import ShardReader
from nml_ray.features.extract import Extractor
from nml_ray.features.plan import ExtractionPlan, WorkItem
from nml_ray.features.store import read_split
from nml_ray.heads.config import HeadSetting, NMTune, head_setting
from nml_ray.heads.fit import fit
from nml_ray.models.config import EncoderSettings
from nml_ray.models.encoder import Encoder

NAME = "tuning"
GOAL = 10
VIEWS = 2  # that are cached
EPOCHS = 30
CROPS = {"kind": "resized_crop", "scale": [0.8, 1.0]}


class Reference:
    """The encoder at every step: `epoch` takes one pass over the images."""

    def __init__(self, setting: NMTune, encoder: Encoder, images: Path) -> None:
        from torchvision import transforms

        self._setting, self._encoder = setting, encoder
        self._dataset = Dataset.open(images / SPLIT)
        self._reader = ShardReader(self._dataset)
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(encoder.input.size, scale=(0.8, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(encoder.input.mean, encoder.input.std),
            ]
        )
        self._head = Plain(encoder.dim)
        self._head.classifier = nn.Linear(encoder.dim, len(self._dataset.classes))
        self._optimiser = torch.optim.AdamW(
            self._head.parameters(), lr=setting.learning_rate, weight_decay=setting.weight_decay, foreach=True
        )
        self._generator = np.random.default_rng(0)

    def epoch(self) -> None:
        """Every full batch of an epoch."""
        order = self._generator.permutation(self._dataset.good)
        for start in range(0, len(order) // BATCH * BATCH, BATCH):
            self._step(order[start : start + BATCH])

    def _step(self, numbers: Any) -> None:
        first, second = (torch.stack([self._view(number) for number in numbers]) for _ in range(2))
        with torch.no_grad():
            rows = [self._encoder(view.to(memory_format=torch.channels_last)) for view in (first, second)]
        labels = torch.from_numpy(self._dataset.label[numbers].astype(np.int64))
        loss = reference_loss(self._head, self._setting, rows[0], rows[1], labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()

    def _view(self, number: int) -> torch.Tensor:
        return self._transform(Image.open(io.BytesIO(self._reader.read(int(number)))).convert("RGB"))


@dataclass(frozen=True)
class Round:
    """Costs of one epoch of the reference, and of ours."""

    epochs: tuple[Cost, Cost]
    extraction: Cost
    head: Cost
    head_one_view: Cost


class Ours:
    """Extraction once, then the head."""

    def __init__(self, setting: HeadSetting, plan: ExtractionPlan, photos: int) -> None:
        self._setting, self._plan = setting, plan
        self._item = WorkItem(SPLIT, "shard-000000", photos, (0,))

    def extract(self) -> None:
        """Features of all views."""
        with Extractor(self._plan) as extractor:
            done = extractor.extract(self._item)
        if done.failures:
            raise RuntimeError(done.failures[0])

    def tune(self, views: int = VIEWS) -> None:
        """The head, from the files of features."""
        features = read_split(Path(self._plan.encoders[0].attempt), SPLIT)
        assert features.views is not None
        fitted = fit(self._setting, features.views[:views], features.labels, key_hashes(features.keys), seed=0)
        if fitted.diverged:
            raise RuntimeError("the fit diverged")


def one_round(reference: Reference, ours: Ours) -> Round:
    """Everything once; the parts of the two in turns."""
    first = timed(reference.epoch)
    extraction = timed(ours.extract)
    second = timed(reference.epoch)
    return Round((first, second), extraction, timed(ours.tune), timed(lambda: ours.tune(1)))


@dataclass(frozen=True)
class Millis:
    """CPU of an image and epoch, in ms: of the reference, of ours with so many views cached."""

    reference: float
    head: float
    head_one_view: float
    view: float  # its extraction, once

    def ours(self, views: int) -> float:
        """The head, and the extraction's share."""
        return (self.head_one_view if views == 1 else self.head) + views * self.view / EPOCHS

    def gain(self, views: int) -> float:
        """How many times less ours is."""
        return self.reference / self.ours(views)


def millis(found: Round, photos: int) -> Millis:
    """Of one round: a step takes full batches alone, so fewer images than are extracted."""
    seen = photos // BATCH * BATCH
    return Millis(
        reference=1000 * sum(cost.cpu for cost in found.epochs) / (len(found.epochs) * seen),
        head=1000 * found.head.cpu / (EPOCHS * seen),
        head_one_view=1000 * found.head_one_view.cpu / (EPOCHS * seen),
        view=1000 * found.extraction.cpu / (VIEWS * photos),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(2, 1), photos=(200, 64)), arguments)
    torch.set_num_threads(1)
    images = one_shard(options.data, options.photos)
    small = {"name": "small_resnet", "width": 4, "size": 32}
    settings = EncoderSettings.model_validate(small if options.quick else {"name": "torchvision:resnet50"})
    setting = head_setting("nmtune", "official", batch=BATCH, epochs=EPOCHS)
    assert isinstance(setting, NMTune)
    work = Path(mkdtemp(prefix="tuning-", dir=options.data))
    try:
        encoder = encoder_at(work / "encoder", settings, images)
        extract = {"batch": BATCH, "views": VIEWS, "augmentation": CROPS, "dtype": "float16"}
        ours = Ours(setting, plan_of(images, work / "encoder", work / "features", extract), options.photos)
        reference = Reference(setting, encoder, images)
        rounds = [one_round(reference, ours) for _ in range(options.rounds)]
    finally:
        shutil.rmtree(work)
    report(options.out, rounds, options.photos)


def report(out: Path, rounds: Sequence[Round], photos: int) -> None:
    """Write table and goals."""
    each = [millis(one, photos) for one in rounds]
    gain = {views: median([one.gain(views) for one in each]) for views in (1, 2, 4, 8, 2 * EPOCHS)}
    rows = [["the encoder at every step", number(median([one.reference for one in each])), "1"]]
    for views, times in gain.items():
        name = f"{views} views cached" if views < 2 * EPOCHS else f"{views} views: two new ones for every epoch"
        name = name.replace("1 views", "1 view")
        rows.append([name, number(median([one.ours(views) for one in each])), number(times)])
    parts = (
        f"Ours: {number(median([one.view for one in each]))} ms for the extraction of a view, once;"
        f" {number(median([one.head for one in each]))} ms for the head, each epoch"
        f" ({number(median([one.head_one_view for one in each]))} where one view is all there is). Two views were"
        f" extracted; the rows of other numbers follow from what a view costs. The last row is our code with nothing"
        f" cached. Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    )
    goals = [Goal(f"CPU of an image and epoch, the reference's over ours, {VIEWS} views cached", gain[VIEWS], GOAL)]
    head = [f"NMTune, {EPOCHS} epochs", "ms of CPU for an image and epoch", "times less"]
    figures = {"rounds": [asdict(one) for one in rounds], "millis": [asdict(one) for one in each], "gain": gain}
    save(NAME, out, figures, [table(head, rows), parts], goals)


if __name__ == "__main__":
    main()
