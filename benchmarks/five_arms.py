"""Five noise arms that share a decoded stream in one worker, against five separate runs: images x arms a second.

    .venv/bin/python benchmarks/five_arms.py    about five minutes; writes results/five_arms.json and .md

3000 photographs of 500x375, random crops of 32x32, a small ResNet: decoding is most of the work, as it is for a GPU
that is fed by few cores. One epoch, in this process, one thread that computes and one that decodes; whole runs are
measured, from the opening of the data to the exported encoders. A third figure is decoding alone: the loader run
through the same steps. Every arm's encoder, classifier, curves and feeding log must have the same bytes in both.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import torch

from benchmarks.measure import Cost, Goal, interleaved, median, parsed, parser, ratio, save, spread, table, timed
from benchmarks.photos import photo_set
from benchmarks.training import group_plan
from nml_ray.data.dataset import Dataset
from nml_ray.data.loader import Loader, LoaderPlan
from nml_ray.data.schedule import Schedule
from nml_ray.pretrain.config import PretrainSettings
from nml_ray.pretrain.loop import train_group
from nml_ray.pretrain.plan import GroupPlan
from nml_ray.pretrain.world import World

NAME = "five_arms"
RATIOS = ("0", "0.05", "0.1", "0.2", "0.3")
SIZE = 32


def recipe(batch: int) -> dict[str, object]:
    """A small ResNet on small crops."""
    return {
        "encoder": {"name": "small_resnet", "width": 4, "channels": 3, "size": SIZE},
        "augmentation": {"kind": "resized_crop"},
        "epochs": 1,
        "batch": batch,
        "optimiser": {"learning_rate": 0.01},
    }


def train(plan: GroupPlan) -> None:
    """One run of ours, in this process."""
    for outcome in train_group(plan, World(), lambda done, total, unit: None):
        if outcome.error:
            raise RuntimeError(outcome.error)


class Runs:
    """Shared and separate runs below a directory; the newest plans are kept for the comparison of their bits."""

    def __init__(self, directory: Path, photos: Path, batch: int) -> None:
        self._directory, self._photos, self._batch = directory, photos, batch
        self.together = self.alone = self._plan("unused")

    def _plan(self, name: str) -> GroupPlan:
        shutil.rmtree(self._directory / name, ignore_errors=True)
        return group_plan(self._directory / name, self._photos, RATIOS, recipe(self._batch))

    def shared(self) -> Cost:
        """All arms in one run."""
        self.together = self._plan("shared")
        return timed(partial(train, self.together))

    def separate(self) -> Cost:
        """One run after another, each with one arm."""
        self.alone = self._plan("separate")
        plans = [replace(self.alone, arms=(arm,)) for arm in self.alone.arms]

        def all_of_them() -> None:
            for plan in plans:
                train(plan)

        return timed(all_of_them)

    def decoding(self) -> Cost:
        """The loader alone, through the steps of one run."""
        settings = PretrainSettings.model_validate(recipe(self._batch))

        def through() -> None:
            dataset = Dataset.open(self._photos)
            schedule = Schedule(dataset, settings.order, 0, settings.batch, settings.microbatch, 1, 1)
            plan = LoaderPlan(0, schedule.microbatch, 3, SIZE, settings.augmentation, schedule.batch)
            loader = Loader(dataset, plan)
            for _ in loader.steps(0, schedule.steps_per_epoch):
                pass

        return timed(through)


def same_bytes(shared: GroupPlan, separate: GroupPlan) -> list[str]:
    """What was compared, of every arm.

    Raises:
        RuntimeError: a file differs.
    """
    compared = []
    for one, other in zip(shared.arms, separate.arms, strict=True):
        left, right = Path(one.attempt), Path(other.attempt)
        names = ["encoder.safetensors", "head.safetensors", "curves.parquet"]
        names += sorted(str(file.relative_to(left)) for file in (left / "fed").glob("*.arrow"))
        for name in names:
            if (left / name).read_bytes() != (right / name).read_bytes():
                raise RuntimeError(f"{name} of arm {one.name} differs between the shared run and the run alone")
            compared.append(f"{one.name}/{name}")
    return compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(7, 1), photos=(3000, 48)), arguments)
    batch = 24 if options.quick else 250
    photos, directory = photo_set(options.data, options.photos), Path(mkdtemp(dir=options.data))
    threads = torch.get_num_threads()
    try:
        runs = Runs(directory, photos, batch)
        arms: dict[str, Callable[[], Cost]] = {
            "five in one worker": runs.shared,
            "five separate runs": runs.separate,
            "decoding alone, once": runs.decoding,
        }
        costs = {name: values[1:] for name, values in interleaved(arms, options.rounds + 1).items()}  # the first warms
        compared = same_bytes(runs.together, runs.alone)
    finally:
        shutil.rmtree(directory)
        torch.set_num_threads(threads)
    report(options.out, costs, compared, len(RATIOS) * (options.photos // batch * batch))


def report(out: Path, costs: dict[str, list[Cost]], compared: list[str], images: int) -> None:
    """Write table and goals; `images` are images x arms of a run."""
    cpu = {name: [cost.cpu for cost in values] for name, values in costs.items()}
    seconds = {name: [cost.seconds for cost in values] for name, values in costs.items()}
    shared, separate, decoding = costs
    times = {
        "CPU-second": ratio(cpu[separate], cpu[shared]),
        "second": ratio(seconds[separate], seconds[shared]),
    }
    share = median([len(RATIOS) * one / all_ for one, all_ in zip(cpu[decoding], cpu[separate], strict=True)])
    rows = [
        [
            name,
            spread([images / value for value in cpu[name]]),
            spread([images / value for value in seconds[name]]),
        ]
        for name in (shared, separate)
    ]
    head = ["images x arms", "a CPU-second: median (lowest..highest)", "a second on the clock"]
    facts = (
        f"Decoding alone takes {share:.0%} of the CPU time of a separate run. Load of the machine at the end:"
        f" {os.getloadavg()[0]:.1f}. {len(compared)} files of the arms (encoder, classifier, curves, feeding log) have"
        " the same bytes in the shared run and alone."
    )
    goals = [
        Goal(f"images x arms a {unit}, five in one worker over five separate runs", value, 3)
        for unit, value in times.items()
    ]
    figures = {
        "rounds": {name: [asdict(cost) for cost in values] for name, values in costs.items()},
        "decoding_share": share,
        "same_bytes": compared,
    }
    save(NAME, out, figures, [table(head, rows), facts], goals)


if __name__ == "__main__":
    main()
