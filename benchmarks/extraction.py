"""Extraction on a CPU, from JPEG shards to files of features and sums, against the bare forward pass.

    .venv/bin/python benchmarks/extraction.py    two minutes on quiet cores; writes results/extraction.json and .md

ResNet-50 at 224 px on one thread, photographs of 500x375 in one shard, batches of 64. Extraction is what the extract
stage does with a shard: read, decode, resize and crop on one more thread, normalise, forward, write the features and
their running sums. The bare pass sends the same images through the same encoder from batches that are decoded and
normalised already. Both in turns, in this process. CPU-seconds count the decoding thread too, so their ratio is what a
single core would give; on the clock the decoding hides behind the forward pass where it has a core of its own.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp

import torch

from benchmarks.extracting import SPLIT, encoder_at, one_shard, plan_of, ready
from benchmarks.measure import Cost, Goal, interleaved, parsed, parser, ratio, save, spread, table, timed
from nml_ray.features.extract import Extractor
from nml_ray.features.plan import WorkItem
from nml_ray.models.config import EncoderSettings
from nml_ray.models.device import Precision, autocast
from nml_ray.models.encoder import Encoder

NAME = "extraction"
GOAL = 0.85
PASS, OURS = "bare forward pass", "extraction"

Costs = dict[str, list[Cost]]


def bare(encoder: Encoder, batches: Sequence[torch.Tensor], precision: Precision) -> Cost:
    """The forward pass over batches that are ready."""

    def passes() -> None:
        with torch.inference_mode(), autocast(precision, torch.device("cpu")):
            for batch in batches:
                encoder(batch)

    return timed(passes)


def measure(work: Path, images: Path, encoder: Encoder, precision: Precision, batch: int, rounds: int) -> Costs:
    """Costs of both by round, after a batch that warms."""
    batches = ready(encoder, images, batch)
    settings = {"batch": batch, "precision": precision, "dtype": "float16"}
    plan = plan_of(images, work / "encoder", work / precision, settings)
    item = WorkItem(SPLIT, "shard-000000", sum(len(one) for one in batches), (0,))
    bare(encoder, batches[:1], precision)
    with Extractor(plan) as extractor:
        arms = {
            PASS: lambda: bare(encoder, batches, precision),
            OURS: lambda: timed(lambda: extractor.extract(item)),
        }
        return interleaved(arms, rounds)


def share(costs: Costs, what: str) -> float:
    """Images that extraction does in the time (`seconds` or `cpu`) in which the bare pass does one."""
    return ratio([getattr(cost, what) for cost in costs[PASS]], [getattr(cost, what) for cost in costs[OURS]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    options = parsed(parser(__doc__, rounds=(3, 1), photos=(128, 16), batch=(64, 8)), arguments)
    torch.set_num_threads(1)
    images = one_shard(options.data, options.photos)
    small = {"name": "small_resnet", "width": 4, "size": 32}
    settings = EncoderSettings.model_validate(small if options.quick else {"name": "torchvision:resnet50"})
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    work = Path(mkdtemp(prefix="extraction-", dir=options.data))
    try:
        encoder = encoder_at(work / "encoder", settings, images)
        found = {
            precision: measure(work, images, encoder, precision, options.batch, options.rounds)
            for precision in precisions
        }
    finally:
        shutil.rmtree(work)
    report(options.out, found, options.photos)


def report(out: Path, found: dict[Precision, Costs], photos: int) -> None:
    """Write table and goals."""
    rows = [
        [
            f"{name}, {precision}",
            spread([photos / cost.cpu for cost in costs[name]]),
            f"{share(costs, 'cpu'):.1%}" if name == OURS else "",
            spread([photos / cost.seconds for cost in costs[name]]),
            f"{share(costs, 'seconds'):.1%}" if name == OURS else "",
        ]
        for precision, costs in found.items()
        for name in (PASS, OURS)
    ]
    goals = [
        Goal(f"images a CPU-second, extraction over its forward pass, {precision}", share(costs, "cpu"), GOAL)
        for precision, costs in found.items()
    ]
    figures = {
        precision: {name: [asdict(cost) for cost in values] for name, values in costs.items()}
        for precision, costs in found.items()
    }
    unit = "median (lowest..highest)"
    head = ["ResNet-50, 224 px", f"images a CPU-second: {unit}", "share", "images a second on the clock", "share"]
    words = f"Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    save(NAME, out, {"rounds": figures}, [table(head, rows), words], goals)


if __name__ == "__main__":
    main()
