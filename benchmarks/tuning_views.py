"""What NMTune's accuracy depends on the number of cached views, on the icons that ship with the package.

    .venv/bin/python benchmarks/tuning_views.py    six minutes on a quiet core; writes results/tuning_views.json and .md

The demo's encoder (a small ResNet, pre-trained on 14,600 icons of 120 classes, 10 % of the labels wrong) is frozen, and
the preset `official` with pairs of views fitted for 30 epochs to 2,408 icons of 40 other classes, then tested in and
out of domain. The views are the published implementation's: random crops of 80 to 100 % of the area, mirrored half of
the time; as everywhere in this package the first of the cached ones is the plain image. With one view a step takes the
plain images alone. At the other end each epoch takes two views that no other epoch takes, as if the encoder ran at
every step. Every head seed draws its own order, pairs and views; differences are paired by seed.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.five_arms import train
from benchmarks.measure import number, parsed, parser, save, table, timed
from benchmarks.training import ICONS, group_plan, icons
from nml_ray.data.draw import key_hashes
from nml_ray.data.icons import source
from nml_ray.data.shards import write_shards
from nml_ray.features.extract import extract_all
from nml_ray.features.plan import EncoderPlan, ExtractionPlan, all_items
from nml_ray.features.store import Features, read_split
from nml_ray.heads.config import HeadSetting, head_setting
from nml_ray.heads.fit import Epoch, fit, optimise, targets_of
from nml_ray.heads.fitted import FittedHead
from nml_ray.heads.modules import new_head
from nml_ray.heads.order import epoch_rows
from nml_ray.heads.threads import single_thread
from nml_ray.study.stages.shards import samples

NAME = "tuning_views"
EPOCHS, BATCH = 30, 64
CACHED = (1, 2, 4, 8)
ANEW = 2 * EPOCHS
TESTS = {"test": "in domain", "ood": "out of domain"}
RATIO = "0.1"
CROPS = {"kind": "resized_crop", "scale": [0.8, 1.0]}


def pretrained(data: Path, quick: bool) -> Path:
    """The directory of the encoder, trained if it is not there."""
    directory = data / f"icons-encoder{'-quick' * quick}"
    if not (directory / "encoder.json").exists():
        recipe = {"encoder": ICONS, "epochs": 5, "batch": 256, "optimiser": {"learning_rate": 0.01}}
        if quick:
            recipe |= {"encoder": {**ICONS, "width": 4}, "epochs": 1}
        work = Path(mkdtemp(dir=data))
        try:
            plan = group_plan(work, icons(data, quick), [RATIO], recipe)
            train(plan)
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for name in ("encoder.safetensors", "encoder.json"):
                shutil.copy(Path(plan.arms[0].attempt) / name, directory / name)
        finally:
            shutil.rmtree(work)
    return directory


def images(directory: Path, quick: bool) -> None:
    """The downstream icons as shards; with `quick` every eighth."""
    for split in ("train", *TESTS):
        chosen = [sample for place, sample in enumerate(samples(split)) if not quick or place % 8 == 0]
        write_shards(chosen, directory / split, samples_per_shard=len(chosen), classes=source.classes(split))


def extracted(work: Path, encoder: Path, quick: bool) -> dict[str, Features]:
    """The features of every split; of the training icons 60 augmented views after the plain one."""
    images(work / "images", quick)
    attempt = work / "features"
    attempt.mkdir()
    settings = {"views": 1 + ANEW, "augmentation": CROPS, "batch": 64, "splits": ["train", *TESTS]}
    plan = ExtractionPlan(
        str(work / "images"), settings, ("raw",), (EncoderPlan("encoder", str(encoder), str(attempt)),)
    )
    done = extract_all(plan, all_items(plan), lambda count: None)
    if failures := [why for shard in done for why in shard.failures.values()]:
        raise RuntimeError(failures[0])
    return {split: read_split(attempt, split) for split in ("train", *TESTS)}


def cached(setting: HeadSetting, train: Features, count: int, seed: int) -> FittedHead:
    """A fit to the plain view and `count` - 1 others, which no other seed has."""
    assert train.views is not None
    chosen = [0, *range(1 + seed * (count - 1), 1 + (seed + 1) * (count - 1))]
    return fit(setting, train.views[chosen], train.labels, key_hashes(train.keys), seed)


def anew(setting: HeadSetting, train: Features, seed: int) -> FittedHead:
    """A fit that takes two new augmented views of every icon in every epoch; in another order with another seed."""
    assert train.views is not None
    classes, targets, _ = targets_of(setting, train.labels)
    hashes, batch = key_hashes(train.keys), min(setting.batch, len(targets))
    places = np.random.default_rng(seed).permutation(np.arange(1, 1 + 2 * setting.epochs))
    with single_thread():
        head = new_head(setting, train.views.shape[2], len(classes), seed)
        fitted = FittedHead(setting, classes, head, None, None, ())
        views = fitted.prepare(train.views)

        def epochs() -> Iterator[Epoch]:
            for epoch in range(setting.epochs):
                rows = epoch_rows(hashes, seed, epoch, batch)
                first, second = places[2 * epoch : 2 * epoch + 2]
                yield Epoch(views[first][rows], views[second][rows], targets[rows])

        optimise(head, setting, epochs(), batch, len(targets) // batch)
        head.eval()
    return fitted


Accuracies = dict[str, dict[str, list[float]]]
"""By number of views and test set, one a seed, in percent."""


def measure(setting: HeadSetting, features: dict[str, Features], seeds: int) -> Accuracies:
    """Fit with every number of views and every seed."""
    train = features["train"]
    found: Accuracies = {str(views): {split: [] for split in TESTS} for views in (*CACHED, ANEW)}
    for seed in range(seeds):
        for views in (*CACHED, ANEW):
            fitted = anew(setting, train, seed) if views == ANEW else cached(setting, train, views, seed)
            for split in TESTS:
                right = fitted.predict(features[split].values) == features[split].labels
                found[str(views)][split].append(100 * float(right.mean()))
    return found


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Spread":
        """Of one value a seed; the error of a single one is not known, and NaN."""
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return cls(float(values.mean()), float(error))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def sampling_error(percent: Sequence[float], count: int) -> float:
    """Of a mean accuracy on so many images, in percent."""
    share = float(np.mean(percent)) / 100
    return 100 * float(np.sqrt(share * (1 - share) / count))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, seeds=(6, 2)), arguments)
    options.data.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    encoder = pretrained(options.data, options.quick)
    work = Path(mkdtemp(prefix="tuning-views-", dir=options.data))
    setting = head_setting("nmtune", "official", batch=BATCH, epochs=2 if options.quick else EPOCHS)
    try:
        began = time.process_time()
        features = extracted(work, encoder, options.quick)
        extraction = time.process_time() - began
        found: Accuracies = {}
        fits = timed(lambda: found.update(measure(setting, features, options.seeds)))
    finally:
        shutil.rmtree(work)
    report(options.out, found, {split: len(rows) for split, rows in features.items()}, (extraction, fits.cpu))


def report(out: Path, found: Accuracies, sizes: dict[str, int], cpu: tuple[float, float]) -> None:
    """Write the table."""
    rows = []
    for views, by_split in found.items():
        row = ["every epoch anew" if views == str(ANEW) else views]
        for split, values in by_split.items():
            apart = Spread.of(np.array(values) - found["1"][split])
            row += [str(Spread.of(np.array(values))), "" if views == "1" else f"{apart.mean:+.1f} ± {apart.error:.1f}"]
        rows.append(row)
    head = ["views cached"]
    for place in TESTS.values():
        head += [f"accuracy {place}, %", "against one view"]
    binomial = {split: sampling_error(found["1"][split], sizes[split]) for split in TESTS}
    seeds = len(found["1"]["test"])
    words = (
        f"Means over {seeds} head seeds and their standard errors; one encoder, {sizes['train']:,} icons to fit to."
        f" The test sets' own sampling error is {number(binomial['test'])} points in domain ({sizes['test']:,} icons)"
        f" and {number(binomial['ood'])} out of domain ({sizes['ood']:,}); it is shared by all rows, and mostly cancels"
        f" in their differences. CPU: {number(cpu[0])} s for {1 + ANEW} views of every training icon and the tests,"
        f" {number(cpu[1])} s for {seeds * len(found)} fits."
    )
    save(NAME, out, {"accuracies": found, "sizes": sizes}, [table(head, rows), words], [])


if __name__ == "__main__":
    main()
